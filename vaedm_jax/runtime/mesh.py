"""The devices as a mesh of `data` x `model`, and the shardings of arrays over it.

Batches are split over `data`. Parameters, their average and the optimiser state are replicated, or split by RULES.
"""

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaedm_jax.errors import UserError
from vaedm_jax.runtime.memory import memory_bytes

# Pairs (end of an array's name, mesh axes over which its last dimensions are split). Other arrays are replicated.
# `data` splits only with `mesh.fsdp`, and `model` only if it has more than one device. A dimension that is not
# divisible by the size of its axis is not split.
RULES = ((r"kernel'\]$", ("data", "model")),)  # [..., in, out]


def make_mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of devices: `model` of them along the axis `model`, the rest along `data`.

    Args:
      model: the size of the axis `model`.
      devices: the devices; None for all.

    Raises:
      UserError: `model` does not divide the number of devices.
    """
    devices = np.array(devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id)))
    if devices.size % model:
        raise UserError(f"mesh.model = {model}: there are {devices.size} devices; it must divide their number")
    return Mesh(devices.reshape(-1, model), ("data", "model"))


def check_memory(tree: Any, what: str) -> None:
    """Raise UserError if a device has less memory than its part of a tree needs.

    Args:
      tree: arrays or shapes, with shardings.
      what: what the tree is, for the message.
    """
    device = jax.local_devices()[0]
    has = (device.memory_stats() or {}).get("bytes_limit", 0)
    if device.platform == "cpu":
        has = memory_bytes() // jax.local_device_count()
    needs = sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))
    if has and needs > has:
        raise UserError(
            f"{what} needs {needs / 2**30:.1f} GiB of a device, which has {has / 2**30:.1f}, even without any images; "
            "use more devices with --config.mesh.fsdp=True, or smaller networks"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds as a whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array whose first axis, the batch, is split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def shardings(mesh: Mesh, tree: Any, fsdp: bool = False) -> Any:
    """Return the NamedSharding of each array of a tree.

    Args:
      mesh: the devices.
      tree: arrays or shapes.
      fsdp: also split the arrays that match RULES over `data`.
    """
    cuts = {"data": mesh.shape["data"] if fsdp else 1, "model": mesh.shape["model"]}

    def place(path: tuple, array: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        axes = next((axes for pattern, axes in RULES if re.search(pattern, name)), ())
        sizes = array.shape[array.ndim - len(axes) :]
        cut = [axis if cuts[axis] > 1 and n % cuts[axis] == 0 else None for axis, n in zip(axes, sizes, strict=True)]
        return NamedSharding(mesh, PartitionSpec(*[None] * (array.ndim - len(axes)), *cut))

    return jax.tree_util.tree_map_with_path(place, tree)


def whole_batch(mesh: Mesh, size: int) -> int:
    """Return a number of images, rounded up to a multiple of the devices that share a batch."""
    share = mesh.shape["data"]
    return -(-size // share) * share


def in_batches(mesh: Mesh, arrays: Any, batch_size: int) -> Iterator[tuple[int, Any]]:
    """Yield pairs (count, batch) of arrays [N, ...]: batches [B, ...] on the devices, with their number of entries.

    The last batch is padded, so that all batches have the same shape. If the entries fill no batch, B is the next power
    of two, so that few shapes are compiled. Every process must have the whole arrays.
    """
    n = len(jax.tree.leaves(arrays)[0])
    size, sharding = whole_batch(mesh, min(batch_size, 1 << (n - 1).bit_length())), batch_sharding(mesh)
    for begin in range(0, n, size):
        batch = jax.tree.map(lambda a: np.resize(a[begin : begin + size], (size, *a.shape[1:])), arrays)  # noqa: B023
        yield min(size, n - begin), jax.device_put(batch, sharding)


def host_share(mesh: Mesh) -> tuple[int, int]:
    """Return (k, n): this process supplies part k, counted from 0, of the n equal parts of a batch.

    Several processes supply the same part if the axis `model` spans them.
    """
    rows = np.vectorize(lambda d: d.process_index == jax.process_index())(mesh.devices).any(axis=1)
    first, n = int(rows.argmax()), int(rows.sum())
    return first // n, len(rows) // n


def place_batch(mesh: Mesh, local: np.ndarray) -> jax.Array:
    """Return a batch as one array over all processes, of which each gives its `local` part [B / n, ...]."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh), local)


def prefetch_batches(mesh: Mesh, batches: Iterable[np.ndarray], ahead: int = 1) -> Iterator[jax.Array]:
    """Yield each batch as `place_batch` returns it, and transfer `ahead` more to the devices in the meantime."""
    placed: deque[jax.Array] = deque()
    for batch in batches:
        placed.append(place_batch(mesh, batch))
        if len(placed) > ahead:
            yield placed.popleft()
    yield from placed
