"""The principal directions of encoded images, and how well a VAE knows a picture."""

from dataclasses import dataclass

import numpy as np

from vaedm_jax.modes.explorer.state import LIMIT, rounded

SLIDERS, LEAST = 8, 0.01  # most sliders; least share of the variance along a direction with a slider
# A direction is left out if its deviation is less than this, relative to the first: the decoder ignores it.
SHORTEST = 0.1
USUAL = 0.99  # the quantile of the training images up to which a picture is usual
# Added to the variance of a picture, so that a flat one does not count as lost for small errors. The variance of a
# usual picture is about 100 times as large.
FLAT = 1e-3


@dataclass(frozen=True)
class Directions:
    """The principal directions of z, the longest first.

    Attributes:
      mean: [D], the mean z of the encoded images.
      axes: [K, D]. The length of each is the standard deviation along it.
      shares: [K], the share of the variance of z along each.
    """

    mean: np.ndarray
    axes: np.ndarray
    shares: np.ndarray

    @property
    def sliders(self) -> int:
        """The number of directions that have a slider."""
        return max(1, min(SLIDERS, int(np.sum(self.shares >= LEAST))))

    def z(self, position: tuple[float, ...]) -> np.ndarray:
        """Return z [D] of the positions along all directions."""
        return np.float32(self.mean + np.asarray(position) @ self.axes)

    def coordinates(self, z: np.ndarray) -> np.ndarray:
        """Return the positions of z [D] along all directions, [K]."""
        return self.axes @ (z - self.mean) / np.maximum(np.sum(self.axes**2, axis=1), 1e-12)

    def position(self, z: np.ndarray) -> tuple[float, ...]:
        """Return the nearest positions of z [D] that a state can have."""
        return rounded(self.coordinates(z))

    def describe_place(self, z: np.ndarray) -> str:
        """Return a sentence if z [D] lies farther out than the positions that a state can have."""
        beyond = np.max(np.abs(self.coordinates(z))) > LIMIT + 0.01  # positions are rounded
        return "z lies beyond the ends of the sliders. The nearest place is shown." if beyond else ""


def find_directions(z: np.ndarray) -> Directions:
    """Return the principal directions of z [N, D]. The largest entry of each is positive, on any machine."""
    mean = z.mean(axis=0)
    _, deviations, axes = np.linalg.svd(z - mean, full_matrices=False)
    axes = axes * np.sign(axes[np.arange(len(axes)), np.argmax(np.abs(axes), axis=1)])[:, None]
    kept = max(1, int(np.sum(deviations > SHORTEST * deviations[0])))
    shares = deviations**2 / max(np.sum(deviations**2), 1e-12)
    return Directions(mean, (deviations[:, None] * axes / np.sqrt(len(z)))[:kept], shares[:kept])


def lost(images: np.ndarray, x_hat: np.ndarray) -> np.ndarray:
    """Return the share of each image that the VAE loses, [N]: the root of the squared error over the variance.

    It is 0 for a perfect x_hat, and 1 for one that is no nearer than a flat area of the mean colour.

    Args:
      images, x_hat: [N, H, W, C] in [0, 1].
    """
    error = np.mean((x_hat - images) ** 2, axis=(1, 2, 3))
    return np.sqrt(error / (np.var(images, axis=(1, 2, 3)) + FLAT))


def describe_loss(loss: float, usual: np.ndarray) -> str:
    """Return a sentence about a picture that the VAE hardly knows; "" for a usual picture.

    Args:
      loss: the result of `lost` for the picture.
      usual: [N], the results for the training images.
    """
    if loss <= (most := float(np.quantile(usual, USUAL))):
        return ""
    return (
        f"This picture is unlike the training images. x̂ misses it by {loss:.0%} of its contrast; it misses "
        f"{USUAL:.0%} of those by {most:.0%} or less."
    )
