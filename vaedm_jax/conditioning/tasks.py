"""What a picture may have lost, and how a refiner gives it back: the damaged one stands in place of x_hat."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.conditioning.conditions import Condition, Downsample, condition_of
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.images import condition_keys
from vaedm_jax.diffusion.schedule import Schedule
from vaedm_jax.diffusion.spacing import principal_variance
from vaedm_jax.errors import UserError, in_range, one_of
from vaedm_jax.storage.paths import shown

CHUNK = 64  # images on the device at a time
Images = np.ndarray  # float32 [N, H, W, C] in [0, 1]


class Task(Protocol):
    """A kind of damage.

    Attributes:
      label: fit for a file. input_name: what the lifted images are called. factor: how much larger these are.
    """

    label: str
    input_name: str
    factor: int

    def corrupt(self, images: Images, seed: int = 0) -> Images:
        """Damaged images."""

    def lift(self, images: Images) -> Images:
        """Damaged images at the size at which they are restored, without the network: what it is shown."""

    def begin(self, chain: Chain, full: Schedule, train: Callable[[], Images]) -> Chain:
        """The chain from where it fits the damage; `train` gives images of the training, where they are needed."""

    def x_T(self, damaged: Images, seed: int = 0) -> Images | None:
        """The noise that the chain begins with, beside that which lies in the image; None where it is drawn."""

    def agree(self, images: Images, damaged: Images) -> Images:
        """The images nearest to `images` that would have been damaged to `damaged`."""


def by_parts(function: Callable[..., jax.Array], *arrays: Any) -> np.ndarray:
    """function(*arrays) of arrays [N, ...], CHUNK at a time, for the memory."""
    found = [function(*(jnp.asarray(a[i : i + CHUNK]) for a in arrays)) for i in range(0, len(arrays[0]), CHUNK)]
    return np.concatenate([np.asarray(a) for a in found])


class Conditioned:
    """What a condition takes from images, for a refiner that was trained on what it leaves."""

    input_name = "x̂"

    def __init__(self, condition: Condition, label: str):
        self.condition, self.label, self.factor = condition, label, condition.factor

    def corrupt(self, images: Images, seed: int = 0) -> Images:
        """In 8 bits; image i has lost what it has in `VAEDM.condition`."""
        return by_parts(self.condition.left, images, condition_keys(np.uint32(seed), jnp.arange(len(images))))

    def lift(self, images: Images) -> Images:
        return by_parts(self.condition.lift, images)

    def begin(self, chain: Chain, full: Schedule, train: Callable[[], Images]) -> Chain:
        """As it is; a warm start without a t begins where noise hides what x_hat lacks."""

        def variance() -> float:
            truth = train()
            H, W = (side // self.factor * self.factor for side in truth.shape[1:3])
            truth = truth[:, :H, :W]
            return principal_variance(2 * (self.lift(self.corrupt(truth)) - truth))

        return chain.with_t_start(full, variance)

    def x_T(self, damaged: Images, seed: int = 0) -> None:
        return None

    def agree(self, images: Images, damaged: Images) -> Images:
        return by_parts(self.condition.agree, images, damaged)


class SuperResolution(Conditioned):
    """Images that were reduced by a factor, for any refiner: each pixel is the mean of factor x factor."""

    input_name = "bicubic"

    def __init__(self, factor: int):
        super().__init__(Downsample(factor), f"super{factor}")

    def corrupt(self, images: Images, seed: int = 0) -> Images:
        return by_parts(self.condition.corrupt, images)

    def begin(self, chain: Chain, full: Schedule, train: Callable[[], Images]) -> Chain:
        """Where noise hides what bicubic images lack, by the rule that holds for x_hat."""
        return super().begin(replace(chain, start="warm", t_start=0), full, train)


@dataclass(frozen=True)
class Denoising:
    """Images with Gaussian noise of a known deviation, in units of [0, 1]; clipped, as what lies in a file is."""

    sigma: float
    input_name = "noisy"
    factor = 1

    def __post_init__(self):
        in_range("restore.sigma", self.sigma, 1e-6)

    @property
    def label(self) -> str:
        return f"denoise{self.sigma:g}"

    def corrupt(self, images: Images, seed: int = 0) -> Images:
        noise = np.random.default_rng(seed).standard_normal(images.shape)
        return np.float32(np.clip(images + self.sigma * noise, 0, 1))

    def lift(self, images: Images) -> Images:
        return images

    def begin(self, chain: Chain, full: Schedule, train: Callable[[], Images]) -> Chain:
        """Where the chain has as much noise as the image, which is u_t itself then."""
        t = int(np.argmin(np.abs(np.exp(-full.log_snr) - 2 * self.sigma)))
        return replace(chain, start="warm", t_start=t, steps=min(chain.steps, t + 1))

    def x_T(self, damaged: Images, seed: int = 0) -> Images:
        """What clipping cut off, drawn anew, and nothing elsewhere: white would come out grey without it.

        A pixel that was white or black has the half of the normal distribution beyond it.
        """
        beyond = np.abs(np.random.default_rng(seed).standard_normal(damaged.shape, np.float32))
        return beyond * (damaged >= 1) - beyond * (damaged <= 0)

    def agree(self, images: Images, damaged: Images) -> Images:
        return images


TASKS = {"super": lambda s: SuperResolution(s.factor), "denoise": lambda s: Denoising(s.sigma)}


def task_of(settings: Any, condition: str = "vae") -> Task:
    """The task of a `restore` section, for a model of a `ddpm.condition`."""
    if not settings.task and (own := condition_of(condition)):
        return Conditioned(own, condition)
    one_of("restore.task", name := settings.task or "super", TASKS)
    return TASKS[name](settings)


def check_size(name: str, task: Task, shape: tuple[int, ...], most: int, multiple: int = 1) -> None:
    """UserError where a picture would be too large when it is lifted, and its sides are continued to a multiple."""
    H, W = (-(-side * task.factor // multiple) * multiple for side in shape[:2])
    if H * W > most:
        raise UserError(
            f"{shown(name)}: {W} x {H} pixels would be restored, {H * W:,} in all; restore.pixels = {most:,} are "
            "allowed, since attention takes memory by the square of their number"
        )
