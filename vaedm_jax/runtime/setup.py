"""Settings of the whole process, which `setup` makes once, before JAX starts.

Importing the package changes none of them, so that a notebook keeps its own settings.
"""

import ctypes
import logging
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import jax

from vaedm_jax.errors import check_choice
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.compiling import announce_compilation
from vaedm_jax.runtime.targets import set_libtpu_environment
from vaedm_jax.storage.cache import compiled_programs
from vaedm_jax.storage.writing import disable_writing

MOST_CPU_DEVICES = 8
MATMUL_PRECISIONS = ("default", "bfloat16", "tensorfloat32", "float32")
# Options of malloc.h: never trim the heap, allocate large blocks on it too, and use one heap for all threads.
MALLOC_OPTIONS = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def setup(deterministic: bool, matmul_precision: str, batch_sizes: Sequence[int], distributed: str | None) -> None:
    """Prepare this process for a command.

    Args:
      deterministic, matmul_precision: the section `xla` of the configuration; see `set_xla`.
      batch_sizes: the batch sizes that the devices must divide.
      distributed: how to connect to the other processes, see `hosts.join`; None for a single process.
    """
    jax.config.update("jax_compilation_cache_dir", compiled_programs())
    announce_compilation()
    keep_memory()
    set_xla(deterministic, matmul_precision)
    if os.environ.get("TPU_SKIP_MDS_QUERY"):  # JAX sets it if it finds no TPU
        set_libtpu_environment()
    if distributed is None:
        share_cpu(*batch_sizes)
        return
    hosts.join(distributed)
    if jax.process_index():
        disable_writing()
        sys.stdout = open(os.devnull, "w")


def quiet_logs() -> None:
    """Print the warnings of libraries in one form, without the tracebacks of Orbax's threads.

    The errors of these threads are raised in the main thread as well.
    """
    logging.basicConfig(format="vaedm: %(message)s", force=True)
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def share_cpu(*batch_sizes: int) -> None:
    """Split the CPU into devices: one for each core, but at most MOST_CPU_DEVICES, and a divisor of all batch sizes.

    XLA leaves half of two cores idle if they are one device: with two devices, both stages of configs/emoji.py take
    0.6 of the time. Nothing changes if the user has set a number (XLA_FLAGS, JAX_NUM_CPU_DEVICES), or if JAX has
    already started, as in a notebook. Accelerators are not affected.
    """
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and jax.config.jax_num_cpu_devices < 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        shares = [n for n in range(1, min(cores, MOST_CPU_DEVICES) + 1) if math.gcd(*batch_sizes) % n == 0]
        with suppress(RuntimeError):  # JAX has already started
            jax.config.update("jax_num_cpu_devices", max(shares, default=1))


def keep_memory() -> None:
    """Let glibc keep freed memory for reuse. Call it before any other use of JAX.

    XLA's CPU backend allocates its buffers again at every call. They are large, so glibc requests them from the kernel
    and returns them each time. The kernel clears the pages, which takes up to half of a train step.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        for option, value in MALLOC_OPTIONS.values():
            libc.mallopt(option, value)


def set_xla(deterministic: bool, matmul_precision: str) -> None:
    """Set how XLA computes in this process. Call it before JAX starts.

    Args:
      deterministic: use only deterministic operations on a GPU. Otherwise a GPU may sum in another order in every run,
        and choose another kernel in every process.
      matmul_precision: one of MATMUL_PRECISIONS. "default" keeps the environment's setting.

    Raises:
      UserError: the precision is unknown.
    """
    check_choice("xla.matmul_precision", matmul_precision, MATMUL_PRECISIONS)
    if matmul_precision != "default":
        jax.config.update("jax_default_matmul_precision", matmul_precision)
    if deterministic:  # this also disables autotuning: https://github.com/openxla/xla/blob/main/xla/xla.proto
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
