"""A reverse chain as a choice of sampler, steps and start."""

from dataclasses import dataclass

import jax

from vaedm_jax.diffusion import samplers
from vaedm_jax.diffusion.process import PredictNoise, q_sample
from vaedm_jax.diffusion.schedule import VARIANCES, Schedule, respace
from vaedm_jax.diffusion.spacing import SPACINGS, STARTS, timesteps
from vaedm_jax.errors import one_of


@dataclass(frozen=True)
class Chain:
    """How to sample; hashable, so that a compiled program can depend on it.

    Attributes:
      sampler: one of SAMPLERS, with `variance` for ddpm and `eta` for ddim.
      steps, start, spacing, t_start: which steps, and from where; see `spacing.timesteps`.
      clip: clip the estimates of the clean image to [-1, 1].
    """

    sampler: str = "ddpm"
    steps: int = 1000
    start: str = "noise"
    spacing: str = "even"
    t_start: int = 500
    variance: str = "fixedsmall"
    eta: float = 0.0
    clip: bool = True

    def __post_init__(self):
        one_of("sampler", self.sampler, samplers.SAMPLERS)
        one_of("start", self.start, STARTS)
        one_of("spacing", self.spacing, SPACINGS)
        one_of("variance", self.variance, VARIANCES)

    @property
    def label(self) -> str:
        """A short name, fit for a file, that chains which draw other images do not share: `ddim_warm500_10`."""
        how = {"ddpm": self.variance.removeprefix("fixedsmall"), "ddim": f"eta{self.eta:g}" if self.eta else ""}
        start = self.start + (str(self.t_start) if self.start == "warm" else "")
        spacing = "" if self.start == "truncated" else self.spacing.removeprefix("even")
        words = ("-".join(filter(None, (self.sampler, how[self.sampler]))), "-".join(filter(None, (start, spacing))))
        return "_".join((*words, str(self.steps), *(() if self.clip else ("unclipped",))))

    def schedule(self, full: Schedule) -> Schedule:
        """The steps of the T-step schedule that the chain visits. UserError if they cannot be had."""
        return respace(full, timesteps(self.start, self.spacing, self.steps, len(full.t), self.t_start))

    def run(
        self,
        full: Schedule,
        predict_noise: PredictNoise,
        keys: jax.Array,
        shape: tuple[int, int, int],
        x_hat: jax.Array | None = None,
    ) -> jax.Array:
        """Images u_0 [B, H, W, C], in [-1, 1] where the chain is clipped.

        Args:
          keys: [B]; image i depends on keys[i] (and x_hat[i]) alone.
          shape: (H, W, C).
          x_hat: [B, H, W, C] in [-1, 1], where a warm start begins.
        """
        schedule = self.schedule(full)
        if self.sampler == "ddim":
            table = samplers.ddim(schedule, self.eta)
        else:
            table = samplers.ddpm(schedule, self.variance)
        fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
        u = jax.vmap(lambda key: jax.random.normal(key, shape))(fold(keys, 0))
        if self.start == "warm":
            u = q_sample(schedule, x_hat, len(schedule.t) - 1, u)
        return samplers.reverse(predict_noise, table, u, samplers.noise_from_keys(fold(keys, 1), shape), self.clip)
