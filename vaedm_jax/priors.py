"""Mode `prior`: a mixture of Gaussians in place of N(0, I), fitted to the z of the training images.

What the VAE decodes in training is drawn from q(z | x) of images, whose mixture is not quite N(0, I); an estimate of it
as the prior closes the gap (Ex-PDE of the authors' code; their paper, appendix D).
"""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.config import check, data_of
from vaedm_jax.data import load, some
from vaedm_jax.errors import UserError
from vaedm_jax.models.prior import log_prob
from vaedm_jax.reporting import Progress
from vaedm_jax.reporting.comparison import write_csv
from vaedm_jax.reporting.files import write_arrays

KINDS = ("full", "diag")  # of covariances


def fit_prior(config: ConfigDict, workdir: Path) -> None:
    """Write `prior.npz`, the mixture under which held-out z are likeliest, and `prior.csv`, which has all of them."""
    check(config, to_train=False)
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise UserError("--mode=prior needs scikit-learn: pip install '.[prior]'") from error
    model = VAEDM.open(config.sample.weights or workdir, config.sample.best)
    model.check_vae()
    data, settings = load(data_of(config, model.config)), config.prior
    train, held_out = (model.posterior(some(side, settings.images)) for side in (data.train, data.test))
    rows = [row("N(0, I)", 0, {}, train, held_out)]
    best: dict[str, Any] = {}
    tries = [(kind, k) for kind in KINDS for k in settings.components if k <= len(train) // 2]
    with Progress(len(tries), 0, "prior", noun="mixture", unit="mixtures") as progress:
        for i, (kind, k) in enumerate(tries):
            mixture = GaussianMixture(k, covariance_type=kind, reg_covar=1e-4, random_state=config.seed).fit(train)
            params = params_of(mixture)
            rows.append(row(kind, k, params, train, held_out))
            if rows[-1]["held_out"] == max(r["held_out"] for r in rows):
                best = params
            progress.update(i + 1)
    write_csv(workdir / "prior.csv", rows)
    for r in rows:
        print(f"{r['kind']:8} of {r['components']:3}: {r['train']:9.2f} of training, {r['held_out']:9.2f} held out")
    if not best:
        raise UserError("no mixture makes the held-out z likelier than N(0, I) does; none is written")
    write_arrays(workdir / "prior.npz", best | {"vae": np.array(model.vae_digest)})
    print(f"nats a z; the best: {workdir / 'prior.npz'}, for --config.sample.prior={workdir / 'prior.npz'}", flush=True)


def params_of(mixture: Any) -> dict[str, np.ndarray]:
    """A fitted mixture of scikit-learn as the parameters of `models.prior`."""
    covariances = mixture.covariances_
    if covariances.ndim == 2:
        covariances = np.stack([np.diag(variances) for variances in covariances])
    arrays = {"logits": np.log(mixture.weights_), "means": mixture.means_, "factors": np.linalg.cholesky(covariances)}
    return {name: np.float32(a) for name, a in arrays.items()}


def row(kind: str, components: int, params: dict[str, Any], train: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Mean log densities."""
    sides = {"train": train, "held_out": held_out}
    means = {name: float(np.mean(log_prob(params, z))) for name, z in sides.items()}
    return {"kind": kind, "components": components, **means}
