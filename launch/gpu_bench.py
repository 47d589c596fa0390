"""Measure training and sampling on the GPU of this machine: time, memory, FLOP/s and equality of bits.

    python launch/gpu_bench.py --out=gpu.json              takes ten minutes on one H100
    python launch/gpu_bench.py --out=gpu.json --tiny       tries the script on a CPU, with tiny networks

Images are random numbers, because their content does not change the cost of a step. Programs with different XLA options
run in separate processes. No program starts after `--seconds`. The script prints tables, and writes all figures to
`--out`.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vaedm_jax.api import VAEDM
from vaedm_jax.command_line import load
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.runtime.setup import set_xla
from vaedm_jax.training.flops import count_flops
from vaedm_jax.training.loop import abstract_state, new_state
from vaedm_jax.training.stages import ddpm_stage, vae_stage
from vaedm_jax.training.step import make_train_step

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Peaks of dense products on the SXM cards, in TFLOP/s: https://www.nvidia.com/en-us/data-center/h100
HOPPER = {"bfloat16": 989, "tensorfloat32": 495, "float32": 67}
PEAKS = {"H100": HOPPER, "H200": HOPPER}
# Configuration, stage, batch, precision of the network, precision of float32 products. The most important come first.
STEPS = [
    ("cifar10.py:uncond", "ddpm", 128, "bfloat16", "default"),
    ("cifar10.py:uncond", "ddpm", 128, "float32", "tensorfloat32"),
    ("emoji.py:form1", "ddpm", 128, "float32", "tensorfloat32"),
    ("cifar10.py:uncond", "ddpm", 512, "bfloat16", "default"),
    ("cifar10.py:uncond", "ddpm", 128, "float32", "float32"),
    ("emoji.py:form1", "ddpm", 128, "bfloat16", "default"),
    ("cifar10.py:form1", "ddpm", 128, "bfloat16", "default"),
    ("cifar10.py:form1", "vae", 128, "bfloat16", "default"),
    ("celebamask_hq_128.py:uncond", "ddpm", 64, "bfloat16", "default"),
    ("emoji.py:form1", "vae", 128, "float32", "tensorfloat32"),
    ("cifar10.py:uncond", "ddpm", 1024, "bfloat16", "default"),
    ("celebamask_hq_128.py:form1", "vae", 40, "bfloat16", "default"),
]
TINY = {"ddpm.channels": 32, "ddpm.multipliers": (1, 1), "ddpm.blocks": 1}


def configured(name: str, tiny: bool, **changes: Any) -> Any:
    """Return the configuration `name` with changes, and with small networks if `tiny`."""
    config = load(str(CONFIGS / name))
    with config.unlocked():
        config.update_from_flattened_dict(changes | (TINY if tiny else {}))
    return config


def drawn(stage: Any) -> Any:
    """Return random parameters of a stage, drawn with NumPy to avoid a compilation."""
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        fan_in = max(1, leaf.size // leaf.shape[-1])
        return rng.normal(0, fan_in**-0.5 if leaf.ndim > 1 else 0.05, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(stage.init, jax.random.key(0)))


def timed(action: Any, repeats: int) -> float:
    """Return the median time of an action in seconds. The action must wait for the device."""
    action()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def peak(precision: str, tiny: bool) -> float:
    """Return the TFLOP/s of a large product of random matrices."""
    n = 256 if tiny else 8192
    a = jax.random.normal(jax.random.key(0), (n, n), "bfloat16" if precision == "bfloat16" else "float32")
    with jax.default_matmul_precision(precision):
        product = jax.jit(lambda a: a @ a)
        return 2 * n**3 / timed(lambda: product(a).block_until_ready(), 10) / 1e12


def train_step(name: str, stage: str, batch: int, precision: str, matmul: str, tiny: bool) -> dict[str, Any]:
    """Return the time, FLOP/s and memory of a train step."""
    batch = 8 if tiny else batch
    config = configured(name, tiny, **{f"{stage}.batch_size": batch, f"{stage}.precision": precision})
    jax.config.update("jax_default_matmul_precision", None if matmul == "default" else matmul)
    mesh, first = make_mesh(), vae_stage(config)
    known = stage == "ddpm" and not name.endswith("uncond")
    of = first if stage == "vae" else ddpm_stage(config, drawn(first) if known else {})
    state, size = new_state(of, abstract_state(of, mesh), jax.random.key(1), drawn(of)), config.data.image_size
    images = jax.random.randint(jax.random.key(2), (batch, size, size, 3), 0, 256, jnp.int32).astype(jnp.uint8)
    begin = time.perf_counter()
    traced = make_train_step(of, mesh, 10**6).trace(state, of.frozen, images, jax.random.key(3))
    lowered = traced.lower()
    compiled = lowered.compile()
    seconds_to_compile, memory = time.perf_counter() - begin, compiled.memory_analysis()

    def ten() -> None:
        nonlocal state
        for _ in range(10):
            state, metrics = compiled(state, of.frozen, images, jax.random.key(3))
        metrics["loss"].block_until_ready()

    seconds = timed(ten, 1 if tiny else 5) / 10
    flops = count_flops(traced.jaxpr) / mesh.size
    return {
        "program": f"{name} {stage}", "batch": batch, "precision": precision, "matmul": matmul,
        "ms": 1e3 * seconds, "images_per_s": batch / seconds, "TFLOP_per_s": flops / seconds / 1e12,
        "GFLOP": flops / 1e9, "GFLOP_by_xla": (compiled.cost_analysis() or {}).get("flops", 0) / 1e9,
        "memory_MB": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e6,
        "compile_s": seconds_to_compile,
    }  # fmt: skip


def sampled(name: str, batch: int, steps: int, tiny: bool) -> dict[str, Any]:
    """Return the time of a batch of samples."""
    batch, steps = (8, 2) if tiny else (batch, steps)
    config = configured(name, tiny, **{"ddpm.precision": "bfloat16", "vae.precision": "bfloat16"})
    vae = {} if name.endswith("uncond") else drawn(vae_stage(config))
    model = VAEDM(config, vae, drawn(ddpm_stage(config, vae)))
    how = {"sampler": "ddim", "start": "noise", "spacing": "even", "steps": steps, "batch_size": batch}
    seconds = timed(lambda: model.sample(batch, progress=lambda *_: None, **how), 1 if tiny else 3)
    return {"program": f"{name} ddim {steps}", "batch": batch, "s": seconds, "images_per_s": batch / seconds}


def bits(tiny: bool) -> dict[str, Any]:
    """Train a small refiner for some steps. Return a digest of its parameters and its loss."""
    config = configured("emoji.py:form1", tiny, **{"ddpm.batch_size": 8 if tiny else 64})
    mesh, first = make_mesh(), vae_stage(config)
    stage = ddpm_stage(config, drawn(first))
    state = new_state(stage, abstract_state(stage, mesh), jax.random.key(1), drawn(stage))
    step = make_train_step(stage, mesh, 1000)
    size, rng = config.data.image_size, np.random.default_rng(0)
    for _ in range(2 if tiny else 50):
        images = rng.integers(0, 256, (config.ddpm.batch_size, size, size, 3), np.uint8)
        state, metrics = step(state, stage.frozen, images, jax.random.key(3))
    digest = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(state.params))).hexdigest()
    return {"digest": digest[:16], "loss": float(metrics["loss"])}


def rounding(tiny: bool) -> dict[str, float]:
    """Return {precision: error} of the small refiner's gradient, relative to that in float32."""
    config = configured("emoji.py:uncond", tiny)
    stage, B = ddpm_stage(config, {}), 8
    params, size = drawn(stage), config.data.image_size
    images = np.random.default_rng(0).integers(0, 256, (B, size, size, 3), np.uint8)
    keys, found = jax.random.split(jax.random.key(1), B), {}
    for precision in ("float32", "tensorfloat32", "bfloat16", None):
        jax.config.update("jax_default_matmul_precision", precision)
        gradient = jax.jit(jax.grad(lambda p: stage.loss(p, {}, images, keys, False)[0]))
        found[precision or "default"] = np.concatenate([np.ravel(a) for a in jax.tree.leaves(gradient(params))])
    exact = found.pop("float32")
    return {name: float(np.linalg.norm(g - exact) / np.linalg.norm(exact)) for name, g in found.items()}


def measure(options: argparse.Namespace) -> None:
    """Measure one part in this process, and print a line of JSON for each figure."""
    set_xla(options.deterministic, "default")
    tiny, until = options.tiny, time.monotonic() + options.seconds

    def say(kind: str, **facts: Any) -> None:
        print(json.dumps({"kind": kind, "deterministic": options.deterministic, **facts}), flush=True)

    if options.part == "bits":
        return say("bits", run=options.run, **bits(tiny))
    if options.part == "rounding":
        return say("rounding", **rounding(tiny))
    say("device", device=jax.devices()[0].device_kind, jax=jax.__version__)
    if not options.deterministic:
        for precision in ("bfloat16", "tensorfloat32", "float32"):
            say("peak", precision=precision, TFLOP_per_s=peak(precision, tiny))
    for i, step in enumerate(STEPS[:1] if options.deterministic else STEPS):
        if time.monotonic() < until:
            say("step", **train_step(*step, tiny))
        if i == 5 and time.monotonic() < until:
            say("sample", **sampled("cifar10.py:uncond", 512, 50, tiny))
            say("sample", **sampled("emoji.py:form1", 512, 10, tiny))


def pytorch(options: argparse.Namespace, batch: int) -> list[dict]:
    """Measure the train step of diffusers' U-Net under torch.compile, if PyTorch and diffusers are installed."""
    if options.tiny or not all(find_spec(name) for name in ("torch", "diffusers")):
        return []
    spec = {"what": "train", "network": "full", "batch": batch, "precision": "bfloat16", "steps": 10}
    orders = f"{json.dumps(spec | {'backend': 'torch.compile'})}\n5\n"
    worker = [sys.executable, str(Path(__file__).with_name("bench_torch.py"))]
    done = subprocess.run(worker, input=orders, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"PyTorch: exit status {done.returncode}", file=sys.stderr)
        return []
    about, runs = (json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@"))
    seconds = statistics.median(runs["seconds"]) / spec["steps"]
    return [{"kind": "torch.compile", **about, "batch": batch, "ms": 1e3 * seconds, "images_per_s": batch / seconds}]


def child(options: argparse.Namespace, part: str, *more: str, seconds: float, memory: float = 0.75) -> list[dict]:
    """Measure a part in a child process. Return its lines."""
    command = [sys.executable, __file__, f"--part={part}", f"--seconds={seconds}", *more]
    command += ["--tiny"] if options.tiny else []
    environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": str(memory)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{part} {' '.join(more)}: exit status {done.returncode}", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def drive(options: argparse.Namespace) -> list[dict]:
    """Return the lines of all processes. `bits` and `rounding` run side by side, and all others in turn."""
    ends = time.monotonic() + options.seconds
    with ThreadPoolExecutor(5) as pool:
        runs = [("bits", f"--run={i}", *flag) for flag in ((), ("--deterministic",)) for i in range(2)]
        parts = [pool.submit(child, options, *run, seconds=60, memory=0.1) for run in (*runs, ("rounding",))]
        lines = [line for part in parts for line in part.result()]
    lines += child(options, "steps", "--deterministic", seconds=60)
    lines += pytorch(options, batch=128)
    return lines + child(options, "steps", seconds=ends - time.monotonic())


def tables(lines: list[dict]) -> str:
    """Return the lines as text: a Markdown table of train steps, then the other figures as JSON."""
    device = next(line["device"] for line in lines if line["kind"] == "device")
    peaks = next((p for name, p in PEAKS.items() if name in device), {})
    text = [
        f"{device}",
        "",
        "| program | batch | precision | ms | images/s | MB | TFLOP/s | of the peak |",
        "| --- |" + " ---: |" * 7,
    ]
    for line in (line for line in lines if line["kind"] == "step"):
        precision = line["precision"] if line["matmul"] == "default" else line["matmul"]
        share = f"{line['TFLOP_per_s'] / peaks[precision]:.1%}" if precision in peaks else ""
        how = ", deterministic" if line["deterministic"] else ""
        cells = f"{line['ms']:.1f} | {line['images_per_s']:,.0f} | {line['memory_MB']:,.0f} | {line['TFLOP_per_s']:.1f}"
        text.append(f"| {line['program']}{how} | {line['batch']} | {precision} | {cells} | {share} |")
    for line in (line for line in lines if line["kind"] not in ("step", "device")):
        text.append(json.dumps(line))
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file for all figures (default: gpu.json)")
    parser.add_argument(
        "--seconds", type=float, default=500, help="start no program after this many seconds (default: 500)"
    )
    parser.add_argument("--tiny", action="store_true", help="use tiny networks, to try the script")
    parser.add_argument("--part", choices=("bits", "rounding", "steps"), help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--deterministic", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return measure(options)
    lines = drive(options)
    options.out.write_text("\n".join(map(json.dumps, lines)) + "\n")
    if not any(line["kind"] == "device" for line in lines):
        sys.exit("gpu_bench.py: no train step could be measured; the errors are above")
    print(tables(lines))


if __name__ == "__main__":
    main()
