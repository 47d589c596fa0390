"""A model in memory: its parameters on the devices, batches of work for them, and the checks of what it is given."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from vaedm_jax.config.build import Config
from vaedm_jax.config.checks import check_chain, check_cond_noise
from vaedm_jax.diffusion.chain import Chain, ChainArrays, ChainSettings
from vaedm_jax.diffusion.learnt import TUNED, Learnt, learnt_table, table_name
from vaedm_jax.errors import RunError, UserError, check_range
from vaedm_jax.models import VAE
from vaedm_jax.reporting import grid, sample_rows, to_png, to_uint8
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.compiling import announce_compilation
from vaedm_jax.runtime.mesh import in_batches, replicated
from vaedm_jax.sampling.generation import NOTHING, Given, generate
from vaedm_jax.sampling.inputs import as_images, check_indices, compute_digest, spread
from vaedm_jax.sampling.networks import Networks, build_networks
from vaedm_jax.storage.paths import PathLike, resolve_path
from vaedm_jax.storage.writing import write_whole

UNTRAINED = "this model has no trained DDPM yet; train it first (--mode=train)"


class Options(ChainSettings, total=False):
    """Those arguments of `VAEDM.sample` that other methods pass on to it."""

    first: int
    batch_size: int
    progress: Callable[[int, int], None] | bool
    chain: Chain | None


class Samples(NamedTuple):
    """Samples and the x_hat that they were refined from.

    Attributes:
      images: float32 [N, H, W, C] in [0, 1].
      x_hat: the same; None for a plain DDPM.
    """

    images: np.ndarray
    x_hat: np.ndarray | None

    def to_pil(self) -> list[Image.Image]:
        """Return the images as PIL images."""
        return [Image.fromarray(image) for image in to_uint8(self.images)]

    def to_png(self) -> bytes:
        """Return a grid of the images, each below its x_hat, as a PNG."""
        labels, rows = zip(*sample_rows(*self), strict=True)
        return to_png(grid(rows, labels))

    def save(self, file: PathLike) -> None:
        """Write the grid of `to_png` to a file."""
        write_whole(resolve_path(file, "file"), self.to_png())


def check_finite(made: np.ndarray) -> np.ndarray:
    """Return the results of a model for N inputs, [N, ...]; raise RunError if a number is not finite."""
    bad = ~np.asarray(np.isfinite(made).all(axis=tuple(range(1, made.ndim))))
    if bad.any():
        raise RunError(
            f"{bad.sum()} of {len(bad)} results of this model are not finite: its weights or a setting of the chain "
            "(guidance, temperature, churn) give numbers that are too large"
        )
    return made


@dataclass(frozen=True, eq=False)
class Engine:
    """What `VAEDM` and the modes use to run a model.

    Attributes:
      config: the whole configuration.
      params: the parameters `vae`, `ddpm`, `prior` and `tables`, whole on every device of the mesh.
      mesh: the devices that share the batches.
    """

    config: Config
    params: Any
    mesh: Mesh

    @classmethod
    def load(cls, config: Config, params: Any, mesh: Mesh) -> "Engine":
        """Copy parameters to the devices; raise UserError if a setting that training measures is missing."""
        announce_compilation()
        engine = cls(config, jax.device_put(params, replicated(mesh)), mesh)
        networks = engine.networks
        if params["ddpm"] and (missing := networks.target.lacks(networks.form)):
            lost = " and ".join(f"ddpm.{name}" for name in missing)
            raise UserError(
                f"ddpm.prediction = {config.ddpm.prediction!r} needs {lost}, which training stores with the model; "
                "here it is 0"
            )
        return engine

    def with_params(self, **params: Any) -> "Engine":
        """Return the engine with some of the parameters replaced."""
        return replace(self, params=jax.device_put(self.params | params, replicated(self.mesh)))

    @cached_property
    def networks(self) -> Networks:
        """The networks, without parameters."""
        return build_networks(self.config)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the parameters and of all else that samples depend on, except the chain."""
        return compute_digest(self.params, json.dumps(self.networks.meaning, sort_keys=True))

    @cached_property
    def vae_digest(self) -> str:
        """A digest of the VAE's parameters."""
        return compute_digest(self.params["vae"])

    @cached_property
    def refiner_digest(self) -> str:
        """A digest of the refiner's parameters."""
        return compute_digest(self.params["ddpm"])

    def check_trained(self) -> None:
        """Raise UserError if there is no refiner."""
        if not self.params["ddpm"]:
            raise UserError(UNTRAINED)

    def check_x_hat(self) -> None:
        """Raise UserError if the refiner is shown nothing."""
        if not self.networks.has_x_hat:
            raise UserError("this model is a plain DDPM and has no VAE, hence neither z nor x_hat; use form1 or form2")

    def check_vae(self) -> VAE:
        """Return the VAE of the model; raise UserError if it has none."""
        self.check_x_hat()
        if not self.networks.vae:
            name = self.config.ddpm.condition
            raise UserError(f"this model has no VAE, hence no z: it was trained with ddpm.condition = {name!r}")
        return self.networks.vae

    def check_chain(self, chain: Chain) -> None:
        """Raise UserError if the model cannot be sampled by a chain. Nothing is compiled."""
        self.check_trained()
        check_chain(self.config, chain)
        if chain.sampler == TUNED:
            self.learnt(chain)

    def check_bound(self, chain: Chain) -> None:
        """Raise UserError if the model has no bound on log p(x_0) with the settings of a chain."""
        self.check_trained()
        if self.config.ddpm.objective == "consistency":
            raise UserError(
                "ddpm.objective = 'consistency': this model gives samples of the clean image, but the bound needs its "
                "mean; use the model that it was tuned from"
            )
        check_cond_noise(self.config, chain)

    def learnt(self, chain: Chain) -> Learnt:
        """Return the numbers of the learnt table for a chain; raise UserError if the model has none."""
        name, tables = table_name(chain), self.params["tables"]
        if name not in tables:
            have = f"it has {', '.join(sorted(tables))}" if tables else "it has none"
            raise UserError(
                f"sampler = {TUNED!r}: this model has no learnt table {name} for this start and number of steps; "
                f"{have}; fit one (--mode=tune), and name its file (--config.sample.tables=FILE)"
            )
        return Learnt(**tables[name])

    def arrays(self, chain: Chain) -> ChainArrays:
        """Return a chain as arrays, the input of `generate`."""
        full = self.networks.full_schedule
        arrays = chain.arrays(full)
        if chain.sampler != TUNED:
            return arrays
        learnt = jax.tree.map(hosts.to_host, self.learnt(chain))
        return arrays._replace(table=learnt_table(full, arrays.table, learnt))

    def check_given(self, given: Given, n: int) -> Given:
        """Return the inputs of n images as float32 arrays with n entries each; raise UserError if they do not fit."""
        z, x_hat, x_T, begin = given
        if z is not None:
            z = spread("z", z, n, (self.check_vae().z_dim,))
        if x_hat is not None:
            self.check_x_hat()
        elif self.networks.condition:
            raise UserError(
                f"this model needs x_hat, made from images by ddpm.condition = {self.config.ddpm.condition!r}: "
                "model.sample(len(images), x_hat=model.condition(images))"
            )
        if z is not None and x_hat is not None:
            raise UserError("z and x_hat are both given; give one of them, since x_hat is decoded from z")
        if x_hat is not None:
            x_hat = self.check_images(x_hat, "x_hat", any_size=not self.networks.z_conditioning)
            x_hat = spread("x_hat", x_hat, n, x_hat.shape[1:])
        if x_T is not None:
            x_T = spread("x_T", x_T, n, self.networks.shape if x_hat is None else x_hat.shape[1:])
        if begin is not None:
            begin = self.check_images(begin, "begin", any_size=x_hat is not None)
            begin = spread("begin", begin, n, self.networks.shape if x_hat is None else x_hat.shape[1:])
        return Given(z, x_hat, x_T, begin)

    def check_images(self, images: Any, name: str, any_size: bool = False) -> np.ndarray:
        """Return images as float32 [N, H, W, C] in [0, 1]; raise UserError if they do not fit the model.

        Args:
          name: what the error calls them.
          any_size: allow all sizes that the U-Net can work on.
        """
        return as_images(name, images, self.networks.shape, self.networks.multiple if any_size else 0)

    def replicate(self, tree: Any) -> Any:
        """Copy arrays of the host to every device. All processes must give the same."""

        def narrow(a: np.ndarray) -> np.ndarray:  # JAX compares what the processes give, and would not do it itself
            return np.asarray(a, jax.dtypes.canonicalize_dtype(a.dtype))

        return jax.device_put(jax.tree.map(narrow, tree), replicated(self.mesh))

    def on_devices(self, arrays: Any, batch_size: int) -> Iterator[tuple[int, Any]]:
        """Yield arrays [N, ...] in batches on the devices, each with its number of entries; the last is filled up."""
        check_range("batch_size", batch_size, 1)
        return in_batches(self.mesh, arrays, batch_size)

    def map_batches(self, function: Callable[[Any], jax.Array], arrays: Any, batch_size: int) -> np.ndarray:
        """Return function(arrays) of arrays [N, ...], computed batch by batch."""
        batches = self.on_devices(arrays, batch_size)
        return np.concatenate([check_finite(hosts.to_host(function(batch))[:count]) for count, batch in batches])

    def map_images(
        self, function: Callable[..., jax.Array], images: np.ndarray, seed: int, first: int, batch_size: int
    ) -> np.ndarray:
        """Return function(networks, params, images, seed, indices) of images [N, ...], computed batch by batch."""
        check_indices(len(images), seed, first)
        key = self.replicate(np.uint32(seed))
        inputs = images, np.arange(first, first + len(images))
        return self.map_batches(
            lambda batch: function(self.networks, self.params, batch[0], key, batch[1]), inputs, batch_size
        )

    def sample_batches(
        self, n: int, seed: int, first: int, chain: Chain, batch_size: int, given: Given = NOTHING
    ) -> Iterator[Samples]:
        """Yield the n images of a seed from index `first` on, batch by batch; the last batch may be smaller."""
        check_indices(n, seed, first)
        self.check_chain(chain)
        if given.begin is not None and chain.start != "warm":
            raise UserError(f"begin is given, but start = {chain.start!r}: only a warm start begins at an image")
        inputs = np.arange(first, first + n), self.check_given(given, n)
        arrays, key = self.replicate((self.arrays(chain), np.uint32(seed)))
        for count, (indices, batch) in self.on_devices(inputs, batch_size):
            samples = hosts.to_host(generate(self.networks, arrays, self.params, key, indices, batch))
            images, x_hat = samples
            yield Samples(check_finite(images[:count]), None if x_hat is None else check_finite(x_hat[:count]))
