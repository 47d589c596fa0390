"""Every setting: its meaning, its default, and the values that it may have.

A `Number` has a range, a `Choice` a list of names; all other settings are texts or True and False. `build.py` makes
configurations of these tables, `checks.py` checks them. The settings of a chain, which are most of the section
`sample`, are defined in `diffusion/chain.py`.
"""

from dataclasses import fields
from typing import Any, NamedTuple

from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.prediction import TARGETS
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.errors import Range
from vaedm_jax.models.published import VAES
from vaedm_jax.models.unet import CONVENTIONS


class Number(NamedTuple):
    """A number, or a tuple of numbers, each of which lies in the range."""

    default: Any
    range: Range


class Choice(NamedTuple):
    """One of some names."""

    default: str
    allowed: tuple[str, ...]


def number(default: Any, low: float, high: float, why: str = "") -> Number:
    """Return a number from `low` to `high`; `why` says why it must not be higher."""
    return Number(default, Range(low, high, why))


def count(default: Any, low: int = 0) -> Number:
    """Return a number of steps or images, of which only one at a time takes memory."""
    return number(default, low, MOST_COUNT, "steps and images are counted in 32 bits")


Section = dict[str, Any]
MOST_COUNT = 2**31 - 1
SEED = 0, 0, 2**32 - 1
# Reasons for upper bounds.
FILES, PROCESSES = "each is a file", "each is a process of its own"
NETWORK = "no device holds a network so large"
LISTED = "each has a line in a table, or a part of a picture"
FLOAT32 = "steps of a larger one are not finite in float32"
HELD = "the images are held in memory at once"
PIXELS = "attention takes memory by the square of the number of pixels"
TABLES = "tables in memory have an entry for each step"
NO_MORE_STEPS = "a chain has no more steps"
NOISE = "no chain has so much noise"

BEST_BY = ("held_out_loss", "kid", "fd")  # figures that the best checkpoint may be chosen by: the lowest is best

TOP = dict(
    seed=number(*SEED),  # of the order of the data, the initial weights and all noise in training
    seed_per_stage=True,  # each stage derives its own random numbers from the seed; False: both stages use the same
)

# Images, and where they come from.
DATA = dict(
    source="emoji",  # the embedded set, "avatars", or the name of a tfds data set
    path="",  # a folder of images, or of what mode `prepare` or tfds made; wins over source and category
    every_format=True,  # all formats of Pillow, also behind links to folders; False: as older versions
    max_pixels=number(2**29, 1, 2**40, "no machine has the memory to decode more"),  # of a picture in a folder
    changed=False,  # continue although the images are not those the run was trained on; for this command alone
    image_size=number(32, 1, 8192, PIXELS),
    category="",  # of the emoji, such as "People & Body"; empty: all
    held_out=number(0.05, 0.0, 1 - 1e-9, "images to train on are needed too"),  # share, where there is no test split
    avatars=number(8192, 1, 10**7, "each has a label in memory, and takes some milliseconds to draw"),  # to train on
    flip=False,  # random horizontal flips (the paper has none)
    tfds_dir="",  # where tfds keeps its data; empty: its own default
    archive="",  # cifar-10-binary.tar.gz, if it is on disk; or the file that keeps the avatars, once they are drawn
    workers=number(0, 0, 1024, PROCESSES),  # processes that read images; 0: threads. The batches are the same
)


def training(batch_size: int, epochs: float, learning_rate: float) -> Section:
    """Return the settings of the optimisation, which both stages have."""
    return dict(
        batch_size=number(batch_size, 1, 2**24, HELD),
        epochs=number(float(epochs), 0.0, 1e9, "steps and images are counted in 32 bits"),
        learning_rate=number(learning_rate, 0.0, 1e3, FLOAT32),
        steps=count(0),  # when not 0, they are used instead of the epochs
        init="",  # run directory or weights, such as "avatars", that the network starts from; empty: random parameters
        microbatches=number(1, 1, 2**24, HELD),  # parts of a batch, which are computed one after the other
        precision=Choice("float32", ("float32", "bfloat16")),  # of the computation; parameters and sums stay float32
        remat=False,  # recompute the inside of blocks for the gradient: less memory, more time
        warmup=count(0),  # steps over which the learning rate rises
        decay=Choice("constant", ("constant", "cosine", "linear")),  # of the rate after the warm-up, to 0 at the end
        clip=number(0.0, 0.0, 1e9, FLOAT32),  # largest global norm of the gradient; 0: no clipping
        ema_decay=number(0.0, 0.0, 1.0),  # 0: no average
        ema_schedule=Choice("constant", ("constant", "byol")),  # byol: the decay rises to 1 along a cosine
        ema_warmup=True,  # a decay of at most (1 + n) / (10 + n), so that the average forgets the initial parameters
    )


# Stage 1.
VAE = training(batch_size=128, epochs=500, learning_rate=1e-4) | dict(
    # Block strings (models/blocks.py); the width at resolution 1 is the size of z.
    **dict(zip(("enc_block", "dec_block", "channels"), VAES["cifar10"].blocks, strict=True)),
    packed=False,  # work on 2 x 2 patches where it is narrow: the same results, faster on a TPU, slower on a CPU
    kl_weight=number(1.0, 0.0, 1e9, FLOAT32),
    kl_warmup=count(0),  # steps over which the weight rises
    checkpoint="",  # run directory or weights whose VAE is used instead of training one
)

# Stage 2.
DDPM = training(batch_size=128, epochs=1000, learning_rate=2e-4) | dict(
    warmup=count(5000),
    clip=number(1.0, 0.0, 1e9, FLOAT32),
    ema_decay=number(0.9999, 0.0, 1.0),
    ema_schedule=Choice("byol", ("constant", "byol")),
    variant=Choice("form1", tuple(FORMULATIONS)),
    # What x_hat is: "vae", decoded from z; or the image itself, reduced: "downsample4", "grayscale", "mask0.5", "blur2"
    # (conditioning/conditions.py).
    condition="vae",
    T=number(1000, 1, 100_000, TABLES),
    beta_1=number(1e-4, 1e-9, 0.999),
    beta_T=number(0.02, 1e-9, 0.999),
    scale_betas=True,  # the betas are those of 1,000 steps, and are multiplied by 1000 / T; False: as they are
    allow_signal_at_T=False,  # train even if alpha_bar at T is above 0.01, although chains start from pure noise
    prediction=Choice("eps", tuple(TARGETS)),  # "eps" (the paper), "v", or "residual": what x_hat lacks (training.md)
    # For "residual": root mean squares of x_0 - x_hat and of x_0, in [-1, 1]; 0: training measures them.
    sigma_r=number(0.0, 0.0, 1e3, "images lie in [-1, 1]"),
    sigma_data=number(0.0, 0.0, 1e3, "images lie in [-1, 1]"),
    # "consistency" tunes a trained refiner (ddpm.init) for one to four evaluations (docs/few_steps.md).
    objective=Choice("diffusion", ("diffusion", "consistency")),
    doubling=count(1000, 1),  # of "consistency": steps after which the gap between the two noise levels halves
    weighting=Choice("mse", ("mse", "min_snr")),  # of the squared error of the prediction
    min_snr=number(5.0, 1e-6, 1e9, FLOAT32),  # gamma of min_snr
    # t in training. "lognormal": log (rest / root) is normal; for "residual" its mean is relative to log sigma_r.
    t_sampling=Choice("uniform", ("uniform", "lognormal")),
    t_mean=number(-0.2, -50.0, 50.0, NOISE),
    t_deviation=number(1.4, 0.0, 50.0, NOISE),
    cond_noise=number(0, 0, 100_000, TABLES),  # x_hat is noised by up to so many steps before it is shown; 0: never
    channels=number(128, 1, 2**16, NETWORK),
    multipliers=number((1, 2, 2, 2), 1, 1024, NETWORK),
    blocks=number(2, 1, 64, NETWORK),
    attention=number((2,), 1, 8192, "images have no more pixels a side"),  # downsampling factors of levels that attend
    heads=number(1, 1, 1024, NETWORK),
    dropout=number(0.1, 0.0, 1.0),
    patch=number(1, 1, 8192, "images have no more pixels a side"),  # pixels a side of the patches that it works on
    cond_dropout=number(0.0, 0.0, 1.0),  # share of images whose x_hat and z are blanked; for sample.guidance
    z_conditioning=False,  # z is added to the time embedding; with `uncond` it is all the network knows of the image
    scale_shift=False,  # the embedding scales and shifts the normalisations
    # Details in which implementations differ: "published", or "ddpm", the DDPM paper's code (models/unet.py).
    conventions=Choice("published", tuple(CONVENTIONS)),
)

SAMPLE = dict(
    weights="",  # a .safetensors file, or "avatars" for weights in the package; empty: the run's own
    best=False,  # take the DDPM's best checkpoint instead of its newest
    n=count(64, 1),
    batch_size=number(64, 1, 2**24, HELD),
    seed=number(*SEED),
    # What z is drawn from: a file of mode `prior`, other weights that have this VAE and a prior, or "normal", N(0, I).
    # Empty: what the weights contain, or N(0, I).
    prior="",
    tables="",  # a file of mode `tune`, for sampler = "tuned", beside the tables that the weights contain
    nearest=False,  # show the nearest training images beside the samples
    files=Choice("npz", ("npz", "png")),  # one file with all images, or a file for each
) | {f.name: f.default for f in fields(Chain)}

# Mode `evaluate` scores all combinations. Names are separated by commas; where there are none, those of `sample` count.
EVAL = dict(
    runs="",  # run directories or files of weights; empty: this run
    samplers="",  # "vae" stands for x_hat itself
    starts="",  # "noise", "truncated", "warm"; "warm300" starts at t = 300, "warm0" where x_hat's error asks for it
    steps=number((10,), 1, 100_000, NO_MORE_STEPS),
    equal_nfe=False,  # `steps` are evaluations of the network: heun takes as many steps as they allow
    n=count(1000, 2),  # images
    seeds=number(1, 1, 100_000, LISTED),  # as many, from sample.seed on
    features="",  # "emoji", "avatars", "random", "inception", "MODULE:FUNCTION"; empty: those that suit the data
    inception="",  # the file of FID's network, pt_inception-2015-12-05-6726825d.pth
    split=Choice("train", ("train", "held_out")),  # the images that samples are compared with
    keep_images=False,  # leave the samples in evaluation/images
    bits=count(0),  # held-out images for the bound in bits per dimension; each takes T evaluations
)

# Over the devices: the batch is split. `model` of them share each large array of parameters; with `fsdp` the others do
# too, so that a device holds a part of parameters, average and optimiser state.
MESH = dict(model=number(1, 1, 2**20, "no more devices are known to work together"), fsdp=False)

# How XLA computes. `deterministic`: a GPU gives the same bits in every run, more slowly (docs/gpu.md); CPU and TPU
# always do. `matmul_precision`, of products and convolutions of float32: "float32", "tensorfloat32" or "bfloat16". The
# default is bfloat16 on a TPU, and TensorFloat-32 on a GPU that has it.
XLA = dict(deterministic=False, matmul_precision="default")

# Mode `restore`. "super": images were reduced by `factor`; "denoise": noise of deviation `sigma` was added. Empty: what
# `ddpm.condition` takes from them, or "super" where that is "vae".
RESTORE = dict(
    task="",
    factor=number(2, 2, 1024, "the restored picture is so many times as wide and as high"),
    sigma=number(0.1, 1e-6, 1e3, "nothing is left of a picture in more noise"),
    files="",  # a folder of such pictures; empty: held-out images are damaged, restored and scored
    n=count(0),  # number of pictures or images; 0: all
    pixels=number(256 * 256, 1, 2**26, PIXELS),  # larger pictures are refused
)

FIGURES = dict(
    columns=number(8, 1, 10_000, "all are shown in one picture"),  # images in a row
    steps=number((2, 5, 10, 25), 1, 100_000, NO_MORE_STEPS),  # numbers of steps that are compared
    # Numbers of z and of x_T whose shares of the variance are estimated.
    z=number(12, 3, 2**16, "the images of all pairs are held in memory at once"),
    x_T=number(12, 3, 2**16, "the images of all pairs are held in memory at once"),
)

# Where the page of mode `explore` is served; "0.0.0.0" lets other machines in.
EXPLORE = dict(host="127.0.0.1", port=number(7860, 1, 65535))

PLAN = dict(
    targets="tpu-v5e-1",  # accelerators to compile for, separated by commas (runtime/targets.py)
    images=count(0),  # images to train on; 0: as many as the data has, which must be here then
)

# Mode `prepare` writes a folder of images as records.
PREPARE = dict(
    workers=number(0, 0, 1024, PROCESSES),  # 0: one for each core
    shards=number(0, 0, 100_000, FILES),  # files of records; 0: one for 4,096 images
    # Options of Apache Beam, which replaces the processes here: "runner=FlinkRunner,flink_master=HOST:8081", as
    # `tfds build --beam_pipeline_options` takes them.
    beam="",
)

# Mode `prior` fits several distributions of z, and keeps the one under which held-out z are likeliest.
PRIOR = dict(
    kinds="full,diag,flow",  # mixtures with "full" or "diag" covariances; "flow"
    components=number((1, 4, 16, 64, 256), 1, 10_000, "each has a covariance matrix"),
    steps=count(3000, 1),  # training of the flow
    images=count(20_000),  # most images of either split; 0: all
)

# Mode `tune` fits a learnt table for the chain of `sample`, to images of a chain with many steps.
TUNE = dict(
    # More than a batch; the first fifth of the batches, rounded down but at least one batch, is held out.
    images=count(256, 1),
    batch_size=number(32, 1, 2**24, HELD),
    steps=count(200, 1),
    learning_rate=number(5e-3, 0.0, 1e6, FLOAT32),
    teacher=number(50, 1, 100_000, NO_MORE_STEPS),  # steps of unipc2
)

# Intervals in steps.
LOG = dict(
    every=count(50, 1),
    pictures=count(1000, 1),
    images=number(16, 1, 10_000, "all are shown in one picture"),
    sample_steps=number(10, 1, 100_000, NO_MORE_STEPS),  # reverse steps of these images
    # Samples that are scored at every picture (KID, FD), in the first space of eval.features; 0: none.
    scored=number(0, 0, 2**24, HELD),
    wandb="",  # a project of Weights & Biases that gets the metrics too; WANDB_MODE=offline sends nothing
)

CHECKPOINT = dict(
    every=count(1000, 1),
    keep=number(2, 1, 100_000, FILES),
    # Also keep the DDPM's best state, which is looked for at every picture. It needs the VAE's newest state.
    best=Choice("", ("", *BEST_BY)),
)

SECTIONS: dict[str, Section] = dict(
    data=DATA, vae=VAE, ddpm=DDPM, sample=SAMPLE, eval=EVAL, mesh=MESH, xla=XLA, restore=RESTORE, figures=FIGURES,
    explore=EXPLORE, plan=PLAN, prepare=PREPARE, prior=PRIOR, tune=TUNE, log=LOG, checkpoint=CHECKPOINT,
)  # fmt: skip
# All settings by their full names, such as "ddpm.T".
SETTINGS = TOP | {f"{section}.{name}": value for section, of in SECTIONS.items() for name, value in of.items()}
