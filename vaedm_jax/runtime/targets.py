"""Accelerators that nobody needs to have: what a device of each can do, and what a program compiled for it costs."""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from vaedm_jax.errors import UserError, one_of

MISSING = "needs libtpu, which compiles for a TPU where none is: launch/env.sh plan, or pip install '.[tpu]'"
ALONE = {"chips_per_host_bounds": (1, 1, 1)}  # a host with one chip
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v3-8"}
ENVIRONMENT["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # another process may compile too


class Target(NamedTuple):
    """A device is what JAX counts: a core up to v4, a chip from v5 on. Figures are the vendor's peaks.

    Attributes:
      topology: of `jax.experimental.topologies`; "" is the CPU at hand. options: of it.
      memory: GiB a device. tflops: peak of bfloat16 products a device, in 1e12 a second. bandwidth: GB/s a device.
    """

    topology: str
    memory: float
    tflops: float
    bandwidth: float
    options: Mapping[str, Any] = MappingProxyType({})


# https://docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm and the pages of the versions
TARGETS = {
    "tpu-v2-8": Target("v2:2x2", 8, 22.5, 350),
    "tpu-v3-8": Target("v3:2x2", 16, 61.5, 450),
    "tpu-v4-8": Target("v4:2x2x1", 16, 137.5, 614),
    "tpu-v5e-1": Target("v5e:1x1", 16, 197, 819, ALONE),
    "tpu-v5e-8": Target("v5e:2x4", 16, 197, 819),
    "tpu-v6e-1": Target("v6e:1x1", 32, 918, 1640, ALONE),
    "tpu-v6e-8": Target("v6e:2x4", 32, 918, 1640),
    "tpu-v5p-8": Target("v5p:2x2x1", 95, 459, 2765),
    "cpu": Target("", 0, 0, 0),
}


class Cost(NamedTuple):
    """What the compiler says of a program, for each device and run.

    Attributes:
      flops, moved: operations, and bytes that go to and from memory. A loop's body counts once.
      held, temporary: bytes of arguments, and of what lies beside them while it runs.
      collectives: exchanges with other devices; exchanged: bytes of their results.
      seconds: the compiler's own estimate, None where it gives no sensible one.
    """

    flops: float
    moved: float
    held: int
    temporary: int
    collectives: int
    exchanged: int
    seconds: float | None

    @property
    def memory(self) -> int:
        return self.held + self.temporary


def devices_of(name: str) -> list[jax.Device]:
    """The devices of a target, to compile for; UserError where it is unknown or libtpu is missing."""
    one_of("plan.targets", name, TARGETS)
    target = TARGETS[name]
    if not target.topology:
        return jax.devices()
    from jax.experimental import topologies

    calm_libtpu()
    try:
        return topologies.get_topology_desc(target.topology, platform="tpu", **target.options).devices
    except RuntimeError as error:
        missing = importlib.util.find_spec("libtpu") is None
        raise UserError(f"plan.targets: {name} {MISSING if missing else f'cannot be compiled for: {error}'}") from error


def calm_libtpu() -> None:
    """Where no TPU is, libtpu would look for the host that it is on, and complain of it whenever JAX begins."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)


def memory_of(name: str) -> float:
    """Bytes that a device of a target has."""
    if TARGETS[name].topology:
        return TARGETS[name].memory * 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.device_count()


def compile_for(lower: Callable[[], Any]) -> Cost | str:
    """The cost of what `lower()` gives, or why it cannot be compiled, such as too little memory."""
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        return f"does not fit: {used[1]} of {used[2]}" if used else "does not fit"
    found, memory = compiled.cost_analysis(), compiled.memory_analysis()
    collectives, seconds = list(exchanges(compiled.as_text())), found.get("optimal_seconds", 0.0)
    return Cost(
        found.get("flops", 0.0),
        found.get("bytes accessed", 0.0),
        memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        len(collectives),
        sum(collectives),
        seconds if seconds > 0 else None,  # for some targets it is below zero
    )


EXCHANGE = re.compile(r"= (.*?) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


def exchanges(text: str) -> list[int]:
    """The bytes of the results of each collective in a compiled program's text."""
    return [
        sum(
            int(bits or 8) // 8 * int(np.prod([int(n) for n in shape.split(",") if n]))
            for _, bits, shape in ARRAY.findall(result)
        )
        for result in EXCHANGE.findall(text)
    ]


def roofline(name: str, cost: Cost) -> tuple[float, float] | None:
    """Seconds that a target's peaks would take for the operations, and for the bytes; None for the CPU."""
    target = TARGETS[name]
    return (cost.flops / target.tflops / 1e12, cost.moved / target.bandwidth / 1e9) if target.topology else None
