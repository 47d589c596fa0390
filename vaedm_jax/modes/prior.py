"""Mode `prior`: a mixture of Gaussians or a flow, fitted to the z of the training images, replaces N(0, I).

In training, the VAE decodes z from q(z | x) of images. The mixture of these q is not exactly N(0, I). A prior that
estimates it closes the gap (Ex-PDE of the authors' code; their paper names flows).
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.config import names
from vaedm_jax.config.checks import check
from vaedm_jax.data import some
from vaedm_jax.errors import UserError, check_choice
from vaedm_jax.models.flow import LAYERS, init_flow
from vaedm_jax.models.prior import log_prob
from vaedm_jax.modes.shared.models import load_training_images
from vaedm_jax.reporting import Progress
from vaedm_jax.runtime.memory import check_fits
from vaedm_jax.sampling.generation import posteriors
from vaedm_jax.storage.writing import set_aside, write_arrays, write_csv

KINDS = ("full", "diag", "flow")
RIDGE = 1e-4  # added to variances
DRAWS = 8  # z that are drawn for each image
CHUNK, ENCODED = 1024, 64  # images or z that are converted or scored at a time, and images that are encoded at a time
MOST = 2**16  # z that a mixture is fitted to, or as many as there are images if these are more
LEAST = 0.01  # nats of KL(q(z | x) || N(0, I)), the mean over the images, above which a latent is used
# For the flow: z in a step; steps between evaluations on held-out z; the learning rate of Adam.
BATCH, LOOK, RATE = 256, 100, 1e-3


def fit_prior(config: ConfigDict, workdir: Path) -> None:
    """Write `prior.npz`, the prior with the highest held-out likelihood, and `prior.csv`, the scores of all."""
    check(config, to_train=False)
    settings = config.prior
    kinds = wanted_kinds(settings)
    model = VAEDM.open(config.sample.weights or workdir, config.sample.best)
    model = model.with_precision(config.vae.precision, config.ddpm.precision)
    model.engine.check_vae()
    data = load_training_images(config, model)
    held_out = posterior_draws(model, some(data.test, settings.images), 1)[0]
    draws = posterior_draws(model, some(data.train, settings.images), DRAWS)
    used, train = used_latents(draws), draws[0]
    print(f"{len(used)} of {draws.shape[-1]} latents are used; the others stay N(0, 1)", flush=True)
    tried = candidates(kinds, settings, len(train), len(used))
    chosen = draws.reshape(-1, draws.shape[-1])[:, used]
    rows, best = [row("N(0, I)", 0, {}, train, held_out)], {}
    with Progress(len(tried), 0, "prior", noun="prior", unit="priors") as progress:
        for i, (kind, k) in enumerate(tried):
            if kind == "flow":
                params = fit_flow(chosen, held_out[:, used], settings.steps, config.seed)
            else:
                params = fit_mixture(chosen[: max(MOST, len(train))], kind, k, config.seed)
            params["used"] = np.float32(np.isin(np.arange(train.shape[1]), used))
            rows.append(row(kind, k, params, train, held_out))
            if rows[-1]["held_out"] == max(r["held_out"] for r in rows):
                best = params
            progress.update(i + 1)
    print("mean log density of z in nats, by prior and number of components (layers of a flow):")
    for r in rows:
        print(
            f"{r['kind']:8} {r['components']:3}: {r['train']:9.2f} for training z, {r['held_out']:9.2f} for held-out z"
        )
    if not best:
        raise UserError("no prior has a higher held-out likelihood than N(0, I), so prior.npz is not written")
    file = workdir / "prior.npz"
    set_aside(file, workdir / "prior.csv")
    write_csv(workdir / "prior.csv", rows)
    write_arrays(file, best | {"vae": np.array(model.engine.vae_digest)})
    print(f"wrote the best prior; use it with --config.sample.prior={file}", flush=True)


def wanted_kinds(settings: ConfigDict) -> list[str]:
    """Return the kinds of `prior.kinds`; raise UserError if there is none, or one is unknown or cannot be fitted."""
    kinds = names(settings.kinds)
    for kind in kinds:
        check_choice("prior.kinds", kind, KINDS)
    if not kinds:
        raise UserError(f"prior.kinds = {settings.kinds!r}: give one or more of {', '.join(KINDS)}")
    if set(kinds) - {"flow"}:
        mixtures()
    return kinds


def candidates(kinds: list[str], settings: ConfigDict, images: int, latents: int) -> list[tuple[str, int]]:
    """Return the priors to fit, each as its kind and its number of components (layers of a flow).

    Args:
      images: the number of training images. A mixture has at most half as many components.
      latents: the number of latents that are used.

    Raises:
      UserError: there is none, or the largest does not fit in memory.
    """
    counts = [k for k in settings.components if k <= images // 2]
    most = max(counts, default=0)
    check_fits(f"prior.components = {most}, each with a covariance matrix", 8 * most * latents**2)
    found = [(kind, k) for kind in kinds for k in ((LAYERS,) if kind == "flow" else counts)]
    if not found:
        raise UserError(
            f"prior.components = {tuple(settings.components)}: none is at most {images // 2}, half of the training "
            "images that prior.images allows, so there is no mixture to fit; give a smaller number, or "
            "--config.prior.kinds=flow"
        )
    return found


def posterior_draws(model: VAEDM, images: np.ndarray, draws: int) -> np.ndarray:
    """Return z of q(z | x) for each image, [draws, N, D]. The noise of draw k of image i has the index k N + i.

    Args:
      images: [N, H, W, C].
    """
    engine, N, found = model.engine, len(images), []
    key = engine.replicate(np.uint32(0))

    def of_batch(batch: tuple[Any, Any]) -> Any:
        return posteriors(engine.networks, engine.params, batch[0], key, batch[1])

    with Progress(N, 0, "prior: encoding", noun="image") as progress:
        for begin in range(0, N, CHUNK):
            x = engine.check_images(images[begin : begin + CHUNK], "images")
            indices = np.arange(draws) * N + np.arange(begin, begin + len(x))[:, None]
            found.append(engine.map_batches(of_batch, (x, indices), ENCODED))
            progress.update(begin + len(x))
    return np.concatenate(found).swapaxes(0, 1)


def used_latents(draws: np.ndarray) -> np.ndarray:
    """Return the indices of the latents that are used. The others are N(0, 1) for every image.

    The KL divergence of a latent is computed for Gaussians with the mean variance of q(z | x).

    Args:
      draws: [K, N, D], K z from q(z | x) for each of N images.

    Raises:
      UserError: no latent is used.
    """
    mean, variance, within = draws.mean((0, 1)), draws.var((0, 1)), draws.var(0, ddof=1).mean(0)
    used = np.flatnonzero(0.5 * (mean**2 + variance - 1 - np.log(within)) > LEAST)
    if not used.size:
        raise UserError(
            "this VAE uses none of its latents, so N(0, I) fits; a VAE with a lower vae.kl_weight may use some"
        )
    return used


def mixtures() -> Any:
    """Return the class for mixtures of scikit-learn; raise UserError if it is not installed."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise UserError(
            "mixtures need scikit-learn; install it with pip install scikit-learn, or use --config.prior.kinds=flow"
        ) from error
    return GaussianMixture


def fit_mixture(z: np.ndarray, kind: str, components: int, seed: int) -> dict[str, np.ndarray]:
    """Fit a mixture to z [N, D] with scikit-learn, and return the parameters that `models.prior` takes."""
    mixture = mixtures()(components, covariance_type=kind, reg_covar=RIDGE, random_state=seed).fit(z)
    covariances = mixture.covariances_
    if kind == "diag":
        covariances = np.stack([np.diag(variances) for variances in covariances])
    arrays = {"logits": np.log(mixture.weights_), "means": mixture.means_, "factors": np.linalg.cholesky(covariances)}
    return {name: np.float32(a) for name, a in arrays.items()}


def fit_flow(z: np.ndarray, held_out: np.ndarray, steps: int, seed: int) -> dict[str, np.ndarray]:
    """Train a flow on z [N, D], and return its parameters at the step with the highest held-out likelihood."""
    covariance = np.cov(z.T) + RIDGE * np.eye(z.shape[1])
    key, start = jax.random.split(jax.random.key(seed))
    params = init_flow(start, np.float32(z.mean(0)), np.float32(np.linalg.cholesky(covariance)))
    adam = optax.adam(RATE)

    def loss(params: Any, z: jax.Array, key: jax.Array) -> jax.Array:
        return -log_prob(params, z[jax.random.randint(key, (BATCH,), 0, len(z))]).mean()

    @jax.jit
    def advance(params: Any, state: Any, z: jax.Array, keys: jax.Array) -> tuple[Any, Any]:
        def step(both: Any, key: jax.Array) -> tuple[Any, None]:
            updates, state = adam.update(jax.grad(loss)(both[0], z, key), both[1])
            return (optax.apply_updates(both[0], updates), state), None

        return jax.lax.scan(step, (params, state), keys)[0]

    z, state, best, highest = jax.numpy.asarray(z), adam.init(params), params, -np.inf
    for done in range(0, steps, LOOK):
        keys = jax.random.split(jax.random.fold_in(key, done), min(LOOK, steps - done))
        params, state = advance(params, state, z, keys)
        if (reached := float(log_prob(params, held_out).mean())) > highest:
            best, highest = params, reached
    return {name: np.asarray(a) for name, a in best.items()}


def row(kind: str, components: int, params: dict[str, Any], train: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Return a row of `prior.csv`: the mean log densities of training and held-out z under a prior."""
    sides = {"train": train, "held_out": held_out}
    means = {name: mean_log_density(params, z) for name, z in sides.items()}
    return {"kind": kind, "components": components, **means}


def mean_log_density(params: dict[str, Any], z: np.ndarray) -> float:
    """Return the mean log density of z [N, D]. CHUNK of them are in memory at a time, once for each component."""
    parts = [log_prob(params, z[begin : begin + CHUNK]) for begin in range(0, len(z), CHUNK)]
    return float(np.mean(np.concatenate(parts)))
