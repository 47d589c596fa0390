"""All settings: their meanings, defaults and ranges, and the checks of their combinations."""

from vaedm_jax.config.build import (
    FREE,
    MEASURED,
    TUNABLE,
    base_config,
    data_section,
    flatten,
    make_chain,
    names,
    picture_chain,
    published_config,
    small_config,
    with_absolute_paths,
)
from vaedm_jax.config.settings import BEST_BY, SETTINGS

__all__ = [
    "BEST_BY",
    "FREE",
    "MEASURED",
    "SETTINGS",
    "TUNABLE",
    "base_config",
    "data_section",
    "flatten",
    "make_chain",
    "names",
    "picture_chain",
    "published_config",
    "small_config",
    "with_absolute_paths",
]
