"""The trained model as an object: generator, refiner and their schedule."""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from vaedm_jax.config import chain_of
from vaedm_jax.config.checks import check_chain, check_cond_noise
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.images import sample_keys, to_uint8
from vaedm_jax.diffusion.spacing import principal_variance
from vaedm_jax.errors import RunError, UserError, in_range, naming, one_of
from vaedm_jax.runs.models import Stored, model_at, read_prior, read_run, read_weights, shipped, write_weights
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import in_batches, make_mesh, replicated
from vaedm_jax.sampling.generation import (
    NOTHING,
    Bound,
    Given,
    bound_terms,
    decode,
    encode,
    generate,
    networks_of,
    posterior,
    prior,
    shown_of,
)
from vaedm_jax.sampling.inputs import as_array, as_images, between, check_indices, digest_of, spread
from vaedm_jax.storage.paths import path_of, shown

NORMAL = "normal"  # N(0, I), in the place of the file of a prior
UNTRAINED = "this model has no trained DDPM yet; train it first (--mode=train)"


def finite(made: np.ndarray) -> np.ndarray:
    """Return what a model has made of N inputs, [N, ...]; RunError where there is a number that is not finite."""
    bad = ~np.isfinite(made).all(axis=tuple(range(1, made.ndim)))
    if bad.any():
        raise RunError(
            f"{bad.sum()} of {len(bad)} results of this model are not finite: its weights make numbers that are too "
            "large, or a setting of the chain does (guidance, temperature, churn)"
        )
    return made


def silent(*_: int) -> None:
    """Tells no progress."""


class Samples(NamedTuple):
    """Images float32 [N, H, W, C] in [0, 1]; `x_hat` is None where the model knows none."""

    images: np.ndarray
    x_hat: np.ndarray | None


class VAEDM:
    """A trained model.

    Images go in as uint8 or as floats in [0, 1], and come out as float32 in [0, 1], [N, H, W, C] both. All methods work
    in batches of `batch_size`, rounded up to a multiple of the devices, and compile once for each shape of a batch.

    Attributes:
      config: the whole configuration that it was trained with.
      params: `vae` and `ddpm`; either may be empty where it was not trained. `prior`: see `models.prior`.
      images: what tells those that it was trained on from others (`Dataset.identity`); None where it is not known.
      mesh: the devices that share the work; all of them by default.
    """

    def __init__(
        self,
        config: ConfigDict,
        vae_params: Any,
        ddpm_params: Any,
        mesh: Mesh | None = None,
        prior: Any = None,
        images: dict[str, Any] | None = None,
    ):
        self.config, self.mesh, self.images = config, mesh or make_mesh(), images
        params = {"vae": vae_params, "ddpm": ddpm_params, "prior": prior or {}}
        self.params = self.everywhere(params)
        self.networks = networks_of(config)
        if ddpm_params and (missing := self.networks.target.lacks(self.networks.form)):
            what, lost = config.ddpm.prediction, " and ".join(f"ddpm.{name}" for name in missing)
            raise UserError(f"ddpm.prediction = {what!r} needs {lost}: training stores it with the model; here it is 0")

    @classmethod
    def open(cls, name: str | Path, best: bool = False) -> "VAEDM":
        """The model of a run directory, of a file, or of the package, whichever it is that has the name."""
        path = model_at(name)
        return cls.from_run(path, best) if path.is_dir() else cls.from_checkpoint(path)

    @classmethod
    def from_pretrained(cls, name: str) -> "VAEDM":
        """A model that comes with the package, such as "emoji"."""
        return cls.from_checkpoint(shipped(name))

    @classmethod
    def from_checkpoint(cls, file: str | Path) -> "VAEDM":
        """The model of a file that `save` wrote; UserError unless names and shapes are those of its networks."""
        return cls.of(read_weights(file), file)

    @classmethod
    def from_run(cls, workdir: str | Path, best: bool = False) -> "VAEDM":
        """The model of a run directory, from its newest checkpoints; what is not trained yet is left empty.

        Args:
          best: take the DDPM's best checkpoint (`checkpoint.best`); UserError where none is kept.
        """
        workdir, mesh = path_of(workdir, "run"), make_mesh()
        return cls.of(read_run(workdir, mesh, best), workdir, mesh)

    @classmethod
    def of(cls, stored: Stored, place: str | Path, mesh: Mesh | None = None) -> "VAEDM":
        """The model that was stored at a place."""
        config, params, images = stored
        with naming(f"{shown(place)}: "):
            return cls(config, params.get("vae", {}), params.get("ddpm", {}), mesh, params.get("prior"), images)

    def as_asked(self, config: ConfigDict) -> "VAEDM":
        """This model in the precisions of a configuration (`*.precision`), with its `sample.prior`."""
        changed = self.config.copy_and_resolve_references()
        changed.vae.precision, changed.ddpm.precision = config.vae.precision, config.ddpm.precision
        params = self.params
        model = type(self)(changed, params["vae"], params["ddpm"], self.mesh, params["prior"], self.images)
        return model.with_prior(config.sample.prior) if config.sample.prior else model

    def with_prior(self, file: str | Path) -> "VAEDM":
        """Return this model, with z from what mode `prior` wrote, or from N(0, I) for "normal".

        UserError where the file was fitted to another VAE.
        """
        self.check_vae()
        prior = {} if file == NORMAL else read_prior(file, self.networks.vae.z_dim, self.vae_digest)
        return type(self)(self.config, self.params["vae"], self.params["ddpm"], self.mesh, prior, self.images)

    def save(self, file: str | Path, dtype: Any = np.float32) -> None:
        """Write parameters and configuration as one safetensors file, which is the whole model."""
        write_weights(file, Stored(self.config, self.params, self.images), dtype)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the parameters and of all else that images depend on, but the chain."""
        return digest_of(self.params, json.dumps(self.networks.meaning, sort_keys=True))

    @cached_property
    def vae_digest(self) -> str:
        """A digest of the VAE's parameters."""
        return digest_of(self.params["vae"])

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: np.ndarray | None = None,
        x_T: np.ndarray | None = None,
        x_hat: np.ndarray | None = None,
        first: int = 0,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
        chain: Chain | None = None,
        **settings: Any,
    ) -> Samples:
        """Images `first` to `first + n` of a seed. Image i depends on the seed, on i and on what is given for it alone,
        to a rounding that changes with the batch size.

        Args:
          z: [n, D], or [D] for all: what the VAE decodes; by default it is drawn from the prior.
          x_T: [n, H, W, C], or [H, W, C] for all: the noise that the chain begins with, or that noises x_hat for a warm
            start; by default it is drawn too. (`shared=True` gives all images one x_T, and one noise on the way.)
          x_hat: [n, H, W, C], images that the refiner is shown in place of what z decodes to. One that was trained
            on what a condition leaves of images (`ddpm.condition`) needs them; see `condition`.
          progress: is called with the images that are done and n, after each batch; by default a bar tells.
          chain, settings: how to sample: a chain, by default that of the configuration, and what to change of it, such
            as sampler="unipc2", steps=5, start="warm", temperature=0.9; see `Chain`.
        """
        check_indices(n, seed, first)
        chain, parts, done = self.chain(chain, **settings), [], 0
        with tqdm(
            total=n, desc="sampling", unit="image", leave=False, delay=5, disable=True if progress else None
        ) as bar:
            for part in self.batches(n, seed, first, chain, batch_size, Given(z, x_hat, x_T)):
                parts.append(part)
                done += len(part.images)
                bar.update(len(part.images))
                if progress:
                    progress(done, n)
        return Samples(*(None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True)))

    def batches(
        self, n: int, seed: int, first: int, chain: Chain, batch_size: int, given: Given = NOTHING
    ) -> Iterator[Samples]:
        """The images of `sample`, batch by batch, the last of which may be smaller."""
        check_indices(n, seed, first)
        self.check_chain(chain)
        inputs = np.arange(first, first + n), self.check_given(given, n)
        arrays, seed = self.everywhere((chain.arrays(self.networks.full_schedule), np.uint32(seed)))
        for count, (indices, given) in self.on_devices(inputs, batch_size):
            samples = hosts.fetch(generate(self.networks, arrays, self.params, seed, indices, given))
            yield Samples(*(a if a is None else finite(a[:count]) for a in samples))

    def refine(self, images: np.ndarray, seed: int = 0, x_T: np.ndarray | None = None, **how: Any) -> np.ndarray:
        """What the refiner makes of images [N, H, W, C] in place of x_hat; see `sample` for what else can be given.

        They may have any size, unless the refiner takes z too: their mirror image continues them to a multiple of 2^k.
        """
        images = as_array("images", images)
        if images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise UserError(f"images of the shape {images.shape}; give [N, H, W, 3]")
        (n, H, W), multiple = images.shape[:3], self.networks.multiple

        def padded(a):
            return np.pad(a, ((0, 0), (0, -H % multiple), (0, -W % multiple), (0, 0)), "symmetric")

        x_T = None if x_T is None else padded(spread("x_T", x_T, n, images.shape[1:]))
        return self.sample(n, seed, x_hat=padded(images), x_T=x_T, **how).images[:, :H, :W]

    def interpolate(
        self, a: np.ndarray, b: np.ndarray, n: int = 8, path: str = "linear", seed: int = 0, **how: Any
    ) -> Samples:
        """n images on the way from a to b in z, with one x_T and one noise for all (figure 2 of the paper).

        Args:
          a, b: z [D] each, or images [H, W, C], which are encoded.
          path: see `between`.
        """
        ends = [self.encode(e[None])[0] if e.ndim == 3 else e for e in (as_array("an end", end) for end in (a, b))]
        return self.sample(n, seed, z=between(*ends, n, path), **{"shared": True, **how})

    def encode(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """The mean of q(z | x) of images, [N, D]."""
        self.check_vae()
        images = self.check_images(images, "images")
        return self.mapped(lambda x: encode(self.networks, self.params, x)[0], images, batch_size)

    def posterior(self, images: np.ndarray, seed: int = 0, first: int = 0, batch_size: int = 64) -> np.ndarray:
        """A z of q(z | x) for each image, [N, D].

        Args:
          seed, first: image i's noise is that of the seed and of index first + i.
        """
        self.check_vae()
        return self.indexed(posterior, self.check_images(images, "images"), seed, first, batch_size)

    def decode(self, z: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """x_hat of z [N, D]: images [N, H, W, C]."""
        z = as_array("z", z)
        if z.ndim != 2 or not len(z):
            raise UserError(f"z of the shape {z.shape}; give [N, D]")
        z = self.check_given(Given(z), len(z)).z
        return self.mapped(lambda z: decode(self.networks, self.params, z), z, batch_size)

    def condition(self, images: np.ndarray, seed: int = 0, first: int = 0, batch_size: int = 64) -> np.ndarray:
        """The x_hat of images, [N, H, W, C]: their reconstructions, or what `ddpm.condition` leaves of them.

        Args:
          seed, first: image i is that of index first + i, where chance has a part.
        """
        self.check_x_hat()
        images = self.check_images(images, "images", any_size=bool(self.networks.condition))
        return self.indexed(shown_of, images, seed, first, batch_size)

    def reconstruct(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """The VAE's reconstructions, decoded from what `encode` gives: [N, H, W, C]."""
        return self.decode(self.encode(images, batch_size), batch_size)

    def sample_z(self, n: int, seed: int = 0, temperature: float | None = None) -> np.ndarray:
        """The z of `sample` with the same seed, from the prior: [n, D].

        Args:
          temperature: the chain's `z_temperature`, by default that of the configuration.
        """
        self.check_vae()
        check_indices(n, seed)
        t = (self.chain() if temperature is None else self.chain(z_temperature=temperature)).z_temperature
        return np.asarray(prior(self.networks, self.params, sample_keys(np.uint32(seed), jnp.arange(n)), t))

    def sample_x_hat(self, n: int, seed: int = 0) -> np.ndarray:
        """What the VAE generates, [n, H, W, C]: the x_hat of `sample` with the same seed."""
        return self.decode(self.sample_z(n, seed))

    def error_variance(self, images: np.ndarray) -> float:
        """The variance of x_0 about x_hat that says where a warm start begins (`spacing.warm_step`).

        Args:
          images: that the refiner was trained on, since it adds to x_hat what these lack; some hundred are enough.
        """
        truth = self.check_images(images, "images")
        return principal_variance(2 * (self.condition(truth) - truth))

    def bound(
        self, images: np.ndarray, seed: int = 0, first: int = 0, chain: Chain | None = None, batch_size: int = 64
    ) -> Bound:
        """Return the bound on log p of images, [N, H, W, C], at T evaluations of the network each.

        Args:
          images: floats are taken for the nearest of 256 levels.
          first: image i's noise is that of the seed and of index first + i.
          chain: its `variance` and `clip` are those of the reverse steps; the configuration's by default.
        """
        if not self.params["ddpm"]:
            raise UserError(UNTRAINED)
        images = to_uint8(self.check_images(images, "images", any_size=not self.networks.vae))
        check_indices(len(images), seed, first)
        chain, parts = self.chain(chain), []
        check_cond_noise(self.config, chain)
        cond_noise, seed = self.everywhere((np.array(chain.cond_noise), np.uint32(seed)))
        for count, batch in self.on_devices((images, np.arange(first, first + len(images))), batch_size):
            terms = bound_terms(self.networks, chain.variance, chain.clip, cond_noise, self.params, *batch, seed)
            parts.append([term[..., :count] for term in hosts.fetch(terms)])
        return Bound(*(np.concatenate(p, axis=-1) for p in zip(*parts, strict=True)))

    def chain(self, chain: Chain | None = None, **settings: Any) -> Chain:
        """A chain, by default that of the configuration, with some settings changed."""
        chain = chain_of(self.config.sample) if chain is None else chain
        if not isinstance(chain, Chain):
            raise UserError(f"chain = {chain!r}: it must be a Chain, such as Chain('ddim', 10)")
        for name in settings:
            one_of("setting of a chain", name, [field.name for field in fields(Chain)])
        return replace(chain, **settings)

    def everywhere(self, tree: Any) -> Any:
        """Return arrays whole on every device."""
        return jax.device_put(tree, replicated(self.mesh))

    def on_devices(self, arrays: Any, batch_size: int) -> Iterator[tuple[int, Any]]:
        """Arrays [N, ...] in batches on the devices, each with its number of images; the last is filled up."""
        in_range("batch_size", batch_size, 1)
        return in_batches(self.mesh, arrays, batch_size)

    def indexed(
        self, function: Callable[..., jax.Array], images: np.ndarray, seed: int, first: int, batch_size: int
    ) -> np.ndarray:
        """function(networks, params, images, seed, indices) for images [N, ...], batch by batch."""
        check_indices(len(images), seed, first)
        of, inputs = (self.networks, self.params), (images, np.arange(first, first + len(images)))
        seed = self.everywhere(np.uint32(seed))
        return self.mapped(lambda given: function(*of, given[0], seed, given[1]), inputs, batch_size)

    def mapped(self, function: Callable[[Any], jax.Array], arrays: Any, batch_size: int) -> np.ndarray:
        """function(arrays) for arrays [N, ...], batch by batch."""
        return np.concatenate(
            [finite(hosts.fetch(function(a))[:count]) for count, a in self.on_devices(arrays, batch_size)]
        )

    def check_x_hat(self) -> None:
        if not self.networks.has_x_hat:
            raise UserError("this model is a plain DDPM and has no VAE, hence neither z nor x_hat; take form1 or form2")

    def check_vae(self) -> None:
        self.check_x_hat()
        if not self.networks.vae:
            name = self.config.ddpm.condition
            raise UserError(f"this model has no VAE, hence no z: it was trained with ddpm.condition = {name!r}")

    def check_chain(self, chain: Chain) -> None:
        """UserError where this model cannot be sampled by a chain."""
        if not self.params["ddpm"]:
            raise UserError(UNTRAINED)
        check_chain(self.config, chain)  # before anything is compiled

    def check_given(self, given: Given, n: int) -> Given:
        """What is given for n images, as float32 arrays of one entry each; UserError where they do not fit."""
        z, x_hat, x_T = given
        if z is not None:
            self.check_vae()
        if x_hat is not None:
            self.check_x_hat()
        elif self.networks.condition:
            raise UserError(
                f"this model needs x_hat, which ddpm.condition = {self.config.ddpm.condition!r} leaves of images: "
                "model.sample(len(images), x_hat=model.condition(images))"
            )
        if z is not None and x_hat is not None:
            raise UserError("z and x_hat are both given; give one of them, since x_hat is what z decodes to")
        if x_hat is not None:
            x_hat = self.check_images(x_hat, "x_hat", any_size=not self.networks.z_conditioning)
            x_hat = spread("x_hat", x_hat, n, x_hat.shape[1:])
        return Given(
            None if z is None else spread("z", z, n, (self.networks.vae.z_dim,)),
            x_hat,
            None if x_T is None else spread("x_T", x_T, n, self.networks.shape if x_hat is None else x_hat.shape[1:]),
        )

    def check_images(self, images: np.ndarray, name: str, any_size: bool = False) -> np.ndarray:
        """Images as `inputs.as_images` gives them; with `any_size` all sizes are right that the U-Net can work on."""
        return as_images(name, images, self.networks.shape, self.networks.multiple if any_size else 0)
