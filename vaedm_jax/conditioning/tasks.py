"""Restoration tasks: how an image is damaged, and how a refiner restores it, shown the damaged image as x_hat."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.conditioning.conditions import Condition, Downsample, parse_condition
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.images import condition_keys
from vaedm_jax.diffusion.learnt import TEACHER, TUNED
from vaedm_jax.diffusion.schedule import Schedule
from vaedm_jax.diffusion.spacing import principal_variance
from vaedm_jax.errors import UserError, check_choice, check_range
from vaedm_jax.storage.paths import shown

CHUNK = 64  # images that are processed on the device at a time
Images = np.ndarray  # float32 [N, H, W, C] in [0, 1]


class Task(Protocol):
    """A kind of damage to images, and how to undo it.

    Attributes:
      label: a name for files.
      input_name: the name of the lifted images in tables and figures.
      factor: by how much the sides of lifted images are larger than those of damaged ones.
    """

    label: str
    input_name: str
    factor: int

    def corrupt(self, images: Images, seed: int = 0) -> Images:
        """Damage images."""

    def lift(self, images: Images) -> Images:
        """Bring damaged images to the size at which they are restored, which the network is shown."""

    def begin(self, chain: Chain, full: Schedule, train: Callable[[], Images]) -> Chain:
        """Return the chain with the start that fits the damage.

        Args:
          train: returns training images; it is called only if they are needed.
        """

    def x_T(self, damaged: Images, seed: int = 0) -> Images | None:
        """Return the noise that the chain starts from, in addition to that in the image; None: draw it as usual."""

    def make_consistent(self, images: Images, damaged: Images) -> Images:
        """Return the images nearest to `images` that the damage would turn into `damaged`."""


def start_warm(chain: Chain, **changes: Any) -> Chain:
    """Return the chain with a warm start and other changes.

    A learnt table is of one start, and each task has its own. So the solver that tables are fitted to takes its place.
    """
    sampler = TEACHER if chain.sampler == TUNED else chain.sampler
    return replace(chain, sampler=sampler, start="warm", **changes)


def map_chunks(function: Callable[..., jax.Array], *arrays: Any) -> np.ndarray:
    """Return function(*arrays) for arrays [N, ...], computed in chunks of CHUNK to limit the memory."""
    found = [function(*(jnp.asarray(a[i : i + CHUNK]) for a in arrays)) for i in range(0, len(arrays[0]), CHUNK)]
    return np.concatenate([np.asarray(a) for a in found])


class Conditioned:
    """The task to undo a condition, for a refiner that was trained with it."""

    input_name = "x̂"

    def __init__(self, condition: Condition, label: str):
        self.condition, self.label, self.factor = condition, label, condition.factor

    def corrupt(self, images: Images, seed: int = 0) -> Images:
        """Corrupt images as `VAEDM.condition` does, in 8 bits."""
        return map_chunks(self.condition.corrupt_8bit, images, condition_keys(np.uint32(seed), jnp.arange(len(images))))

    def lift(self, images: Images) -> Images:
        return map_chunks(self.condition.lift, images)

    def begin(self, chain: Chain, full: Schedule, train: Callable[[], Images]) -> Chain:
        """Return the chain; a warm start without a t_start gets that of `warm_step` for the lifted training images."""

        def variance() -> float:
            truth = train()
            H, W = (side // self.factor * self.factor for side in truth.shape[1:3])
            truth = truth[:, :H, :W]
            return principal_variance(2 * (self.lift(self.corrupt(truth)) - truth))

        return chain.with_t_start(full, variance)

    def x_T(self, damaged: Images, seed: int = 0) -> None:
        return None

    def make_consistent(self, images: Images, damaged: Images) -> Images:
        return map_chunks(self.condition.make_consistent, images, damaged)


class SuperResolution(Conditioned):
    """Super-resolution by any refiner. Each pixel of a damaged image is the mean of factor x factor pixels."""

    input_name = "bicubic"

    def __init__(self, factor: int):
        super().__init__(Downsample(factor), f"super{factor}")

    def corrupt(self, images: Images, seed: int = 0) -> Images:
        return map_chunks(self.condition.corrupt, images)

    def begin(self, chain: Chain, full: Schedule, train: Callable[[], Images]) -> Chain:
        """Return the chain with a warm start from the bicubic images, at the t_start of `warm_step`."""
        return super().begin(start_warm(chain, t_start=0), full, train)


@dataclass(frozen=True)
class Denoising:
    """Removal of Gaussian noise from images that are clipped to [0, 1], as in a file.

    Attributes:
      sigma: the standard deviation of the noise, for images in [0, 1].
    """

    sigma: float
    input_name = "noisy"
    factor = 1

    def __post_init__(self):
        check_range("restore.sigma", self.sigma, 1e-6)

    @property
    def label(self) -> str:
        """A name for files."""
        return f"denoise{self.sigma:g}"

    def corrupt(self, images: Images, seed: int = 0) -> Images:
        noise = np.random.default_rng(seed).standard_normal(images.shape)
        return np.float32(np.clip(images + self.sigma * noise, 0, 1))

    def lift(self, images: Images) -> Images:
        return images

    def begin(self, chain: Chain, full: Schedule, train: Callable[[], Images]) -> Chain:
        """Return the chain with a warm start at the step that has as much noise as the image, which is u_t then."""
        t = int(np.argmin(np.abs(np.exp(-full.log_snr) - 2 * self.sigma)))
        return start_warm(chain, t_start=t, steps=min(chain.steps, t + 1))

    def x_T(self, damaged: Images, seed: int = 0) -> Images:
        """Return random noise for pixels whose noise was clipped, and 0 elsewhere.

        Without it white areas would be restored as grey. A white pixel gets positive noise and a black pixel negative
        noise, from half of the normal distribution.
        """
        beyond = np.abs(np.random.default_rng(seed).standard_normal(damaged.shape, np.float32))
        return beyond * (damaged >= 1) - beyond * (damaged <= 0)

    def make_consistent(self, images: Images, damaged: Images) -> Images:
        return images


TASKS = {"super": lambda s: SuperResolution(s.factor), "denoise": lambda s: Denoising(s.sigma)}


def make_task(settings: Any, condition: str = "vae") -> Task:
    """Return the task of a `restore` section for a model with a `ddpm.condition`.

    If no task is set, a model with a condition restores that condition, and another model does super-resolution.

    Raises:
      UserError: the task or one of its settings is not allowed.
    """
    if not settings.task and (own := parse_condition(condition)):
        return Conditioned(own, condition)
    check_choice("restore.task", name := settings.task or "super", TASKS)
    return TASKS[name](settings)


def check_size(name: str, task: Task, shape: tuple[int, ...], most: int, multiple: int = 1) -> None:
    """Raise UserError if an image would have too many pixels when it is lifted and padded.

    Args:
      name: the file of the image, for the message.
      shape: the shape (H, W, C) of the damaged image.
      most: the number of pixels that are allowed.
      multiple: the sides are padded to a multiple of it.
    """
    H, W = (-(-side * task.factor // multiple) * multiple for side in shape[:2])
    if H * W > most:
        raise UserError(
            f"{shown(name)}: {W} x {H} pixels would be restored, {H * W:,} in all; the limit is {most:,}, "
            "since the memory for attention grows with the square of the number of pixels"
        )
