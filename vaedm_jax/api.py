"""`VAEDM`: a trained model as an object, the generator, the refiner and their schedule."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Unpack

import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from PIL import Image
from tqdm import tqdm

from vaedm_jax import models
from vaedm_jax.config.build import Config, make_chain
from vaedm_jax.diffusion.chain import Chain, ChainSettings
from vaedm_jax.diffusion.schedule import Schedule
from vaedm_jax.diffusion.spacing import principal_variance
from vaedm_jax.errors import UserError, check_choice, prefix_errors
from vaedm_jax.reporting import to_uint8
from vaedm_jax.runs import hub
from vaedm_jax.runs.card import model_card, read_scores
from vaedm_jax.runs.weights import (
    Stored,
    check_prior,
    encode_weights,
    model_at,
    read_prior,
    read_run,
    read_tables,
    read_weights,
    shipped,
    without_places,
)
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.sampling.engine import Engine, Options, Samples
from vaedm_jax.sampling.generation import Bound, Given, bound_terms, decode, draw_prior, encode, posterior, shown_x_hat
from vaedm_jax.sampling.inputs import Images, as_array, as_pixels, check_indices, mirrored, path_between, spread
from vaedm_jax.storage.paths import PathLike, resolve_path, shown
from vaedm_jax.storage.writing import write_whole

NORMAL = "normal"  # N(0, I), in place of a prior that was fitted


class VAEDM:
    """A trained model.

    Images are given as uint8, or as floats in [0, 1], and returned as float32 in [0, 1]; both are [N, H, W, C]. PIL
    images of any size can be given too, one or a list: they are laid on white, resized, and cropped to the centre. All
    methods work in batches of `batch_size`, or of a power of two if there are fewer images, rounded up to a multiple of
    the devices. They compile once for each shape of a batch.

    Attributes:
      engine: runs the model for these methods, and for the modes of the command line.
      images: identifies the images that the model was trained on (`Dataset.identity`); None if that is not known.
    """

    def __init__(
        self,
        config: Config,
        vae_params: Any,
        ddpm_params: Any,
        mesh: Mesh | None = None,
        prior: Any = None,
        images: dict[str, Any] | None = None,
        tables: Any = None,
    ):
        """Copy the parameters to the devices of the mesh, by default all.

        Args:
          config: the whole configuration that the model was trained with.
          vae_params: the parameters of the VAE, empty if it is not trained.
          ddpm_params: the parameters of the refiner, empty if it is not trained.
          prior: see `models.prior`; None is N(0, I).
          tables: learnt tables, by the names of `learnt.table_name`.
        """
        params = {"vae": vae_params, "ddpm": ddpm_params, "prior": prior or {}, "tables": tables or {}}
        self.engine, self.images = Engine.load(config, params, mesh or make_mesh()), images

    def __repr__(self) -> str:
        """Return the variant, the size of the images, and the numbers of trained parameters."""
        networks = self.engine.networks
        trained = {name: self.params[part] for name, part in (("VAE", "vae"), ("U-Net", "ddpm")) if self.params[part]}
        counts = [f"{models.count(params) / 1e6:.1f} M parameters of the {name}" for name, params in trained.items()]
        facts = [networks.variant, f"{networks.size} x {networks.size} pixels", *(counts or ["untrained"])]
        return f"VAEDM({', '.join(facts)})"

    @property
    def config(self) -> Config:
        """The whole configuration that the model was trained with."""
        return self.engine.config

    @property
    def params(self) -> dict[str, Any]:
        """The parameters `vae`, `ddpm`, `prior` and `tables`; empty if they are not trained."""
        return self.engine.params

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of all T steps."""
        return self.engine.networks.full_schedule

    @classmethod
    def open(cls, name: PathLike, best: bool = False) -> "VAEDM":
        """Load a run directory, a file of weights, or weights of the package, whichever has this name.

        Args:
          best: take the DDPM's best checkpoint of a run; see `from_run`. A file of weights has only one.
        """
        path = model_at(name)
        return cls.from_run(path, best) if path.is_dir() else cls.from_checkpoint(path)

    @classmethod
    def from_pretrained(cls, name: str = "avatars", revision: str | None = None) -> "VAEDM":
        """Load weights of the package by name (docs/models.md), or those of a repository of the Hugging Face Hub.

        Args:
          name: such as "avatars", or "user/model".
          revision: a branch, a tag or a commit of the repository; by default its main branch.
        """
        if "/" not in name:
            if revision is not None:
                raise UserError(f"revision = {revision!r}: weights of the package have none; leave it out")
            return cls.from_checkpoint(shipped(name))
        return cls.open(f"{hub.PREFIX}{name.removeprefix(hub.PREFIX)}" + (f"@{revision}" if revision else ""))

    @classmethod
    def from_checkpoint(cls, file: PathLike) -> "VAEDM":
        """Load a file that `save` wrote; raise UserError unless its arrays are those of the networks."""
        return cls._of(read_weights(file), file)

    @classmethod
    def from_run(cls, workdir: PathLike, best: bool = False) -> "VAEDM":
        """Load the newest checkpoints of a run directory. Parameters that are not trained yet are left empty.

        Args:
          best: take the DDPM's best checkpoint (`checkpoint.best`); raise UserError if none is kept.
        """
        workdir, mesh = resolve_path(workdir, "run"), make_mesh()
        return cls._of(read_run(workdir, mesh, best), workdir, mesh)

    @classmethod
    def _of(cls, stored: Stored, place: PathLike, mesh: Mesh | None = None) -> "VAEDM":
        config, params, images = stored
        with prefix_errors(f"{shown(place)}: "):
            vae, ddpm, prior, tables = (params.get(name, {}) for name in ("vae", "ddpm", "prior", "tables"))
            return cls(config, vae, ddpm, mesh, prior, images, tables)

    def _with(self, engine: Engine) -> "VAEDM":
        model = object.__new__(type(self))
        model.engine, model.images = engine, self.images
        return model

    def with_precision(self, vae: str, ddpm: str) -> "VAEDM":
        """Return the model with networks that compute in "float32" or "bfloat16"."""
        config = self.config.copy_and_resolve_references()
        config.vae.precision, config.ddpm.precision = vae, ddpm
        return self._with(replace(self.engine, config=config))

    def with_prior(self, source: PathLike) -> "VAEDM":
        """Return the model with another prior of z.

        Args:
          source: a file that mode `prior` wrote, other weights with this VAE and a prior, or "normal" for N(0, I).

        Raises:
          UserError: there is no prior, or it was fitted to another VAE.
        """
        z_dim, digest = self.engine.check_vae().z_dim, self.engine.vae_digest
        if source == NORMAL:
            prior = {}
        elif str(source).endswith(".npz"):
            prior = read_prior(source, z_dim, digest)
        else:
            with prefix_errors("sample.prior: "):
                other = VAEDM.open(source)
            prior = check_prior(source, other.params["prior"], other.engine.vae_digest, digest)
        return self._with(self.engine.with_params(prior=prior))

    def with_tables(self, file: PathLike) -> "VAEDM":
        """Return the model with the learnt tables of a file of mode `tune` beside its own, for `sampler="tuned"`.

        Raises:
          UserError: the tables were fitted to another refiner.
        """
        tables = read_tables(file, self.engine.refiner_digest)
        return self._with(self.engine.with_params(tables=self.params["tables"] | tables))

    def save(self, file: PathLike, dtype: Any = np.float32) -> None:
        """Write the whole model, parameters and configuration, as one safetensors file.

        Args:
          dtype: of the parameters in the file: float16, bfloat16, float32 or float64.
        """
        write_whole(resolve_path(file, "file"), encode_weights(Stored(self.config, self.params, self.images), dtype))

    def push_to_hub(
        self,
        repository: str,
        *,
        evaluation: PathLike | None = None,
        licence: str = "",
        private: bool = False,
        dtype: Any = np.float32,
    ) -> str:
        """Write the model to a repository of the Hugging Face Hub, with a model card and samples; return its address.

        The repository is created if necessary. Log in before, by `hf auth login`. There are no samples of a refiner
        with a `ddpm.condition`, which needs images for them. No path of this machine is published.

        Args:
          repository: "user/model".
          evaluation: an `evaluation.csv` of mode `evaluate`, whose figures become a table of the card.
          licence: the licence of the weights, by the Hub's name for it, such as "cc-by-4.0".
        """
        rows, chain = read_scores(evaluation) if evaluation else [], self.chain().describe(self.schedule)
        card = model_card(repository, self.config, self.params, self.images, chain, rows, licence)
        files = {hub.CARD: card.encode()}
        files[hub.WEIGHTS] = encode_weights(Stored(without_places(self.config), self.params, self.images), dtype)
        if not self.engine.networks.condition:
            files["samples.png"] = self.sample(16, seed=0, progress=False).to_png()
        return hub.push(repository, files, private)

    def chain(self, chain: Chain | None = None, **settings: Unpack[ChainSettings]) -> Chain:
        """Return a chain, by default that of the configuration, with some settings changed."""
        chain = make_chain(self.config.sample) if chain is None else chain
        if not isinstance(chain, Chain):
            raise UserError(f"chain = {chain!r}: it must be a Chain, such as Chain('ddim', 10)")
        for name in settings:
            check_choice("setting of a chain", name, [field.name for field in fields(Chain)])
        return replace(chain, **settings)

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: ArrayLike | None = None,
        x_T: ArrayLike | None = None,
        x_hat: Images | None = None,
        begin: Images | None = None,
        first: int = 0,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | bool = True,
        chain: Chain | None = None,
        **settings: Unpack[ChainSettings],
    ) -> Samples:
        """Return the n images of a seed from index `first` on.

        Image i depends only on the seed, on i and on its own inputs, apart from rounding, which the batch size changes.

        Args:
          z: [n, D], or [D] for all images: what the VAE decodes; by default it is drawn from the prior.
          x_T: [n, H, W, C], or [H, W, C] for all images: the noise that the chain starts from, or that noises x_hat for
            a warm start; by default it is drawn. (`shared=True` gives all images the same x_T and noise in each step.)
          x_hat: [n, H, W, C], images that the refiner is shown instead of decoded z. A refiner with a `ddpm.condition`
            needs them; see `condition`.
          begin: [n, H, W, C], images that a warm start noises instead of x_hat.
          progress: called with the number of finished images and n after each batch. True shows a progress bar if it
            takes longer than some seconds, False shows nothing.
          chain: how to sample, by default as in the configuration.
          settings: settings of the chain to change, such as sampler="unipc2", steps=5, start="warm"; see `Chain`.
        """
        check_indices(n, seed, first)
        parts, done, chain = [], 0, self.chain(chain, **settings)
        hidden = None if progress is True else True  # None: only where stderr is no terminal
        with tqdm(total=n, desc="sampling", unit="image", leave=False, delay=5, disable=hidden) as bar:
            for part in self.engine.sample_batches(n, seed, first, chain, batch_size, Given(z, x_hat, x_T, begin)):
                parts.append(part)
                done += len(part.images)
                bar.update(len(part.images))
                if callable(progress):
                    progress(done, n)
        x_hats = [part.x_hat for part in parts if part.x_hat is not None]
        return Samples(np.concatenate([part.images for part in parts]), np.concatenate(x_hats) if x_hats else None)

    def refine(
        self,
        images: Images,
        seed: int = 0,
        x_T: ArrayLike | None = None,
        begin: Images | None = None,
        **how: Unpack[Options],
    ) -> np.ndarray:
        """Refine images [N, H, W, C], which take the place of x_hat.

        They may have any size, unless the refiner is also given z. Images are mirrored at their edges to a size that
        the U-Net can work on, and cropped afterwards.

        Args:
          x_T: see `sample`.
          begin: see `sample`.
          how: further arguments of `sample`.
        """
        size, multiple = self.engine.networks.size, self.engine.networks.multiple
        images = as_pixels("images", images, size)
        if images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise UserError(f"images of the shape {images.shape}; give [N, H, W, 3]")
        n, H, W, _ = images.shape
        if x_T is not None:
            x_T = mirrored(spread("x_T", x_T, n, images.shape[1:]), multiple)
        if begin is not None:
            begin = as_pixels("begin", begin, size)
            if begin.shape != images.shape:
                raise UserError(f"begin has the shape {begin.shape}; it must be that of the images, {images.shape}")
            begin = mirrored(begin, multiple)
        return self.sample(n, seed, x_hat=mirrored(images, multiple), x_T=x_T, begin=begin, **how).images[:, :H, :W]

    def interpolate(
        self,
        a: ArrayLike | Image.Image,
        b: ArrayLike | Image.Image,
        n: int = 8,
        path: str = "linear",
        seed: int = 0,
        **how: Unpack[Options],
    ) -> Samples:
        """Return n samples on the path from a to b in z, with the same noise for all (figure 2 of the paper).

        Args:
          a: z [D], or an image, [H, W, C] or of PIL, which is encoded.
          b: the other end, in one of these forms.
          path: "linear" or "spherical"; see `inputs.path_between`.
          how: arguments of `sample`.
        """
        ends = [as_pixels("an end", end, self.engine.networks.size) for end in (a, b)]
        for end in ends:
            if end.ndim > 2 and np.prod(end.shape[:-3]) != 1:
                raise UserError(f"an end of the shape {end.shape}; give one z, [D], or one image, [H, W, C]")
        start, end = (self.encode(e.reshape(-1, *e.shape[-3:]))[0] if e.ndim > 2 else e for e in ends)
        return self.sample(n, seed, z=path_between(start, end, n, path), **{"shared": True, **how})

    def encode(self, images: Images, batch_size: int = 64) -> np.ndarray:
        """Return the mean of q(z | x) of images, [N, D]."""
        engine = self.engine
        engine.check_vae()
        x = engine.check_images(images, "images")
        return engine.map_batches(lambda x: encode(engine.networks, engine.params, x)[0], x, batch_size)

    def posterior(self, images: Images, seed: int = 0, first: int = 0, batch_size: int = 64) -> np.ndarray:
        """Draw one z of q(z | x) for each image, [N, D].

        Args:
          seed: the noise of image i is that of this seed and of index first + i.
          first: see `seed`.
        """
        self.engine.check_vae()
        x = self.engine.check_images(images, "images")
        return self.engine.map_images(posterior, x, seed, first, batch_size)

    def decode(self, z: ArrayLike, batch_size: int = 64) -> np.ndarray:
        """Return x_hat [N, H, W, C] of z [N, D]."""
        z, engine = as_array("z", z), self.engine
        if z.ndim != 2 or not len(z):
            raise UserError(f"z of the shape {z.shape}; give [N, D]")
        z = engine.check_given(Given(z), len(z)).z
        return engine.map_batches(lambda z: decode(engine.networks, engine.params, z), z, batch_size)

    def reconstruct(self, images: Images, batch_size: int = 64) -> np.ndarray:
        """Return the VAE's reconstructions of images, [N, H, W, C], decoded from the mean of q(z | x)."""
        return self.decode(self.encode(images, batch_size), batch_size)

    def condition(self, images: Images, seed: int = 0, first: int = 0, batch_size: int = 64) -> np.ndarray:
        """Return x_hat of images, [N, H, W, C]: their reconstructions, or what `ddpm.condition` leaves of them.

        Args:
          seed: if the condition is random, image i is that of this seed and of index first + i.
          first: see `seed`.
        """
        self.engine.check_x_hat()
        x = self.engine.check_images(images, "images", any_size=bool(self.engine.networks.condition))
        return self.engine.map_images(shown_x_hat, x, seed, first, batch_size)

    def sample_z(self, n: int, seed: int = 0, temperature: float | None = None, batch_size: int = 64) -> np.ndarray:
        """Draw n latents from the prior, [n, D]: those that `sample` draws with this seed.

        Args:
          temperature: `z_temperature` of the chain, by default that of the configuration.
        """
        engine = self.engine
        engine.check_vae()
        check_indices(n, seed)
        t = (self.chain() if temperature is None else self.chain(z_temperature=temperature)).z_temperature
        key, t = engine.replicate((np.uint32(seed), np.float32(t)))
        return engine.map_batches(
            lambda indices: draw_prior(engine.networks, engine.params, key, indices, t), np.arange(n), batch_size
        )

    def sample_x_hat(self, n: int, seed: int = 0) -> np.ndarray:
        """Return n samples of the VAE, [n, H, W, C]: the x_hat of `sample` with this seed."""
        return self.decode(self.sample_z(n, seed))

    def error_variance(self, images: Images) -> float:
        """Return the variance of x_0 about x_hat, from which a warm start finds its first step (`spacing.warm_step`).

        Args:
          images: training images of the refiner, since it adds what x_hat lacks of these; some hundreds are enough.
        """
        truth = self.engine.check_images(images, "images")
        return principal_variance(2 * (self.condition(truth) - truth))

    def bound(
        self, images: Images, seed: int = 0, first: int = 0, chain: Chain | None = None, batch_size: int = 64
    ) -> Bound:
        """Return the bound on log p of images [N, H, W, C]. Each image takes T evaluations of the network.

        Args:
          images: floats are rounded to 256 levels.
          seed: the noise of image i is that of this seed and of index first + i.
          first: see `seed`.
          chain: its `variance`, `clip` and `cond_noise` are those of the reverse steps; by default as configured.
        """
        engine, chain = self.engine, self.chain(chain)
        engine.check_bound(chain)
        levels = to_uint8(engine.check_images(images, "images", any_size=not engine.networks.vae))
        check_indices(len(levels), seed, first)
        cond_noise, key = engine.replicate((np.array(chain.cond_noise), np.uint32(seed)))
        parts = []
        for count, batch in engine.on_devices((levels, np.arange(first, first + len(levels))), batch_size):
            terms = bound_terms(engine.networks, chain.variance, chain.clip, cond_noise, engine.params, *batch, key)
            parts.append([term[..., :count] for term in hosts.to_host(terms)])
        return Bound(*(np.concatenate(p, axis=-1) for p in zip(*parts, strict=True)))
