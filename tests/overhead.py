"""Measure what a chain costs beyond its network, on the weights in the package: `python -m tests.overhead`.

The result is the time of sampling over the time of as many separate evaluations of the compiled network. Both are
measured in turns. A ratio of 1 means that the chain itself costs nothing.
"""

import time
from statistics import median

import jax
import jax.numpy as jnp

from vaedm_jax import VAEDM
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.process import noise_level
from vaedm_jax.sampling.generation import generate

B, REPETITIONS = 64, 12
CHAINS = (
    Chain("ddim", 20), Chain("ddpm", 20), Chain("unipc3", 20, spacing="logsnr"), Chain("heun", 10),
)  # fmt: skip


def seconds(work) -> float:
    began = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - began


def main() -> None:
    model, indices = VAEDM.from_pretrained("avatars"), jnp.arange(B)
    x = jax.random.normal(jax.random.key(0), (B, 32, 32, 3))
    level = noise_level(model.schedule, 500, B)
    network = jax.jit(lambda params: model.engine.networks.predict(params, None, x, None)(x, level))
    seconds(lambda: network(model.params))
    for chain in CHAINS:
        full = model.schedule
        nfe = chain.nfe(full)

        def sample(chain=chain, full=full):
            return generate(model.engine.networks, chain.arrays(full), model.params, 0, indices)

        def separate(nfe=nfe):
            return [network(model.params) for _ in range(nfe)]

        seconds(sample)  # compiles
        ratios = sorted(seconds(sample) / seconds(separate) for _ in range(REPETITIONS))
        low, high = ratios[REPETITIONS // 4], ratios[-1 - REPETITIONS // 4]
        print(
            f"{chain.name(full)}, {nfe} evaluations: {median(ratios):.3f}, half in {low:.3f} to {high:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
