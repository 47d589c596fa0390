"""Measure how time and memory grow with the batch, the side of an image, the steps, the images and the devices.

    .venv/bin/python launch/growth.py           print the table of docs/benchmarks.md; half an hour on two quiet cores
    .venv/bin/python launch/growth.py --tiny    try the script

The networks are those of the weights `avatars`. An exponent is the slope of log(value) over log(size).
It is 0 for what stays the same, and 1 for what doubles with the size. Memory is that of one device, by the compiler.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from gpu_bench import configured, drawn, timed
from jax.sharding import Mesh

from vaedm_jax.api import VAEDM
from vaedm_jax.evaluation.moments import Moments
from vaedm_jax.evaluation.scores import frechet_distance, kernel_distance, precision_recall
from vaedm_jax.modes.plan import lower_train_step
from vaedm_jax.runtime.mesh import batch_sharding, make_mesh, replicated
from vaedm_jax.sampling.generation import generate
from vaedm_jax.training.loop import abstract_state, new_state
from vaedm_jax.training.stages import Stage, ddpm_stage, vae_stage

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


def compile_step(name: str, devices: int, batch: int, side: int, fsdp: bool = False) -> tuple[Stage, Mesh, Any]:
    """Return a stage, the mesh, and the stage's compiled train step."""
    config = configured("avatars.py:uncond", False, **{"data.image_size": side, "mesh.fsdp": fsdp})
    mesh, stage = make_mesh(1, jax.devices()[:devices]), vae_stage(config) if name == "vae" else ddpm_stage(config, {})
    return stage, mesh, lower_train_step(stage, mesh, config, batch).compile()


def memory(compiled: Any) -> int:
    """Return the bytes of a program on a device: its arguments, and its temporary memory."""
    found = compiled.memory_analysis()
    return found.argument_size_in_bytes + found.temp_size_in_bytes


def train_step(name: str, batch: int, side: int = 32) -> tuple[float, int]:
    """Return the seconds of a train step, the median of five, and the bytes that it takes on a device."""
    stage, mesh, compiled = compile_step(name, CORES, batch, side)
    state = new_state(stage, abstract_state(stage, mesh), jax.random.key(1), drawn(stage))
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    frozen, key = jax.device_put((stage.frozen, jax.random.key(3)), replicated(mesh))
    images = jax.device_put(images, batch_sharding(mesh))

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, frozen, images, key)
        metrics["loss"].block_until_ready()

    return timed(step, 5), memory(compiled)


def chain(model: VAEDM, batch: int, steps: int) -> tuple[float, int]:
    """Return the seconds of a chain, the median of three, and the bytes that it takes on a device."""
    arrays = model.chain(steps=steps).arrays(model.schedule)
    indices = jax.device_put(np.arange(batch), batch_sharding(model.engine.mesh))
    key, arrays = model.engine.replicate((np.uint32(0), arrays))
    compiled = generate.lower(model.engine.networks, arrays, model.params, key, indices).compile()
    seconds = timed(lambda: jax.block_until_ready(compiled(arrays, model.params, key, indices)), 3)
    return seconds, memory(compiled)


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


def serve(model: VAEDM, calls: int) -> str:
    """Call `sample` with 1 to 64 images again and again. Return what was compiled, and how memory grew."""
    before, found = generate._cache_size(), []
    for i, n in enumerate(np.random.default_rng(0).integers(1, 65, calls)):
        model.sample(int(n), seed=i, steps=1, progress=False)
        if i + 1 in (calls // 10, calls):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found.append(f"{pages * resource.getpagesize() / 2**20:,.0f} MB after {i + 1:,}")
    return f"{generate._cache_size() - before} programs for {calls:,} calls; {', '.join(found)}"


def curves(tiny: bool, model: VAEDM) -> Iterator[Curve]:
    """Yield the curves, each as soon as it is measured."""
    batches = sizes(8, 128, tiny)
    yield curve("train step of the VAE: batch", batches, lambda batch: train_step("vae", batch))
    yield curve("train step of the DDPM: batch", batches, lambda batch: train_step("ddpm", batch))
    sides = sizes(32, 256, tiny)
    yield curve("train step of the DDPM, 2 images: side in pixels", sides, lambda side: train_step("ddpm", 2, side))
    yield curve("chain of ten steps: batch", batches, lambda batch: chain(model, batch, 10))
    yield curve("chain of 64 images: steps", sizes(5, 80, tiny), lambda steps: chain(model, 64, steps))
    counts = sizes(1000, 2000 if tiny else 16000, tiny)
    for label, score in (("FD", distance), ("KID", kernel_distance), ("precision and recall", precision_recall)):
        yield Curve(f"{label}: images", counts, [scored(n, score) for n in counts], None)
    for fsdp in (False, True):
        devices = sizes(1, FAKE, tiny)
        held = [memory(compile_step("ddpm", n, 64, 32, fsdp)[2]) for n in devices]
        yield Curve(f"train step of the DDPM, 64 images{', `fsdp`' * fsdp}: devices", devices, None, held)


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
    shipped, mesh = VAEDM.from_pretrained("avatars"), make_mesh(1, jax.devices()[:CORES])
    model = VAEDM(shipped.config, shipped.params["vae"], shipped.params["ddpm"], mesh)
    for found in curves(tiny, model):
        print(found.row(), flush=True)
    print(f"sampling 1 to 64 images at a time: {serve(model, 100 if tiny else 1000)}")
    print(f"measured in {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
