"""Worker of launch/benchmark.py: programs of this package, as they are or with plain Flax modules."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_plain import use_plain_modules
from bench_protocol import BATCH_OF_SAMPLES, STEPS_OF_SAMPLES, serve
from gpu_bench import drawn

from vaedm_jax import models
from vaedm_jax.api import VAEDM
from vaedm_jax.command_line import load
from vaedm_jax.runtime.mesh import batch_sharding, make_mesh, replicated
from vaedm_jax.runtime.setup import setup
from vaedm_jax.training.loop import abstract_state, new_state
from vaedm_jax.training.stages import ddpm_stage, vae_stage
from vaedm_jax.training.step import make_train_step

CONFIGS = {"full": "cifar10", "small": "emoji"}


def prepare(spec: dict[str, Any]) -> tuple[Callable[[], Any], int]:
    """Return a program, which waits until it is done, and the number of the network's parameters."""
    what, batch = spec["what"], spec.get("batch", 1)
    setup(False, "default", [BATCH_OF_SAMPLES if what == "sample" else batch], None)
    if spec["backend"] == "flax":
        use_plain_modules()
    if what in ("product", "convolution"):
        return peak(spec), 0
    config = load(f"{CONFIGS[spec['network']]}:{'form1' if what == 'vae' else 'uncond'}")
    for section in (config.vae, config.ddpm):
        section.precision, section.batch_size = spec["precision"], batch
    stage, size = vae_stage(config) if what == "vae" else ddpm_stage(config, {}), config.data.image_size
    params, mesh, rng = drawn(stage), make_mesh(), np.random.default_rng(1)
    count = models.count(params)
    if what == "sample":
        model = VAEDM(config, {}, params)
        how = {"sampler": "ddim", "start": "noise", "steps": STEPS_OF_SAMPLES, "progress": False}
        return lambda: model.sample(BATCH_OF_SAMPLES, batch_size=BATCH_OF_SAMPLES, **how), count
    if what == "forward":
        unet, sharding = VAEDM(config, {}, params).engine.networks.unet, batch_sharding(mesh)
        x = jax.device_put(np.float32(rng.uniform(-1, 1, (batch, size, size, 3))), sharding)
        t = jax.device_put(np.int32(rng.integers(0, 1000, batch)), sharding)
        placed, forward = jax.device_put(params, replicated(mesh)), jax.jit(lambda p, x, t: models.apply(unet, p, x, t))
        return lambda: forward(placed, x, t).block_until_ready(), count
    state = new_state(stage, abstract_state(stage, mesh), jax.random.key(1), params)
    images = jax.device_put(rng.integers(0, 256, (batch, size, size, 3), np.uint8), batch_sharding(mesh))
    key = jax.device_put(jax.random.key(3), replicated(mesh))
    step = make_train_step(stage, mesh, 10**6)

    def train() -> None:
        nonlocal state
        state, metrics = step(state, stage.frozen, images, key)
        metrics["loss"].block_until_ready()

    return train, count


def peak(spec: dict[str, Any]) -> Callable[[], Any]:
    """Return one large matrix product, or one large convolution."""
    key = jax.random.key(0)
    if spec["what"] == "product":
        a = jax.random.normal(key, (spec["size"], spec["size"]), spec["precision"])
        product = jax.jit(lambda a: a @ a)
        return lambda: product(a).block_until_ready()
    mesh = make_mesh()
    x = jax.device_put(jax.random.normal(key, (16, 32, 32, 256), spec["precision"]), batch_sharding(mesh))
    kernel = jax.device_put(jnp.ones((3, 3, 256, 256), spec["precision"]), replicated(mesh))
    numbers = ("NHWC", "HWIO", "NHWC")
    conv = jax.jit(lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers))
    return lambda: conv(x, kernel).block_until_ready()


if __name__ == "__main__":
    serve(prepare, lambda: {"jax": jax.__version__, "device": jax.devices()[0].device_kind})
