"""Measure how time and memory grow with the batch, the side of an image, the steps, the images and the devices.

    .venv/bin/python launch/growth.py           print the table of docs/benchmarks.md; ten minutes on two quiet cores
    .venv/bin/python launch/growth.py --tiny    try the script

The networks are those of the weights `avatars`. An exponent is the slope of log(value) over log(size).
It is 0 for what stays the same, and 1 for what doubles with the size. Memory is that of one device, by the compiler.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from gpu_bench import configured, drawn, timed

from vaedm_jax.api import VAEDM
from vaedm_jax.evaluation.moments import Moments
from vaedm_jax.evaluation.scores import frechet_distance, kernel_distance, precision_recall
from vaedm_jax.modes.plan import lower_train_step
from vaedm_jax.runtime.mesh import batch_sharding, make_mesh, replicated
from vaedm_jax.sampling.generation import generate
from vaedm_jax.training.loop import abstract_state, new_state
from vaedm_jax.training.stages import ddpm_stage, vae_stage

FAKE = 8  # devices into which the CPU is split. Their number changes the memory; their times say nothing
CORES = 2  # devices for all other measurements


class Curve(NamedTuple):
    """Measurements of one program at several sizes.

    Attributes:
      of: what grows.
      sizes: its sizes.
      seconds: the times; None if they were not measured.
      bytes: the memory; None if it was not measured.
    """

    of: str
    sizes: Sequence[int]
    seconds: Sequence[float] | None
    bytes: Sequence[int] | None

    def row(self) -> str:
        """Return the row of the table."""
        cells = [self.of, ", ".join(map(str, self.sizes))]
        for values, scale in ((self.seconds, 1), (self.bytes, 2**20)):
            numbers = ", ".join(f"{value / scale:.3g}" for value in values or ())
            cells += [numbers, f"{slope(self.sizes, values):.2f}" if values else ""]
        return f"| {' | '.join(cells)} |"


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the exponent of the power of the sizes that fits the values best."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def curve(of: str, sizes: Sequence[int], measure: Callable[[int], tuple[float, int]]) -> Curve:
    """Measure seconds and bytes at each size."""
    return Curve(of, sizes, *zip(*map(measure, sizes), strict=True))


def train_step(stage_name: str, devices: int, batch: int, side: int, fsdp: bool = False) -> tuple[float, int]:
    """Return the seconds of a train step, the median of five, and the bytes that it takes on a device."""
    config = configured("avatars.py", False, **{"data.image_size": side, "mesh.fsdp": fsdp})
    mesh, first = make_mesh(1, jax.devices()[:devices]), vae_stage(config)
    stage = first if stage_name == "vae" else ddpm_stage(config, drawn(first))
    compiled = lower_train_step(stage, mesh, config, batch).compile()
    memory = compiled.memory_analysis()
    state = new_state(stage, abstract_state(stage, mesh, fsdp), jax.random.key(1), drawn(stage))
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    images, key = jax.device_put(images, batch_sharding(mesh)), jax.device_put(jax.random.key(3), replicated(mesh))
    frozen = jax.device_put(stage.frozen, replicated(mesh))

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, frozen, images, key)
        metrics["loss"].block_until_ready()

    return timed(step, 5), memory.argument_size_in_bytes + memory.temp_size_in_bytes


def chain(model: VAEDM, batch: int, steps: int) -> tuple[float, int]:
    """Return the seconds of a chain, the median of three, and the temporary bytes of its program."""
    arrays = model.chain(steps=steps).arrays(model.schedule)
    indices = jax.device_put(np.arange(batch), batch_sharding(model.engine.mesh))
    key, arrays = model.engine.replicate((np.uint32(0), arrays))
    compiled = generate.lower(model.engine.networks, arrays, model.params, key, indices).compile()
    seconds = timed(lambda: jax.block_until_ready(compiled(arrays, model.params, key, indices)), 3)
    return seconds, compiled.memory_analysis().temp_size_in_bytes


def scored(images: int, score: Callable[[np.ndarray, np.ndarray], Any]) -> float:
    """Return the seconds that a score of two sets of 64 random features takes, the median of three."""
    a, b = np.random.default_rng(0).normal(size=(2, images, 64)).astype(np.float32)
    return timed(lambda: score(a, b), 3)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance of two sets of features."""
    return frechet_distance(*(Moments.empty(a.shape[1]).add(of) for of in (a, b)))


def sizes(first: int, last: int, tiny: bool) -> list[int]:
    """Return the powers of two times `first` up to `last`; only two of them for a trial."""
    return [first << i for i in range((last // first).bit_length())][: 2 if tiny else None]


def curves(tiny: bool) -> Iterator[Curve]:
    """Yield the curves, each as soon as it is measured."""
    for name in ("vae", "ddpm"):
        label = f"train step of the {name.upper()}"
        batches, sides = sizes(8, 128, tiny), sizes(32, 64 if name == "vae" else 256, tiny)
        yield curve(f"{label}: batch", batches, lambda batch, name=name: train_step(name, CORES, batch, 32))
        if name == "ddpm":
            yield curve(f"{label}: side, in pixels, batch of 2", sides, lambda side: train_step("ddpm", CORES, 2, side))
    shipped = VAEDM.from_pretrained("avatars")
    model = VAEDM(shipped.config, shipped.params["vae"], shipped.params["ddpm"], make_mesh(1, jax.devices()[:CORES]))
    yield curve("chain of ten steps: batch", sizes(8, 128, tiny), lambda batch: chain(model, batch, 10))
    yield curve("chain of 64 images: steps", sizes(5, 80, tiny), lambda steps: chain(model, 64, steps))
    counts = sizes(1000, 2000 if tiny else 16000, tiny)
    for label, score in (("FD", distance), ("KID", kernel_distance), ("precision and recall", precision_recall)):
        yield Curve(f"{label}: images", counts, [scored(n, score) for n in counts], None)
    for fsdp in (False, True):
        devices = sizes(1, FAKE, tiny)
        held = [train_step("ddpm", n, 64, 32, fsdp)[1] for n in devices]
        yield Curve(f"train step of the DDPM, batch of 64{', `fsdp`' * fsdp}: devices", devices, None, held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="measure only two sizes of each, to try the script")
    tiny, began = parser.parse_args().tiny, time.monotonic()
    jax.config.update("jax_num_cpu_devices", FAKE)
    print(
        "| what grows | sizes | seconds | exponent | MB | exponent |",
        "| --- | --- | --- | ---: | --- | ---: |",
        sep="\n",
    )
    for found in curves(tiny):
        print(found.row(), flush=True)
    print(f"measured in {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
