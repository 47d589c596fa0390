"""The trained model as an object: generator, refiner and their schedule."""

import hashlib
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from vaedm_jax import models
from vaedm_jax.config import BEST_BY, chain_of
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.process import FORMULATIONS, PredictNoise
from vaedm_jax.diffusion.schedule import linear_schedule
from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.bound import chain_terms
from vaedm_jax.mesh import make_mesh, replicated, split_batch
from vaedm_jax.models.vae import kl_divergence, reparameterize
from vaedm_jax.reporting.files import write_whole
from vaedm_jax.rundir import decode_config, encode_config, read_config
from vaedm_jax.training.loop import restore_average
from vaedm_jax.training.stages import ddpm_stage, draw, to_symmetric, to_unit, vae_stage

SHIPPED = Path(__file__).parent / "weights"
UNTRAINED = "this model has no trained DDPM yet; train it first (--mode=train)"


class Samples(NamedTuple):
    """Images float32 [N, H, W, C] in [0, 1]; `x_hat` is None for the unconditional DDPM."""

    images: np.ndarray
    x_hat: np.ndarray | None


class Bound(NamedTuple):
    """-log p(x_0) <= z + prior + sum of steps + decoder of N images, in bits per dimension (docs/samplers.md).

    Attributes:
      z: [N], KL(q(z | x_0) || p(z)); 0 without a VAE.
      prior, decoder: [N]; steps: [T - 1, N]; see `bound.Terms`.
      condition: [N], -log p(y | z) of y = x_0 in 256 levels, of variance 1/2: the VAE was trained by a summed squared
        error. Eq. 3 bounds the joint (x_0, y) by all five, and so counts the image twice.
    """

    z: np.ndarray
    prior: np.ndarray
    steps: np.ndarray
    decoder: np.ndarray
    condition: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The bound on -log p(x_0), [N]."""
        return self.z + self.prior + self.steps.sum(axis=0) + self.decoder


class VAEDM:
    """A trained model.

    Attributes:
      config: the whole configuration that it was trained with.
      params: `vae` and `ddpm`; either may be empty where it was not trained.
      mesh: the devices that share the work; all of them by default.
    """

    def __init__(self, config: ConfigDict, vae_params: Any, ddpm_params: Any, mesh: Mesh | None = None):
        self.config, self.mesh = config, mesh or make_mesh()
        everywhere = replicated(self.mesh)
        self.params = {
            "vae": jax.device_put(vae_params, everywhere),
            "ddpm": jax.device_put(ddpm_params, everywhere),
        }
        self.networks = Networks(
            models.build_vae(config) if config.ddpm.variant != "uncond" else None,
            models.build_unet(config),
            config.ddpm.variant,
            (config.ddpm.T, config.ddpm.beta_1, config.ddpm.beta_T),
            config.ddpm.z_conditioning,
            config.data.image_size,
        )

    @classmethod
    def load(cls, file: str | Path) -> "VAEDM":
        """The model of a file that `save` wrote, or of the package: "emoji"."""
        path = SHIPPED / f"{file}.safetensors" if "/" not in str(file) and "." not in str(file) else Path(file)
        if not path.is_file():
            shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
            raise UserError(f"weights '{file}': no such file; weights in the package: {shipped}")
        try:
            with safetensors.safe_open(path, "numpy") as f:
                config = decode_config(f.metadata()["config"])
                flat = {tuple(name.split("/")): f.get_tensor(name).astype(np.float32) for name in f.keys()}
        except Exception as error:
            raise UserError(f"{path} is no file of weights that VAEDM.save wrote ({error})") from error
        params = unflatten_dict(flat)
        return cls(config, params.get("vae", {}), params.get("ddpm", {}))

    @classmethod
    def open(cls, name: str | Path, best: bool = False) -> "VAEDM":
        """The model of a run directory, or of what `load` takes."""
        return cls.from_run(name, best) if Path(name).is_dir() else cls.load(name)

    @classmethod
    def from_run(cls, workdir: str | Path, best: bool = False) -> "VAEDM":
        """The model of a run directory, from its newest checkpoints; what is not trained yet is left empty.

        Args:
          best: take the DDPM's best checkpoint (`checkpoint.best`); UserError where none is kept.
        """
        workdir, mesh = Path(workdir), make_mesh()
        config = read_config(workdir)
        vae = {}
        if config.ddpm.variant != "uncond":
            vae = restore_average(vae_stage(config), workdir, mesh)
            if vae is None:
                raise UserError(f"{workdir} holds no trained VAE yet; train it first (--mode=train)")
        ddpm = restore_average(ddpm_stage(config, vae), workdir, mesh, best)
        if best and ddpm is None:
            raise UserError(
                f"{workdir} holds no best checkpoint of the DDPM; one is kept where it is trained with "
                f"--config.checkpoint.best={BEST_BY[0]}"
            )
        return cls(config, vae, ddpm or {})

    def save(self, file: str | Path, dtype: Any = np.float32) -> None:
        """Write parameters and configuration as one safetensors file."""
        flat = flatten_dict(jax.device_get(self.params), sep="/")
        arrays = {name: np.asarray(a, dtype) for name, a in flat.items() if not isinstance(a, dict)}
        metadata = {"config": encode_config(self.config), "format": "vaedm_jax 1"}
        write_whole(Path(file), safetensors.numpy.save(arrays, metadata))

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the parameters and of all else that images depend on, but the chain."""
        digest = hashlib.sha256(repr(self.networks).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(self.params)):
            digest.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    def sample(
        self,
        n: int,
        seed: int = 0,
        first: int = 0,
        chain: Chain | None = None,
        batch_size: int = 64,
        z: np.ndarray | None = None,
    ) -> Samples:
        """Images `first` to `first + n` of a seed. Image i depends on the seed and i, and on z[i - first], alone.

        Args:
          chain: how to sample; the configuration's `sample` section by default.
          batch_size: images at a time; it is rounded up to a multiple of the devices.
          z: [n, D], such as `encode` gives; by default they are drawn from the prior.
        """
        parts = self.batches(n, seed, first, chain, batch_size, z)
        size = self.whole_batch(min(batch_size, n))
        parts = list(tqdm(parts, "sampling", -(-n // size), unit="batch", leave=False, delay=5, disable=None))
        return Samples(*(None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True)))

    def batches(
        self, n: int, seed: int, first: int, chain: Chain | None, batch_size: int, z: np.ndarray | None = None
    ) -> Iterator[Samples]:
        """The images of `sample`, batch by batch, the last of which may be smaller."""
        chain = chain or chain_of(self.config.sample)
        self.check_chain(chain)
        self.check_z(z, n)
        sharding, size = split_batch(self.mesh), self.whole_batch(min(batch_size, n))
        for begin in range(first, first + n, size):
            given = None if z is None else np.resize(z[begin - first :][:size], (size, z.shape[1]))
            indices, given = jax.device_put((np.arange(begin, begin + size), given), sharding)
            samples = jax.device_get(generate(self.networks, chain, self.params, seed, indices, given))
            yield Samples(*(a if a is None else a[: first + n - begin] for a in samples))

    def whole_batch(self, size: int) -> int:
        """A number of images, rounded up to a multiple of the devices."""
        return -(-size // self.mesh.size) * self.mesh.size

    def check_chain(self, chain: Chain) -> None:
        """UserError where this model cannot be sampled by a chain."""
        if not self.params["ddpm"]:
            raise UserError(UNTRAINED)
        if chain.start == "warm" and not FORMULATIONS[self.networks.variant].shown:
            raise UserError("start = 'warm' begins at the VAE's image, and this model has none; start from 'noise'")
        chain.schedule(self.networks.full_schedule)  # refuses an impossible chain before anything is compiled

    def check_z(self, z: np.ndarray | None, n: int) -> None:
        """UserError where z is given and is not one for each of n images."""
        if z is None:
            return
        if not FORMULATIONS[self.networks.variant].shown:
            raise UserError("z was given, and this model has no VAE that takes one; leave it out")
        wanted = (n, self.networks.vae.z_dim)
        if np.shape(z) != wanted:
            raise UserError(f"z has the shape {np.shape(z)}; for {n} images of this model it is {wanted}")

    def sample_x_hat(self, n: int, seed: int = 0) -> np.ndarray:
        """What the VAE generates, [N, H, W, C] in [0, 1]: the x_hat of `sample` with the same seed."""
        z = prior(self.networks, sample_keys(seed, jnp.arange(n)))
        return np.asarray(decode(self.networks, self.params, z))

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The mean of q(z | x), [N, D].

        Args:
          images: [N, H, W, C], uint8 or floats in [0, 1].
        """
        x = to_unit(jnp.asarray(images)) if images.dtype == np.uint8 else jnp.asarray(images)
        return np.asarray(encode(self.networks, self.params, x)[0])

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """The VAE's reconstructions, decoded from what `encode` takes and gives: [N, H, W, C] in [0, 1]."""
        return np.asarray(decode(self.networks, self.params, self.encode(images)))

    def error_variance(self, images: np.ndarray) -> float:
        """The variance of x_0 about x_hat that says where a warm start begins (`spacing.warm_step`).

        Args:
          images: [N, H, W, C] that the refiner was trained on, since it adds to x_hat what these lack; uint8 or floats
            in [0, 1]; some hundred are enough.
        """
        truth = images / 255 if images.dtype == np.uint8 else images
        error = 2 * (self.reconstruct(images) - truth).reshape(len(images), -1)
        gram = error @ error.T / len(error)  # has the eigenvalues of the covariance
        return float(np.sum(gram**2) / np.trace(gram))

    def bound(
        self, images: np.ndarray, seed: int = 0, first: int = 0, chain: Chain | None = None, batch_size: int = 64
    ) -> Bound:
        """The bound on log p of images, uint8 [N, H, W, C], at T evaluations of the network each.

        Args:
          first: image i's noise is that of the seed and of index first + i.
          chain: its `variance` and `clip` are those of the reverse steps; the configuration's by default.
        """
        if not self.params["ddpm"]:
            raise UserError(UNTRAINED)
        chain, size = chain or chain_of(self.config.sample), self.whole_batch(min(batch_size, len(images)))
        parts, sharding = [], split_batch(self.mesh)
        for begin in range(0, len(images), size):
            batch = images[begin : begin + size]
            full = np.resize(batch, (size, *batch.shape[1:])), first + np.arange(begin, begin + size)
            terms = bound_terms(self.networks, chain, self.params, *jax.device_put(full, sharding), seed)
            parts.append([term[..., : len(batch)] for term in jax.device_get(terms)])
        return Bound(*(np.concatenate(p, axis=-1) for p in zip(*parts, strict=True)))


class Networks(NamedTuple):
    """What a compiled program depends on, hashable."""

    vae: models.VAE | None
    unet: models.UNet
    variant: str
    betas: tuple[int, float, float]
    z_conditioning: bool
    size: int

    @property
    def full_schedule(self):
        return linear_schedule(*self.betas)

    def predict_noise(self, params: Any, x_hat: jax.Array | None, z: jax.Array | None) -> PredictNoise:
        """The refiner as a function of u_t and t; x_hat in [-1, 1]."""

        def network(x_t, t, x_hat, z):
            return self.unet.apply({"params": params["ddpm"]}, x_t, t, x_hat, z)

        return FORMULATIONS[self.variant].predict_noise(network, x_hat, z=z if self.z_conditioning else None)


def sample_keys(seed: jax.Array, indices: jax.Array) -> jax.Array:
    """The key of every sample, from the seed and its index."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(indices)


def fold(keys: jax.Array, i: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)


def prior(networks: Networks, keys: jax.Array) -> jax.Array:
    """z ~ N(0, I) of every sample, [B, D]."""
    return jax.vmap(lambda key: jax.random.normal(key, (networks.vae.z_dim,)))(fold(keys, 0))


@partial(jax.jit, static_argnums=0)
def encode(networks: Networks, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return networks.vae.apply({"params": params["vae"]}, x, method="encode")


@partial(jax.jit, static_argnums=0)
def decode(networks: Networks, params: Any, z: jax.Array) -> jax.Array:
    return networks.vae.apply({"params": params["vae"]}, z, method="decode")


@partial(jax.jit, static_argnums=(0, 1))
def generate(
    networks: Networks, chain: Chain, params: Any, seed: jax.Array, indices: jax.Array, z: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """Images of a seed by index [B], and their x_hat: z [B, D] or from the prior, x_hat from z, the chain from both."""
    keys = sample_keys(seed, indices)
    x_hat = shown = None
    if FORMULATIONS[networks.variant].shown:
        z = prior(networks, keys) if z is None else z
        x_hat = decode(networks, params, z)
        shown = to_symmetric(x_hat)
    predict_noise = networks.predict_noise(params, shown, z)
    shape = (networks.size, networks.size, 3)
    u_0 = chain.run(networks.full_schedule, predict_noise, fold(keys, 1), shape, shown)
    return jnp.clip((u_0 + 1) / 2, 0, 1), x_hat


@partial(jax.jit, static_argnums=(0, 1))
def bound_terms(
    networks: Networks, chain: Chain, params: Any, images: jax.Array, indices: jax.Array, seed: jax.Array
) -> Bound:
    """The bound of images, uint8 [B, H, W, C], by index [B]."""
    keys, x = sample_keys(seed, indices), to_unit(images)
    z = x_hat = None
    kl = error = jnp.zeros(len(x))
    if FORMULATIONS[networks.variant].shown:
        mu, logvar = encode(networks, params, x)
        z = reparameterize(mu, logvar, draw(keys, 0, mu.shape[1:]))
        decoded = decode(networks, params, z)
        x_hat, kl = to_symmetric(decoded), kl_divergence(mu, logvar)
        error = jnp.sum((decoded - x) ** 2, axis=(1, 2, 3)) + x[0].size * np.log(255 * np.sqrt(np.pi))
    predict_noise = networks.predict_noise(params, x_hat, z)
    terms = chain_terms(
        networks.full_schedule, predict_noise, to_symmetric(x), fold(keys, 1), chain.variance, chain.clip
    )
    bits = x[0].size * np.log(2)
    return Bound(*(term / bits for term in (kl, *terms, error)))
