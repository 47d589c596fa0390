"""What is set for the whole process, once, before JAX starts: see `setup`.

Importing the package sets none of it, so that a notebook keeps its own settings.
"""

import ctypes
import logging
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import jax

from vaedm_jax.errors import one_of
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.targets import calm_libtpu
from vaedm_jax.storage.cache import compiled_programs
from vaedm_jax.storage.writing import leave_to_another

MOST_CPU_DEVICES = 8
MATMUL_PRECISIONS = ("default", "bfloat16", "tensorfloat32", "float32")
# Of malloc.h: never trim the heap, keep large blocks in it too, and have one heap for all threads.
MALLOC_OPTIONS = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def setup(deterministic: bool, matmul_precision: str, batch_sizes: Sequence[int], distributed: str | None) -> None:
    """Prepare the process for a command.

    Args:
      deterministic, matmul_precision: the section `xla` of the configuration; see `set_xla`.
      batch_sizes: numbers of images that the devices share.
      distributed: how to meet the other processes (`hosts.join`); None for a process that works alone.
    """
    jax.config.update("jax_compilation_cache_dir", compiled_programs())
    keep_memory()
    set_xla(deterministic, matmul_precision)
    if os.environ.get("TPU_SKIP_MDS_QUERY"):  # JAX sets it where it finds no TPU
        calm_libtpu()
    if not distributed:
        share_cpu(*batch_sizes)
        return
    hosts.join(distributed)
    if jax.process_index():
        leave_to_another()
        sys.stdout = open(os.devnull, "w")


def quiet_logs() -> None:
    """Print warnings of libraries in one form, and leave out tracebacks of Orbax's threads: the error is raised too."""
    logging.basicConfig(format="vaedm: %(message)s", force=True)
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def share_cpu(*batch_sizes: int) -> None:
    """Make the CPU as many devices as it has cores and the batches allow, unless JAX has begun (as in a notebook).

    XLA leaves half of two cores idle where they are one device: both stages of configs/emoji.py take 0.6 of the time
    on two. A number that the user asked for (XLA_FLAGS, JAX_NUM_CPU_DEVICES) stays, and so do accelerators.
    """
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and jax.config.jax_num_cpu_devices < 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        shares = [n for n in range(1, min(cores, MOST_CPU_DEVICES) + 1) if math.gcd(*batch_sizes) % n == 0]
        with suppress(RuntimeError):  # the devices are there already
            jax.config.update("jax_num_cpu_devices", max(shares, default=1))


def keep_memory() -> None:
    """Let the process keep what it frees, where the C library is glibc; call it before anything else of JAX.

    XLA's CPU backend allocates its buffers anew at every call. They are large, so glibc takes them from the kernel and
    gives them back each time, and up to half of a training step goes into clearing pages.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        for option, value in MALLOC_OPTIONS.values():
            libc.mallopt(option, value)


def set_xla(deterministic: bool, matmul_precision: str) -> None:
    """Set how XLA computes in this process, as the section `xla` of a configuration has it; call it before JAX begins.

    Without `deterministic` a GPU may add up in another order at every run, and choose another kernel in every process.
    """
    one_of("xla.matmul_precision", matmul_precision, MATMUL_PRECISIONS)
    if matmul_precision != "default":  # which leaves what the environment says
        jax.config.update("jax_default_matmul_precision", matmul_precision)
    if deterministic:  # no autotuning either: https://github.com/openxla/xla/blob/main/xla/xla.proto
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
