"""What is given to a model, checked, and ways between two of it."""

import numpy as np

from vaedm_jax.errors import UserError, in_range, one_of

PATHS = ("linear", "spherical")


def spread(name: str, values: np.ndarray, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Values [n, *shape] as float32, of values [n, *shape], or [*shape] for all; UserError for another shape."""
    try:
        values = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is no array of numbers") from error
    if values.shape not in ((n, *shape), shape):
        raise UserError(
            f"{name} of the shape {values.shape}; for {n} images of this model it is {(n, *shape)} or {shape}"
        )
    if not np.isfinite(values).all():
        raise UserError(f"{name} is not finite")
    return np.broadcast_to(values, (n, *shape))


def between(a: np.ndarray, b: np.ndarray, n: int, path: str = "linear") -> np.ndarray:
    """n points from a to b, both included, [n, *a.shape].

    Args:
      path: `linear`, as in the paper, or `spherical`, along the great circle between them, which keeps the norm of what
        is drawn from a normal distribution (arXiv 1609.04468, section 2.3).
    """
    one_of("path", path, PATHS)
    in_range("n", n, 1)
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if a.shape != b.shape:
        raise UserError(f"from the shape {a.shape} to {b.shape}; the two ends have one shape")
    s = np.linspace(0, 1, n).reshape(-1, *(1,) * a.ndim)
    cosine = np.sum(a * b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))
    if path == "linear" or np.sin(angle) < 1e-4:  # the great circle is a line there, or any
        return np.float32((1 - s) * a + s * b)
    return np.float32((np.sin((1 - s) * angle) * a + np.sin(s * angle) * b) / np.sin(angle))
