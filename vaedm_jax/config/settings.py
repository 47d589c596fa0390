"""Every setting, its default, and what it means. A file in `configs/` changes what it needs and no more."""

from typing import Any

from ml_collections import ConfigDict

from vaedm_jax.config.trust import check_borrowed
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.errors import one_of
from vaedm_jax.models.published import VAES
from vaedm_jax.storage.paths import path_of

BEST_BY = ("held_out_loss", "kid", "fd")  # figures that the best checkpoint may be chosen by: the lowest is best

# What may differ when a run directory is used again. All else makes another model.
FREE = (
    "*.steps",
    "*.epochs",
    "*.microbatches",
    "*.precision",
    "*.remat",
    "*.packed",
    "ddpm.allow_signal_at_T",
    "mesh.*",
    "xla.*",
    "log.*",
    "restore.*",
    "figures.*",
    "explore.*",
    "plan.*",
    "checkpoint.*",
    "sample.*",
    "eval.*",
    "data.tfds_dir",
    "data.archive",
    "data.workers",
    "data.max_pixels",
    "data.changed",
    "prepare.*",
    "prior.*",
)
# What may be changed on purpose in the middle of a run; it is said, and the run goes on.
TUNABLE = (
    *("*.learning_rate", "*.decay", "*.warmup", "*.clip", "*.ema_*", "ddpm.dropout", "ddpm.cond_dropout"),
    *("ddpm.weighting", "ddpm.min_snr", "ddpm.t_*"),
)
# What training measures where it is 0, of x_hat and of the images.
MEASURED = ("ddpm.sigma_r", "ddpm.sigma_data")


def base_config(variant: str = "form1") -> ConfigDict:
    """The defaults; the networks and the optimisation are the paper's for CIFAR-10 (appendix E).

    Args:
      variant: `uncond` (a plain DDPM), `form1` or `form2` (the paper's Formulations 1 and 2).
    """
    one_of("variant", variant, FORMULATIONS)
    c = ConfigDict()
    c.seed = 0  # of the data's order, the initial weights and all noise in training
    c.seed_per_stage = True  # each stage draws from the seed in its own way; False: both draw alike, as runs once did
    c.data, c.vae, c.ddpm = data_defaults(), vae_defaults(), ddpm_defaults(variant)
    c.sample, c.eval = sample_defaults(), eval_defaults()

    # Over the devices: the batch is split; `model` of them share each large array of parameters; with `fsdp` so do the
    # others, and a device holds a part of parameters, average and optimiser.
    c.mesh = ConfigDict({"model": 1, "fsdp": False})

    # How XLA computes. `deterministic`: a GPU gives the same bits at every run, more slowly (docs/gpu.md); a CPU and a
    # TPU do anyway. `matmul_precision`: that of products and convolutions of float32, "float32", "tensorfloat32" or
    # "bfloat16". The default is bfloat16 on a TPU, and TensorFloat-32 on a GPU that has it.
    c.xla = ConfigDict({"deterministic": False, "matmul_precision": "default"})

    # What pictures have lost: "super": they were reduced by `factor`; "denoise": noise of deviation `sigma` was added.
    # Empty: what `ddpm.condition` takes from them, or "super" where that is "vae".
    c.restore = ConfigDict({"task": "", "factor": 2, "sigma": 0.1})
    c.restore.files = ""  # a folder of such pictures; empty: held-out images are damaged so, restored, and scored
    c.restore.n = 0  # so many of either; 0: all
    c.restore.pixels = 256 * 256  # larger ones are refused: attention takes memory by the square of their number

    # Images in a row; numbers of steps that are compared; z, and x_T, whose shares of the variance are estimated.
    c.figures = ConfigDict({"columns": 8, "steps": (2, 5, 10, 25), "z": 12, "x_T": 12})

    # Where the page of mode `explore` is served; "0.0.0.0" lets other machines in.
    c.explore = ConfigDict({"host": "127.0.0.1", "port": 7860})

    # Mode `plan`: the accelerators that it compiles for, separated by commas (vaedm_jax/runtime/targets.py), and the
    # number of images to train on; 0: that of the data, which must be here then.
    c.plan = ConfigDict({"targets": "tpu-v5e-1", "images": 0})

    # A folder of images as records (mode `prepare`): processes that work on it, 0: one a core; files that the records
    # are spread over, 0: one for 4,096 images; Apache Beam's options in place of processes here, such as
    # "runner=FlinkRunner,flink_master=HOST:8081", as `tfds build --beam_pipeline_options` takes them.
    c.prepare = ConfigDict({"workers": 0, "shards": 0, "beam": ""})

    # Mode `prior`: what is tried, mixtures of "full" or "diag" covariances, "flow"; numbers of components; steps that
    # the flow is trained for; images of either side, whose z they are fitted to and chosen by, at most; 0: all.
    c.prior = ConfigDict({"kinds": "full,diag,flow", "components": (1, 4, 16, 64, 256), "steps": 3000})
    c.prior.images = 20_000

    # Intervals in steps; a picture has so many images, sampled in so many reverse steps.
    c.log = ConfigDict({"every": 50, "pictures": 1000, "images": 16, "sample_steps": 10})
    c.log.scored = 0  # so many samples are scored at every picture (KID, FD), by the first of eval.features
    c.checkpoint = ConfigDict({"every": 1000, "keep": 2})
    # "held_out_loss", "kid" or "fd" keeps the DDPM's best state too, looked for at every picture. It stands on the
    # VAE's newest state, so no other of the VAE is kept.
    c.checkpoint.best = ""
    return c.lock()


def published_config(variant: str = "form1") -> ConfigDict:
    """The defaults of what the authors of the method published, where their files do not tell it."""
    c = base_config(variant).unlock()
    c.ddpm.heads, c.ddpm.ema_schedule, c.data.flip = 8, "constant", True
    c.ddpm.scale_betas = False
    c.sample.variance, c.sample.clip_eps = "fixedlarge", False
    return c.lock()


def small_config(variant: str = "form1") -> ConfigDict:
    """Networks for images of 32 x 32 on a CPU with two cores: a VAE of 1.6 M and a U-Net of 4.5 M parameters.

    The U-Net works on 2 x 2 patches.
    """
    c = base_config(variant).unlock()
    c.vae.enc_block = "32d2,32t16,16d2,16t8,8x1,8d2,8t4,4x1,4d4,4t1,1x1"
    c.vae.dec_block = "1x1,1u4,1t4,4x1,4u2,4t8,8x2,8u2,8t16,16x1,16u2,16t32,32x1"
    c.vae.channels = "32:16,16:64,8:128,4:256,1:64"
    c.vae.batch_size, c.vae.steps, c.vae.learning_rate = 32, 4000, 5e-4
    c.vae.ema_decay = 0.999

    c.ddpm.channels, c.ddpm.multipliers, c.ddpm.blocks, c.ddpm.patch = 64, (1, 2, 2), 1, 2
    c.ddpm.batch_size, c.ddpm.steps, c.ddpm.learning_rate = 32, 12800, 1e-3
    c.ddpm.warmup, c.ddpm.dropout = 500, 0.0
    c.ddpm.ema_decay, c.ddpm.ema_schedule = 0.999, "constant"

    c.log.pictures, c.checkpoint.every = 500, 500
    c.sample.sampler, c.sample.start, c.sample.steps = "unipc2", "warm", 5
    if variant == "uncond":
        c.sample.sampler, c.sample.start, c.sample.steps = "ddpm", "noise", 50
    c.sample.nearest = True
    return c.lock()


def data_defaults() -> ConfigDict:
    """Images, and where they come from."""
    c = ConfigDict()
    c.source = "emoji"  # the embedded set, "avatars", or the name of a tfds data set
    c.path = ""  # a folder of images, or of what mode `prepare` or tfds made; wins over source and category
    c.every_format = True  # of a folder: all that Pillow reads, also behind links to folders; False: as runs once did
    c.max_pixels = 2**29  # of a picture in the folder; larger ones are refused, since they take memory
    c.changed = False  # go on although the images are others than the run was trained on; for this command alone
    c.image_size = 32
    c.category = ""  # of the emoji, such as "People & Body"; empty: all
    c.held_out = 0.05  # share of images kept from training where the source has no test split
    c.avatars = 8192  # of the source avatars, so many to train on; those held out come on top, a share of that
    c.flip = False  # random horizontal flips (the paper has none)
    c.tfds_dir = ""  # where tfds keeps its data; empty: its own default
    c.archive = ""  # cifar-10-binary.tar.gz, where it lies on disk already; or where avatars lie or should, once drawn
    c.workers = 0  # processes that read and decode; 0: threads of the training process. The batches are the same
    return c


def vae_defaults() -> ConfigDict:
    """Stage 1."""
    c = training_defaults(batch_size=128, epochs=500, learning_rate=1e-4)
    # Block strings (vaedm_jax/models/blocks.py), and widths, of which that of resolution 1 is the size of z.
    c.enc_block, c.dec_block, c.channels = VAES["cifar10"].blocks
    c.packed = False  # work on 2x2 patches where it is narrow: the same results, quicker on a TPU, slower on a CPU
    c.kl_weight = 1.0
    c.kl_warmup = 0  # steps over which the weight rises to that
    c.checkpoint = ""  # run directory, or weights, whose VAE is used instead of training one
    return c


def ddpm_defaults(variant: str) -> ConfigDict:
    """Stage 2."""
    c = training_defaults(batch_size=128, epochs=1000, learning_rate=2e-4)
    c.warmup, c.clip = 5000, 1.0
    c.ema_decay, c.ema_schedule = 0.9999, "byol"
    c.variant = variant
    # What x_hat is: decoded from z by the VAE, or what is left of the image itself: "downsample4", "grayscale",
    # "mask0.5", "blur2" (vaedm_jax/conditioning/conditions.py).
    c.condition = "vae"
    c.T, c.beta_1, c.beta_T = 1000, 1e-4, 0.02
    c.scale_betas = True  # betas are those of 1,000 steps, multiplied by 1000 / T; False: those of T steps, as they are
    c.allow_signal_at_T = False  # train also where alpha_bar at T is above 0.01; chains begin at noise all the same
    # What the network gives: "eps" (the paper), "v", or "residual", which is what x_hat lacks (docs/training.md).
    c.prediction = "eps"
    # Of "residual": root mean squares of x_0 - x_hat, and of x_0, in [-1, 1]; 0: training measures them.
    c.sigma_r, c.sigma_data = 0.0, 0.0
    c.weighting, c.min_snr = "mse", 5.0  # of what the network gives; or "min_snr", with its gamma
    # t in training: "uniform"; or "lognormal": log (rest / root) is normal, for "residual" about the log of its sigma.
    c.t_sampling, c.t_mean, c.t_deviation = "uniform", -0.2, 1.4
    c.cond_noise = 0  # steps of the chain by which x_hat is noised at most before it is shown; 0: it never is
    c.channels, c.multipliers, c.blocks = 128, (1, 2, 2, 2), 2
    c.attention = (2,)  # downsampling factors of the levels that attend
    c.heads, c.dropout = 1, 0.1
    c.patch = 1  # the network works on patches of this many pixels a side
    c.cond_dropout = 0.0  # share of images whose x_hat and z are blanked, each by itself; for sample.guidance
    c.z_conditioning = False  # z enters beside the time embedding; of `uncond` as all that it knows
    c.scale_shift = False  # the embedding scales and shifts normalisations
    return c


def sample_defaults() -> ConfigDict:
    """Sampling."""
    c = ConfigDict()
    c.weights = ""  # a .safetensors file, or "emoji" for the weights in the package; empty: the run's own
    c.best = False  # take the DDPM's best checkpoint, not its newest
    c.n, c.batch_size, c.seed = 64, 64, 0
    # "ddpm" is ancestral; or "ddim", "dpm++2m", "dpm++3m", "unipc2", "unipc3", "ipndm", "heun"
    c.sampler, c.steps = "ddpm", 1000
    c.start = "noise"  # at T; or "truncated", "warm"
    c.spacing = "even"  # or "uniform", "quadratic", "logsnr", "karras"
    c.t_start = 500  # where a warm start begins; 0: where the error of x_hat asks for (spacing.warm_step)
    c.clip = True  # clip the estimates of the clean image to [-1, 1]
    c.dynamic = 0.0  # or to this quantile of their absolute values, by which they are divided then
    c.temperature = 1.0  # of the noise that the chain begins with
    c.z_temperature = 1.0  # of z, by which it varies about 0, or about the means of `prior`
    # What z is drawn from: a file of mode `prior`, or "normal", N(0, I). Empty: what came with the weights, or N(0, I).
    c.prior = ""
    c.shared = False  # all images have one noise, at the start and on the way
    c.cond_noise = 0  # steps by which x_hat is noised before it is shown, up to ddpm.cond_noise
    c.guidance = 0.0  # w of (1 + w) eps(x_hat) - w eps(blank); needs ddpm.cond_dropout; two evaluations a step
    c.variance = "fixedsmall"  # of ddpm; or "fixedlarge"
    c.eta = 0.0  # of ddim
    c.clip_eps = True  # of ddim: eps is what follows from the clipped x_0; False: as predicted (authors' code)
    c.churn = 0.0  # of heun: more is more random; the three are EDM's S_tmin, S_tmax and S_noise
    c.churn_min, c.churn_max, c.churn_noise = 0.0, 1e9, 1.0
    c.nearest = False  # show the nearest training images beside the samples
    c.files = "npz"  # one file of all images; or "png", a file for each
    return c


def eval_defaults() -> ConfigDict:
    """What is compared: all combinations. Lists of names are separated by commas; where empty, the ones of `sample`."""
    c = ConfigDict()
    c.runs = ""  # run directories or files of weights; empty: this run
    c.samplers = ""  # those of `sample`; or "vae": x_hat by itself
    c.starts = ""  # "noise", "truncated", "warm", or "warm300", which begins at t = 300, as "warm0" does by the rule
    c.steps = (10,)
    c.equal_nfe = False  # the steps are evaluations: heun takes as many steps as they allow
    c.n, c.seeds = 1000, 1  # images, and seeds, from sample.seed on
    c.features = ""  # "emoji", "avatars", "random", "inception", "MODULE:FUNCTION"; empty: what suits the data
    c.inception = ""  # file of FID's network, pt_inception-2015-12-05-6726825d.pth
    c.split = "train"  # the images that samples are compared with; or "held_out"
    c.keep_images = False  # leave them in evaluation/images
    c.bits = 0  # so many held-out images give the bound in bits per dimension; each takes T evaluations
    return c


def training_defaults(batch_size: int, epochs: float, learning_rate: float) -> ConfigDict:
    """What both stages have: the optimisation."""
    c = ConfigDict()
    c.batch_size, c.epochs, c.learning_rate = batch_size, float(epochs), learning_rate
    c.steps = 0  # when not 0, it wins over the epochs
    c.init = ""  # a run directory, or weights such as "emoji", whose network training begins from; empty: a random one
    c.microbatches = 1  # a batch is worked off in so many parts, one after the other
    c.precision = "float32"  # or "bfloat16": what the network computes in; parameters and sums stay float32
    c.remat = False  # keep no block's inside for the gradient, but compute it anew: less memory, more time
    c.warmup = 0  # steps over which the learning rate rises
    c.decay = "constant"  # of the learning rate after it has risen; or "cosine", "linear": to 0 at the last step
    c.clip = 0.0  # largest global norm of the gradient; 0: none
    c.ema_decay = 0.0  # 0: no average
    c.ema_schedule = "constant"  # or "byol": rises to 1 along a cosine
    c.ema_warmup = True  # decay at most (1 + n) / (10 + n): a short run is not averaged with its random start
    return c


def data_of(config: ConfigDict, trained: ConfigDict) -> ConfigDict:
    """The data section that a model was trained with; `data.path` of `config` says where its folder lies now.

    UserError where the model's configuration, which was read from a file, names what a file may not (`trust`).
    """
    section = trained.data.copy_and_resolve_references()
    named = {f"data.{name}" for name, value in section.items() if value == config.data[name]}
    check_borrowed(flatten({"data": section}), "the model's configuration", named)
    if section.path and config.data.path:
        section.path = config.data.path
    return section


def located(config: ConfigDict) -> ConfigDict:
    """Return the configuration with absolute paths to its data, so that it means the same wherever it is read."""
    config = config.copy_and_resolve_references()
    for name in ("path", "archive", "tfds_dir"):
        written = config.data[name]
        if written and "://" not in written:  # tfds also reads from gs://
            config.data[name] = str(path_of(written, f"data.{name}"))
    return config


def chain_of(settings: Any, **changes: Any) -> Chain:
    """The chain of a `sample` section."""
    return Chain(**{name: getattr(settings, name) for name in Chain.__dataclass_fields__} | changes)


def picture_chain(config: ConfigDict) -> Chain:
    """The chain of the pictures on the way, which is shorter and takes any number of steps."""
    return chain_of(config.sample, steps=config.log.sample_steps, spacing="even")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"ddpm.batch_size": 128, ...}`."""
    flat = {}
    for key, value in config.items():
        is_section = isinstance(value, ConfigDict | dict)
        flat |= flatten(value, f"{prefix}{key}.") if is_section else {prefix + key: value}
    return flat


def names(text: str) -> list[str]:
    """The names of a list that is separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
