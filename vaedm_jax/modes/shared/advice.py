"""Advice on a refiner that has not learnt enough for the chain that it is sampled with."""

import re
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.schedule import make_schedule
from vaedm_jax.reporting import read_metrics

OF_X_HAT, BY_T = "held_out_x_hat_error", re.compile(r"held_out_x_0_error_t(\d+)_(\d+)")


def advise(folder: Path, ddpm: ConfigDict, chain: Chain) -> None:
    """Print a note if the refiner's clean images are no better than what x_hat gives without a network.

    They are compared with a linear filter: x_hat plus a share of what u_t has beside it, the best share for errors of
    x_hat that are independent from pixel to pixel. It is x_hat itself where there is much noise. Nothing is said of
    ranges of t that the chain does not pass, and nothing if training has not written the errors.

    Args:
      folder: the folder of the stage, with the metrics of training.
      ddpm: the settings of the stage.
    """
    figures = next((line for line in reversed(read_metrics(folder)) if OF_X_HAT in line), {})
    first = chain.t_start if chain.start == "warm" and chain.t_start else ddpm.T - 1
    if ddpm.prediction == "eps":
        # Above, an error of eps is many times as large in the clean image, also of a refiner that has learnt enough.
        first = min(first, ddpm.T // 2 - 1)
    sigma = np.exp(-make_schedule(ddpm).log_snr)
    matched = (BY_T.fullmatch(name) for name in figures)
    for low, high, error in sorted((*map(int, of.groups()), figures[of[0]]) for of in matched if of):
        noise = sigma[low : high + 1] ** 2
        without = float(np.mean(noise * figures[OF_X_HAT] / (noise + figures[OF_X_HAT])))
        if low <= first and error > without:
            print(
                f"note: the refiner has not learnt enough. For t from {low} to {high}, the mean squared error of its "
                f"clean images is {error:.2g}, and {without:.2g} without a network (held-out images in [-1, 1])",
                flush=True,
            )
            nearer = f", or begin nearer to x_hat: --config.sample.start=warm --config.sample.t_start={low - 1}"
            print(f"Train it for longer{nearer if low else ''}", flush=True)
            return
