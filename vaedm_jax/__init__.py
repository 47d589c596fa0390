"""VAEs meet diffusion models: a VAE draws a blurry image, and a diffusion model that is shown it makes it sharp."""

from typing import Any

__all__ = ["VAEDM"]


def __getattr__(name: str) -> Any:
    """`VAEDM`, imported when it is asked for, so that the command line can choose the devices before JAX starts."""
    if name == "VAEDM":
        from vaedm_jax.api import VAEDM

        return VAEDM
    raise AttributeError(f"module 'vaedm_jax' has no attribute {name!r}")
