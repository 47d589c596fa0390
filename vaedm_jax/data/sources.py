"""The data sources by name: `load` opens the one that a configuration asks for.

Add a source by a file with a function that returns a `Dataset`, such as `emoji.py`, and a branch of `load`.
"""

from ml_collections import ConfigDict

from vaedm_jax.data import avatars, emoji, folder, records
from vaedm_jax.data.dataset import Dataset
from vaedm_jax.data.images import MOST_PIXELS
from vaedm_jax.errors import UserError
from vaedm_jax.storage.paths import resolve_path


def load(config: ConfigDict) -> Dataset:
    """Return the data set that the `data` section of a configuration names, at its image_size.

    Raises:
      UserError: a setting is out of range, or the data does not exist, is not prepared or cannot be read.
    """
    size, held_out = config.image_size, config.held_out
    if size < 1:
        raise UserError(f"data.image_size = {size}: must be at least 1")
    if not 0 <= held_out < 1:
        raise UserError(f"data.held_out = {held_out}: must be a share, at least 0 and below 1")
    if config.path and not records.are_in(config.path):
        most, every = config.get("max_pixels", MOST_PIXELS), config.get("every_format", True)
        return folder.load(config.path, size, held_out, not config.workers, most, every)
    if not config.path:
        if config.category and config.source != "emoji":
            raise UserError(
                f"data.category = {config.category!r}: {config.source} has no categories, only 'emoji' has; leave "
                "it empty (--config.data.category=)"
            )
        if config.source == "emoji":
            return emoji.load(config.category, size, held_out)
        if config.source == "avatars":
            return avatars.load(config.avatars, size, held_out, config.archive)
    # Imported only here: the other sources do not need tfds, and should work even if tfds is broken.
    from vaedm_jax.data import tfds_sets

    if config.path:
        return tfds_sets.load_path(config.path, size, held_out)
    place = config.tfds_dir or tfds_sets.DEFAULT_DIR
    if "://" not in place:  # tfds also reads from gs://BUCKET
        # Without a home directory, tfds would create a folder named ~.
        place = str(resolve_path(place, "data.tfds_dir"))
    return tfds_sets.load(config.source, place if config.tfds_dir else "", config.archive, size, held_out)
