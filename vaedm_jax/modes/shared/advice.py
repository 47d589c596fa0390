"""Advice on a chain, and on a refiner that has not learnt enough for its chain."""

import re
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.schedule import make_schedule
from vaedm_jax.errors import UserError
from vaedm_jax.reporting import read_metrics

OF_X_HAT, BY_T = "held_out_x_hat_error", re.compile(r"held_out_x_0_error_t(\d+)_(\d+)")


def advise_spacing(chain: Chain) -> None:
    """Print a note if `heun` takes a few even steps from noise: its first step leads far down (docs/samplers.md)."""
    if (chain.sampler, chain.start, chain.spacing) == ("heun", "noise", "even") and chain.steps < 50:
        print(
            f"note: {chain.steps} even steps of heun give grainy images; take --config.sample.spacing=karras",
            flush=True,
        )


def advise(folder: Path, ddpm: ConfigDict, chain: Chain) -> None:
    """Print a note if the refiner's clean images are no better than what x_hat gives without a network.

    They are compared with a linear filter: x_hat plus a fixed share of u_t / a - x_hat, the best share for errors of
    x_hat that are independent from pixel to pixel. Where there is much noise, this is x_hat itself.

    Nothing is said of ranges of t that the chain does not pass, of a warm start whose t_start is not known yet, of
    refiners that are tuned for consistency, whose clean images are samples, and if training has not written the errors.

    Args:
      folder: the folder of the stage, with the metrics of training.
      ddpm: the settings of the stage.
    """
    if ddpm.objective == "consistency" or (chain.start == "warm" and not chain.t_start):
        return
    try:
        lines = read_metrics(folder)
    except UserError as error:  # the images do not depend on it
        print(f"note: {error}", flush=True)
        return
    figures = next((line for line in reversed(lines) if OF_X_HAT in line), {})
    schedule = make_schedule(ddpm)
    first = chain.schedule(schedule).t[-1]
    if ddpm.prediction == "eps":
        # Above, an error of eps is many times as large in the clean image, also of a refiner that has learnt enough.
        first = min(first, ddpm.T // 2 - 1)
    sigma = np.exp(-schedule.log_snr)
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
