"""VAEs meet diffusion models: a VAE generates a blurry image, and a diffusion model that is shown it refines it."""

from typing import TYPE_CHECKING, Any

from vaedm_jax.errors import UserError

if TYPE_CHECKING:
    from vaedm_jax.api import VAEDM

__all__ = ["VAEDM", "UserError", "__version__"]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import `VAEDM` when it is first used, so that the command line can configure the devices before JAX starts."""
    if name == "VAEDM":
        from vaedm_jax.api import VAEDM

        return VAEDM
    raise AttributeError(f"module 'vaedm_jax' has no attribute {name!r}")
