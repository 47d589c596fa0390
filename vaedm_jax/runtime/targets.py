"""Accelerators to compile for, which need not be present: their peak figures, and the cost of a compiled program."""

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from vaedm_jax.errors import UserError, check_choice
from vaedm_jax.runtime.memory import memory_bytes
from vaedm_jax.storage import Damaged, read_json
from vaedm_jax.storage.cache import user_cache
from vaedm_jax.storage.writing import write_whole

MISSING = "needs libtpu, which can compile for a TPU without one: run launch/env.sh plan, or pip install '.[tpu]'"
ALONE = {"chips_per_host_bounds": (1, 1, 1)}  # a host with one chip
MEGACORE = {"chip_config_name": "megacore"}  # both cores of a chip as one device, which is what a machine with v4 has
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v3-8"}
ENVIRONMENT["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # another process may compile at the same time


class Target(NamedTuple):
    """An accelerator, with the vendor's peak figures for one device.

    A device is what JAX counts as one: a core up to v3, a chip from v4 on.

    Attributes:
      topology: the name for `jax.experimental.topologies`; "" for the CPU of this machine.
      memory: memory in GiB.
      tflops: peak rate of bfloat16 products, in 1e12 operations a second.
      bandwidth: memory bandwidth in GB/s.
      options: further arguments of `topologies.get_topology_desc`.
    """

    topology: str
    memory: float
    tflops: float
    bandwidth: float
    options: Mapping[str, Any] = MappingProxyType({})


# From https://docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm and its pages on each version.
TARGETS = {
    "tpu-v2-8": Target("v2:2x2", 8, 22.5, 350),
    "tpu-v3-8": Target("v3:2x2", 16, 61.5, 450),
    "tpu-v4-8": Target("v4:2x2x1", 32, 275, 1228, MEGACORE),
    "tpu-v5e-1": Target("v5e:1x1", 16, 197, 819, ALONE),
    "tpu-v5e-8": Target("v5e:2x4", 16, 197, 819),
    "tpu-v6e-1": Target("v6e:1x1", 32, 918, 1640, ALONE),
    "tpu-v6e-8": Target("v6e:2x4", 32, 918, 1640),
    "tpu-v5p-8": Target("v5p:2x2x1", 95, 459, 2765),
    "cpu": Target("", 0, 0, 0),
}


class Cost(NamedTuple):
    """The compiler's figures for one run of a program on one device.

    Attributes:
      flops: the number of operations. A loop's body counts once.
      moved: the number of bytes that are read from and written to memory. A loop's body counts once.
      held: bytes of the arguments and the results.
      temporary: bytes of temporary buffers.
      collectives: the number of exchanges with other devices.
      exchanged: bytes of the results of these exchanges.
      seconds: the compiler's estimate of the time; None if it gives no sensible one.
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
        """The number of bytes that the program needs on a device."""
        return self.held + self.temporary


FORM = {name: int for name in Cost._fields} | {"flops": float, "moved": float, "seconds": (float, None)}


def make_devices(name: str) -> list[jax.Device]:
    """Return the devices of a target, to compile for.

    Raises:
      UserError: the target is unknown, libtpu is missing, or libtpu cannot compile for the target.
    """
    check_choice("plan.targets", name, TARGETS)
    target = TARGETS[name]
    if not target.topology:
        return jax.devices()
    from jax.experimental import topologies

    set_libtpu_environment()
    try:
        return topologies.get_topology_desc(target.topology, platform="tpu", **target.options).devices
    except RuntimeError as error:
        missing = importlib.util.find_spec("libtpu") is None
        raise UserError(f"plan.targets: {name} {MISSING if missing else f'is unknown to libtpu: {error}'}") from error


def set_libtpu_environment() -> None:
    """Set the environment variables that libtpu needs on a machine without a TPU.

    Otherwise libtpu searches for the TPU's host, and prints warnings whenever JAX starts.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)


def device_memory(name: str) -> float:
    """Return the memory of one device of a target in bytes."""
    if TARGETS[name].topology:
        return TARGETS[name].memory * 2**30
    return memory_bytes() / jax.device_count()


def cost_on(name: str, lowered: Any) -> Cost | str:
    """Return what `compile_for` returns, for a target. For a TPU it is kept in the user's cache, if it can be written.

    The file's name is a digest of the program, the target, and the versions of JAX and libtpu.
    """
    cache = user_cache()
    if not TARGETS[name].topology or not cache:
        return compile_for(lowered)
    identity = "\n".join([name, jax.__version__, metadata.version("libtpu"), lowered.as_text()])
    file = Path(cache, "plans", f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json")
    try:
        found = read_json(file, {"cost": (FORM, str)})["cost"]
        return found if isinstance(found, str) else Cost(**found)
    except Damaged:  # or not there
        cost = compile_for(lowered)
        with suppress(OSError):  # without a cache it is compiled again next time
            write_whole(file, json.dumps({"cost": cost if isinstance(cost, str) else cost._asdict()}).encode())
        return cost


def compile_for(lowered: Any) -> Cost | str:
    """Compile a lowered program and return its cost, or a message if the device has too little memory for it."""
    try:
        compiled = lowered.compile()
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
        seconds if seconds > 0 else None,  # it is negative for some targets
    )


EXCHANGE = re.compile(r"= (.*?) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


def exchanges(text: str) -> list[int]:
    """Return the size in bytes of the results of each collective operation in a compiled program's text."""
    return [
        sum(
            int(bits or 8) // 8 * int(np.prod([int(n) for n in shape.split(",") if n]))
            for _, bits, shape in ARRAY.findall(result)
        )
        for result in EXCHANGE.findall(text)
    ]


def roofline(name: str, cost: Cost) -> tuple[float, float] | None:
    """Return the seconds that a program needs at a target's peak rates, for its operations and for its bytes.

    Return None for the CPU, whose peak rates are unknown.
    """
    target = TARGETS[name]
    return (cost.flops / target.tflops / 1e12, cost.moved / target.bandwidth / 1e9) if target.topology else None
