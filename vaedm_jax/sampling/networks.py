"""The networks of a model, without parameters: what a compiled program depends on."""

from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaedm_jax import models
from vaedm_jax.conditioning.conditions import Condition, has_vae, parse_condition
from vaedm_jax.diffusion.images import draw
from vaedm_jax.diffusion.prediction import TARGETS, Eps, Predict, Target, from_eps, predictor
from vaedm_jax.diffusion.process import FORMULATIONS, Formulation, augment
from vaedm_jax.diffusion.schedule import Schedule, compute_betas, linear_schedule

# Fields of a network that do not change its images: how it is computed and trained, and Flax's own fields.
WITHOUT_EFFECT = (*(name for name in models.COMPUTATION if name != "precision"), "parent", "name")


def meaning(part: Any) -> Any:
    """Return what the images depend on in a part of `Networks`, as a value that JSON can hold.

    Only settings of a network that differ from their defaults count, so the result stays the same when a network gets
    a new setting.
    """
    if not is_dataclass(part):
        return part
    settings = {f.name: getattr(part, f.name) for f in fields(part) if getattr(part, f.name) != f.default}
    return {"kind": type(part).__name__} | {k: v for k, v in settings.items() if k not in WITHOUT_EFFECT}


class Networks(NamedTuple):
    """The networks and the process of a model: hashable, so that compiled programs can depend on them.

    Attributes:
      vae: None if there is none.
      condition: None if the refiner is shown the VAE's image, or nothing.
      variant: `uncond`, `form1` or `form2`.
      betas: the arguments of `linear_schedule`.
      size: height and width of the images in pixels.
      cond_noise: the largest number of steps by which x_hat was noised in training.
    """

    vae: models.VAE | None
    condition: Condition | None
    unet: models.UNet
    variant: str
    betas: tuple[int, float, float]
    z_conditioning: bool
    size: int
    target: Target = Eps()
    cond_noise: int = 0

    @property
    def meaning(self) -> dict[str, Any]:
        """What the images depend on, as a value that JSON can hold. Fields count if they differ from their defaults."""
        usual = self._field_defaults
        found = {n: meaning(part) for n, part in self._asdict().items() if n not in usual or part != usual[n]}
        # A CPU multiplies float32 in float32, whatever precision is set.
        precision = None if jax.default_backend() == "cpu" else jax.config.jax_default_matmul_precision
        return found | ({"matmul_precision": precision} if precision else {})

    @property
    def form(self) -> Formulation:
        """What distinguishes the variant."""
        return FORMULATIONS[self.variant]

    @property
    def has_x_hat(self) -> bool:
        """Whether there is an x_hat, which the refiner is shown or starts from."""
        return bool(self.vae or self.condition)

    @property
    def full_schedule(self) -> Schedule:
        """The schedule of all T steps."""
        return linear_schedule(*self.betas)

    @property
    def multiple(self) -> int:
        """The number that height and width of an image must be multiples of, for the U-Net."""
        return self.unet.patch * 2 ** (len(self.unet.multipliers) - 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image, (H, W, C)."""
        return self.size, self.size, 3

    def predict(
        self,
        params: Any,
        keys: jax.Array,
        x_hat: jax.Array | None,
        z: jax.Array | None,
        guidance: Any = None,
        cond_noise: Any = 0,
    ) -> Predict:
        """Return the refiner as a function of u_t and its noise level.

        Args:
          keys: [B], the keys of the noise that is added to x_hat.
          x_hat: [B, H, W, C] in [-1, 1].
          guidance: w of eps <- (1 + w) eps(u_t, x_hat, z) - w eps(u_t, 0, 0) (arXiv 2207.12598, eq. 6), for a refiner
            that was trained with `ddpm.cond_dropout`; it takes two evaluations of the network.
          cond_noise: the number of steps by which x_hat is noised before it is shown, for a refiner that was trained
            with `ddpm.cond_noise`.
        """

        def network(x_t, t, shown, z, k):
            return models.apply(self.unet, params["ddpm"], x_t, t, shown, z, None, k)

        z, shown, k = z if self.z_conditioning else None, None, None
        if self.cond_noise:
            k = jnp.full(len(x_hat), cond_noise)
            shown = augment(self.full_schedule, x_hat, k, draw(keys, 3, x_hat.shape[1:]))
        conditional = predictor(self.target, self.form, network, x_hat, shown, z=z, k=k)
        if guidance is None:
            return conditional
        x_hat, shown, z, k = jax.tree.map(jnp.zeros_like, (x_hat, shown, z, k))
        unconditional = predictor(self.target, self.form, network, x_hat, shown, True, z=z, k=k)

        def guided(u, level):
            eps = (1 + guidance) * conditional(u, level).eps - guidance * unconditional(u, level).eps
            return from_eps(u, level, eps)

        return guided


def build_networks(config: Any) -> Networks:
    """Return the networks of a whole configuration."""
    return Networks(
        models.build_vae(config) if has_vae(config.ddpm) else None,
        parse_condition(config.ddpm.condition),
        models.build_unet(config),
        config.ddpm.variant,
        compute_betas(config.ddpm),
        config.ddpm.z_conditioning,
        config.data.image_size,
        TARGETS[config.ddpm.prediction](config.ddpm),
        config.ddpm.cond_noise,
    )
