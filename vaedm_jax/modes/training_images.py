"""Load the images that a model was trained on, to compare with them, encode them or measure them."""

from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.config import data_section
from vaedm_jax.data import Dataset, load
from vaedm_jax.runs.identity import refuse_other_images


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
