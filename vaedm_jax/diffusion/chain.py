"""A reverse chain: which sampler, how many steps, from where."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from vaedm_jax.diffusion.images import draw, fold
from vaedm_jax.diffusion.prediction import Predict
from vaedm_jax.diffusion.reverse import Table, noise_from_keys, reverse
from vaedm_jax.diffusion.samplers import SAMPLERS
from vaedm_jax.diffusion.schedule import MOST_STEPS, VARIANCES, WHY_STEPS, Schedule, respace
from vaedm_jax.diffusion.spacing import SPACINGS, STARTS, timesteps, warm_step
from vaedm_jax.errors import Range, UserError, brief, check_choice, check_range

Array = Any  # of NumPy on the host, of JAX in a compiled program
NOISE_ALONE, SQUARES = "images of more are noise alone", "float32 holds no square of more"


def number(default: float, low: float, high: float, why: str = "") -> Any:
    """Return a field that is a number in a range; see `Range`."""
    return field(default=default, metadata={"range": Range(low, high, why)})


class ChainSettings(TypedDict, total=False):
    """The settings of a `Chain`, as named arguments with types."""

    sampler: str
    steps: int
    start: str
    spacing: str
    t_start: int
    clip: bool
    dynamic: float
    temperature: float
    z_temperature: float
    shared: bool
    guidance: float
    cond_noise: int
    variance: str
    eta: float
    clip_eps: bool
    churn: float
    churn_min: float
    churn_max: float
    churn_noise: float


@dataclass(frozen=True)
class Chain:
    """How to sample: which sampler, how many steps and from where; then the settings of noise and of the samplers."""

    sampler: str = "ddpm"  # one of SAMPLERS
    steps: int = number(1000, 1, MOST_STEPS, WHY_STEPS)
    start: str = "noise"  # from T; "truncated": the last steps of the chain; "warm": from x_hat, noised to t_start
    spacing: str = "even"  # or "uniform", "quadratic", "logsnr", "open", "karras"; see `spacing.timesteps`
    t_start: int = number(500, 0, MOST_STEPS - 1, WHY_STEPS)  # of a warm start; 0: see `spacing.warm_step`
    clip: bool = True  # estimates of the clean image are clipped to [-1, 1]
    dynamic: float = number(0.0, 0.0, 1.0)  # the quantile of dynamic thresholding; see `reverse.limit`
    temperature: float = number(1.0, 0.0, 1e6, NOISE_ALONE)  # factor of the noise that the chain starts from
    z_temperature: float = number(1.0, 0.0, 1e6, NOISE_ALONE)  # factor of z, about 0 or the means of the prior
    shared: bool = False  # all images have the same noise, at the start and in every step
    guidance: float = number(0.0, 0.0, 1e6, NOISE_ALONE)  # w, for a refiner trained with cond_dropout; two evaluations
    cond_noise: int = number(0, 0, MOST_STEPS, WHY_STEPS)  # x_hat is noised by so many steps before it is shown
    variance: str = "fixedsmall"  # of ddpm; or "fixedlarge"
    eta: float = number(0.0, 0.0, 1.0)  # of ddim
    clip_eps: bool = True  # of ddim: eps follows from the clipped x_0; False: as predicted (the authors' code)
    churn: float = number(0.0, 0.0, 1e6, NOISE_ALONE)  # of heun: more is more random; EDM's S_churn
    churn_min: float = number(0.0, 0.0, 1e30, SQUARES)  # S_tmin
    churn_max: float = number(1e9, 0.0, 1e30, SQUARES)  # S_tmax
    churn_noise: float = number(1.0, 0.0, 1e6, NOISE_ALONE)  # S_noise

    def __post_init__(self):
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("start", self.start, STARTS)
        check_choice("spacing", self.spacing, SPACINGS)
        check_choice("variance", self.variance, VARIANCES)
        for f in fields(self):
            if isinstance(f.default, bool) and not isinstance(value := getattr(self, f.name), bool | np.bool_):
                raise UserError(f"{f.name} = {brief(repr(value))}: it should be True or False")
            if "range" in f.metadata:
                check_range(f.name, getattr(self, f.name), *f.metadata["range"])

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that have an effect and differ from the defaults.

        They identify a chain, also when settings are added later.
        """
        idle = {name for other in SAMPLERS.values() for name in other.options} - {*SAMPLERS[self.sampler].options}
        idle |= {"warm": set(), "noise": {"t_start"}, "truncated": {"t_start", "spacing"}}[self.start]
        settings = {f.name: (getattr(self, f.name), f.default) for f in fields(self) if f.name not in idle}
        found = {name: value for name, (value, default) in settings.items() if value != default}
        if self.spacing in ("uniform", "quadratic") and (self.start == "warm" or self.steps == 1):
            found["begins"] = "at its start"  # earlier versions began elsewhere, so their images must not be reused
        return found

    def name(self, full: Schedule) -> "ChainName":
        """Return the short name of the chain."""
        changes, count = self.changes, len(self.schedule(full).t)

        def changed(name: str) -> str:
            if name not in changes:
                return ""
            return self.variance if name == "variance" else f"{name.replace('_', '')}{changes[name]:g}"

        start = self.start + (str(self.t_start) if self.start == "warm" else "")
        spacing = "" if self.start == "truncated" else self.spacing.removeprefix("even")
        spacing += str(self.steps) if count < self.steps else ""
        limit = changed("dynamic") or ("" if self.clip else "unclipped")
        noises = changed("temperature"), changed("z_temperature")
        guided = changed("guidance"), changed("cond_noise")
        options = "-".join(filter(None, (limit, *noises, *guided, "shared" * self.shared)))
        sampler = "-".join(filter(None, (self.sampler, *map(changed, SAMPLERS[self.sampler].options))))
        return ChainName(sampler, "-".join(filter(None, (start, spacing))), count, options)

    def describe(self, full: Schedule) -> str:
        """Return a description, such as `heun, 5 steps from noise, 9 evaluations`.

        If the chain starts from pure noise at another step than T - 1, it names the step: `from noise at t = 800`.
        """
        t, nfe = self.schedule(full).t, self.nfe(full)
        noise = "noise" if np.isclose(t[-1], full.t[-1], rtol=0) else f"noise at t = {t[-1]:g}"
        start = f"t = {self.t_start}" if self.start == "warm" else noise
        steps = f"{len(t):,} step{'s' * (len(t) > 1)}"
        return f"{self.sampler}, {steps} from {start}" + (f", {nfe:,} evaluations" if nfe != len(t) else "")

    def within(self, nfe: int) -> "Chain":
        """Return the chain with as many steps as `nfe` evaluations allow, but at least one."""
        rows = nfe // 2 if self.guidance else nfe
        return replace(self, steps=max(1, SAMPLERS[self.sampler].steps(rows)))

    def with_t_start(self, full: Schedule, variance: Callable[[], float]) -> "Chain":
        """Return the chain with the t_start of `warm_step`, if it is a warm start without one."""
        if self.start != "warm" or self.t_start:
            return self
        return replace(self, t_start=warm_step(full, variance(), self.steps))

    def nfe(self, full: Schedule) -> int:
        """Return the number of evaluations of the network for an image; guidance doubles it."""
        return self.table(full).nfe * (2 if self.guidance else 1)

    def schedule(self, full: Schedule) -> Schedule:
        """Return the steps of the T-step schedule that the chain visits; UserError if there are no such steps."""
        return respace(full, timesteps(full, self.start, self.spacing, self.steps, self.t_start))

    def table(self, full: Schedule) -> Table:
        """Return the coefficients of the chain."""
        return SAMPLERS[self.sampler].table(self, self.schedule(full), full)

    def arrays(self, full: Schedule) -> "ChainArrays":
        """Return the chain as arrays on the host, the input of `run_chain`."""
        schedule, warm = self.schedule(full), self.start == "warm"
        return ChainArrays(
            table=self.table(full).trimmed(),
            of_x_hat=np.sqrt(schedule.alpha_bar[-1]) if warm else np.array(0.0),
            of_noise=np.sqrt(1 - schedule.alpha_bar[-1]) if warm else np.array(1.0),
            temperature=np.array(self.temperature),
            z_temperature=np.array(self.z_temperature),
            clip=np.array(self.clip),
            shared=np.array(self.shared),
            cond_noise=np.array(self.cond_noise),
            dynamic=np.array(self.dynamic) if self.dynamic else None,
            guidance=np.array(self.guidance) if self.guidance else None,
        )


class ChainName(NamedTuple):
    """A short name for tables and files, such as `ddim_warm500_10`. Chains that draw different images differ in it.

    Attributes:
      sampler, start: with the settings that differ from their defaults; of `start` also the spacing, and the number of
        steps that was asked for, if fewer are run.
      steps: the number of steps that are run.
      options: all other settings that differ from their defaults.
    """

    sampler: str
    start: str
    steps: int
    options: str = ""

    def __str__(self) -> str:
        return "_".join(filter(None, map(str, self)))


class ChainArrays(NamedTuple):
    """A chain as arrays, the input of a compiled program.

    A program is compiled for the number of rows of the table, and for which entries are None. Chains that differ only
    in values share it.

    Attributes:
      table: a trimmed table; see `reverse.Table`.
      of_x_hat, of_noise: the chain starts at u = of_x_hat x_hat + of_noise noise: at 0 x_hat + 1 noise, if not warm.
      dynamic, guidance: None if they are off. The others are scalars; see `Chain`.
    """

    table: Table
    of_x_hat: Array
    of_noise: Array
    temperature: Array
    z_temperature: Array
    clip: Array
    shared: Array
    cond_noise: Array
    dynamic: Array | None
    guidance: Array | None


def run_chain(
    chain: ChainArrays,
    predict: Predict,
    keys: jax.Array,
    shape: tuple[int, int, int],
    x_hat: jax.Array | None = None,
    x_T: jax.Array | None = None,
) -> jax.Array:
    """Run a chain and return the images u_0 [B, H, W, C], in [-1, 1] if the chain is clipped.

    Args:
      keys: [B]; image i depends only on keys[i] (and x_hat[i]).
      shape: (H, W, C).
      x_hat: [B, H, W, C] in [-1, 1], which a warm start needs.
      x_T: [B, H, W, C], the noise that the chain starts from; by default it is drawn.
    """
    u = chain.temperature * (draw(keys, 0, shape) if x_T is None else x_T)
    if x_hat is not None:
        u = chain.of_x_hat * x_hat + chain.of_noise * u
    noise = noise_from_keys(fold(keys, 1), shape)
    return reverse(predict, chain.table, u, noise, chain.clip, chain.dynamic)
