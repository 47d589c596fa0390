"""Opening the model that a command is about."""

from pathlib import Path

from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM


def open_model(config: ConfigDict, name: str | Path) -> VAEDM:
    """Return the model of `sample.weights`, else of a name, with the precision and the prior of the configuration.

    Args:
      name: a run directory, a file of weights, or weights of the package.
    """
    return configured(VAEDM.open(config.sample.weights or name, config.sample.best), config)


def configured(model: VAEDM, config: ConfigDict) -> VAEDM:
    """Return a model with the precision (`*.precision`) and the prior (`sample.prior`) of a configuration."""
    model = model.with_precision(config.vae.precision, config.ddpm.precision)
    return model.with_prior(config.sample.prior) if config.sample.prior else model
