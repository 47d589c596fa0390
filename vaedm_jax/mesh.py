"""The devices as a mesh, and what lies where: parameters everywhere, the batch split over `data`."""

import ctypes
import math
import os
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MOST_CPU_DEVICES = 8
# Of malloc.h: never trim the heap, keep large blocks in it too, and have one heap for all threads.
MALLOC_OPTIONS = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def share_cpu(*batch_sizes: int) -> None:
    """Make the CPU as many devices as it has cores and the batches allow; call it before anything else of JAX.

    XLA leaves half of two cores idle where they are one device: both stages of configs/emoji.py take 0.6 of the time
    on two. A number that the user asked for (XLA_FLAGS, JAX_NUM_CPU_DEVICES) stays, and so do accelerators.
    """
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and jax.config.jax_num_cpu_devices < 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        shares = [n for n in range(1, min(cores, MOST_CPU_DEVICES) + 1) if math.gcd(*batch_sizes) % n == 0]
        jax.config.update("jax_num_cpu_devices", max(shares, default=1))


def keep_memory() -> None:
    """Let the process keep what it frees, where the C library is glibc; call it before anything else of JAX.

    XLA's CPU backend allocates its buffers anew at every call. They are large, so glibc takes them from the kernel and
    gives them back each time, and up to half of a training step goes into clearing pages.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        for option, value in MALLOC_OPTIONS.values():
            libc.mallopt(option, value)


def make_mesh() -> Mesh:
    """All devices along one axis, `data`."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def place_batch(mesh: Mesh, local: np.ndarray) -> jax.Array:
    """This host's part of a batch, as the whole batch's array."""
    return jax.make_array_from_process_local_data(split_batch(mesh), local)
