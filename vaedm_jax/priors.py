"""Mode `prior`: a mixture of Gaussians or a flow in place of N(0, I), fitted to the z of the training images.

What the VAE decodes in training is drawn from q(z | x) of images, whose mixture is not quite N(0, I); an estimate of it
as the prior closes the gap (Ex-PDE of the authors' code; their paper names flows).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.config import check, data_of
from vaedm_jax.data import load, some
from vaedm_jax.errors import UserError, one_of
from vaedm_jax.evaluation.judge import names
from vaedm_jax.models.flow import LAYERS, init_flow
from vaedm_jax.models.prior import log_prob
from vaedm_jax.reporting import Progress
from vaedm_jax.reporting.comparison import write_csv
from vaedm_jax.reporting.files import write_arrays

KINDS = ("full", "diag", "flow")
BATCH, LOOK, RATE = 256, 100, 1e-3  # of the flow: z a step, steps between two looks at the held-out ones, Adam's rate
Moments = tuple[np.ndarray, np.ndarray]


def fit_prior(config: ConfigDict, workdir: Path) -> None:
    """Write `prior.npz`, the one under which held-out z are likeliest, and `prior.csv`, which has all of them."""
    check(config, to_train=False)
    kinds, settings = names(config.prior.kinds), config.prior
    for kind in kinds:
        one_of("prior.kinds", kind, KINDS)
    model = VAEDM.open(config.sample.weights or workdir, config.sample.best)
    model.check_vae()
    if len(model.networks.vae.shapes) > 1:
        raise UserError(
            "mode 'prior' is for a VAE with one layer of latents; q(z | x) of a ladder is no normal distribution"
        )
    data = load(data_of(config, model.config))
    moments = model.moments(some(data.train, settings.images))
    train, held_out = drawn(moments), drawn(model.moments(some(data.test, settings.images)))
    rows, best = [row("N(0, I)", 0, {}, train, held_out)], {}
    counts = [k for k in settings.components if k <= len(train) // 2]
    total = sum(1 if kind == "flow" else len(counts) for kind in kinds)
    with Progress(total, 0, "prior", noun="prior", unit="priors") as progress:
        for kind, k, params in attempts(kinds, counts, config, moments, train, held_out):
            rows.append(row(kind, k, params, train, held_out))
            if rows[-1]["held_out"] == max(r["held_out"] for r in rows):
                best = params
            progress.update(len(rows) - 1)
    write_csv(workdir / "prior.csv", rows)
    for r in rows:
        print(f"{r['kind']:8} {r['components']:3}: {r['train']:9.2f} of training, {r['held_out']:9.2f} held out")
    if not best:
        raise UserError("nothing makes the held-out z likelier than N(0, I) does; none is written")
    write_arrays(workdir / "prior.npz", best | {"vae": np.array(model.vae_digest)})
    print(f"nats a z; the best: {workdir / 'prior.npz'}, for --config.sample.prior={workdir / 'prior.npz'}", flush=True)


def drawn(moments: Moments, seed: int = 0) -> np.ndarray:
    """A z of q(z | x) for each image, [N, D]."""
    mu, logvar = moments
    return np.float32(mu + np.exp(logvar / 2) * np.random.default_rng(seed).standard_normal(mu.shape))


def attempts(
    kinds: list[str], counts: list[int], config: ConfigDict, moments: Moments, train: np.ndarray, held_out: np.ndarray
) -> Iterator[tuple[str, int, dict[str, np.ndarray]]]:
    """Each kind, its number of components or layers, and its parameters."""
    for kind in kinds:
        if kind == "flow":
            yield kind, LAYERS, fit_flow(moments, held_out, config.prior.steps, config.seed)
        else:
            yield from ((kind, k, fit_mixture(train, kind, k, config.seed)) for k in counts)


def fit_mixture(z: np.ndarray, kind: str, components: int, seed: int) -> dict[str, np.ndarray]:
    """By scikit-learn, as the parameters of `models.prior`."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise UserError(
            "mixtures need scikit-learn: pip install '.[prior]'; --config.prior.kinds=flow does without"
        ) from error
    mixture = GaussianMixture(components, covariance_type=kind, reg_covar=1e-4, random_state=seed).fit(z)
    covariances = mixture.covariances_
    if kind == "diag":
        covariances = np.stack([np.diag(variances) for variances in covariances])
    arrays = {"logits": np.log(mixture.weights_), "means": mixture.means_, "factors": np.linalg.cholesky(covariances)}
    return {name: np.float32(a) for name, a in arrays.items()}


def fit_flow(moments: Moments, held_out: np.ndarray, steps: int, seed: int) -> dict[str, np.ndarray]:
    """Trained on z that are drawn anew in each step; that of the step at which held-out z were likeliest."""
    mu, logvar = moments
    covariance = np.cov(mu.T) + np.diag(np.exp(logvar).mean(0))
    key, start = jax.random.split(jax.random.key(seed))
    params = init_flow(start, np.float32(mu.mean(0)), np.float32(np.linalg.cholesky(covariance)))
    adam = optax.adam(RATE)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        chosen, noise = jax.random.split(key)
        i = jax.random.randint(chosen, (BATCH,), 0, len(mu))
        z = mu[i] + jax.numpy.exp(logvar[i] / 2) * jax.random.normal(noise, (BATCH, mu.shape[1]))
        return -log_prob(params, z).mean()

    @jax.jit
    def advance(params: Any, state: Any, keys: jax.Array) -> tuple[Any, Any]:
        def step(both: Any, key: jax.Array) -> tuple[Any, None]:
            updates, state = adam.update(jax.grad(loss)(both[0], key), both[1])
            return (optax.apply_updates(both[0], updates), state), None

        return jax.lax.scan(step, (params, state), keys)[0]

    mu, logvar = jax.numpy.asarray(mu), jax.numpy.asarray(logvar)
    state, best, highest = adam.init(params), params, -np.inf
    for number in range(max(1, steps // LOOK)):
        params, state = advance(params, state, jax.random.split(jax.random.fold_in(key, number), LOOK))
        if (reached := float(log_prob(params, held_out).mean())) > highest:
            best, highest = params, reached
    return {name: np.asarray(a) for name, a in best.items()}


def row(kind: str, components: int, params: dict[str, Any], train: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Mean log densities."""
    sides = {"train": train, "held_out": held_out}
    means = {name: float(np.mean(log_prob(params, z))) for name, z in sides.items()}
    return {"kind": kind, "components": components, **means}
