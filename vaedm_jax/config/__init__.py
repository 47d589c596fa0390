"""All settings: their meanings, defaults and ranges, and the checks of their combinations."""

from vaedm_jax.config.build import (
    FREE,
    MEASURED,
    TUNABLE,
    base_config,
    chain_of,
    data_of,
    flatten,
    located,
    names,
    picture_chain,
    published_config,
    small_config,
)
from vaedm_jax.config.settings import BEST_BY, SETTINGS

__all__ = [
    "BEST_BY",
    "FREE",
    "MEASURED",
    "SETTINGS",
    "TUNABLE",
    "base_config",
    "chain_of",
    "data_of",
    "flatten",
    "located",
    "names",
    "picture_chain",
    "published_config",
    "small_config",
]
