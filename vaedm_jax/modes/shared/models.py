"""Opening the model that a command is about, and the images that it was trained on."""

from pathlib import Path

from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.config import data_section
from vaedm_jax.data import Dataset, load
from vaedm_jax.runs.identity import refuse_other_images


def open_model(config: ConfigDict, name: str | Path) -> VAEDM:
    """Return the model of `sample.weights`, else of a name, with the settings of `configured`.

    Args:
      name: a run directory, a file of weights, or weights of the package.
    """
    return configured(VAEDM.open(config.sample.weights or name, config.sample.best), config)


def configured(model: VAEDM, config: ConfigDict) -> VAEDM:
    """Return a model with the precision (`*.precision`), `sample.prior` and `sample.tables` of a configuration."""
    model = model.with_precision(config.vae.precision, config.ddpm.precision)
    model = model.with_prior(config.sample.prior) if config.sample.prior else model
    return model.with_tables(config.sample.tables) if config.sample.tables else model


def load_training_images(config: ConfigDict, *models: VAEDM) -> Dataset:
    """Load the images that models were trained on, from `data.path` of `config` if it is set.

    Models that do not record their images, such as older files of weights, are not checked.

    Raises:
      UserError: the images are not those that a model was trained on, unless `data.changed` allows it.
    """
    data = load(data_section(config, models[0].config))
    known = {f"model {i} of {len(models)}": model.images for i, model in enumerate(models, 1) if model.images}
    if known:
        seen = data.identity
        for who, images in known.items():
            refuse_other_images(who if len(models) > 1 else "the model", images, seen, config.data.changed)
    return data
