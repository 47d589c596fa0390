"""The devices as a mesh of `data` x `model`, and what lies where.

The batch is split over `data`. Parameters, with their average and the optimiser's, lie everywhere, or are cut by RULES.
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

# By the end of an array's name, the axes that its last dimensions are cut over; all else lies everywhere. `data` cuts
# where `mesh.fsdp` asks for it, and `model` where it has more than one device; an array that an axis does not divide is
# not cut over it.
RULES = ((r"kernel'\]$", ("data", "model")),)  # [..., in, out]


def make_mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices, by default all: `model` along that axis, the rest along `data`; UserError where that cannot be."""
    devices = np.array(devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id)))
    if devices.size % model:
        raise UserError(f"mesh.model = {model}: there are {devices.size} devices, and it must divide their number")
    return Mesh(devices.reshape(-1, model), ("data", "model"))


def check_memory(tree: Any, what: str) -> None:
    """UserError where what a device would hold of a tree (arrays or shapes, with shardings) is more than it has."""
    device = jax.local_devices()[0]
    has = (device.memory_stats() or {}).get("bytes_limit", 0)
    if device.platform == "cpu":
        has = memory_bytes() // jax.local_device_count()
    needs = sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))
    if has and needs > has:
        raise UserError(
            f"{what} needs {needs / 2**30:.1f} GiB of a device, which has {has / 2**30:.1f}, before any image is in; "
            "more devices with --config.mesh.fsdp=True, or smaller networks need less"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def placement(mesh: Mesh, tree: Any, fsdp: bool = False) -> Any:
    """Where the arrays of a tree (or their shapes) lie, as NamedShardings."""
    cuts = {"data": mesh.shape["data"] if fsdp else 1, "model": mesh.shape["model"]}

    def place(path: tuple, array: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        axes = next((axes for pattern, axes in RULES if re.search(pattern, name)), ())
        sizes = array.shape[array.ndim - len(axes) :]
        cut = [axis if cuts[axis] > 1 and n % cuts[axis] == 0 else None for axis, n in zip(axes, sizes, strict=True)]
        return NamedSharding(mesh, PartitionSpec(*[None] * (array.ndim - len(axes)), *cut))

    return jax.tree_util.tree_map_with_path(place, tree)


def whole_batch(mesh: Mesh, size: int) -> int:
    """A number of images, rounded up to a multiple of the devices that share a batch."""
    share = mesh.shape["data"]
    return -(-size // share) * share


def in_batches(mesh: Mesh, arrays: Any, batch_size: int) -> Iterator[tuple[int, Any]]:
    """Yield arrays [N, ...] in batches that the devices share, each with its number of entries.

    The last batch is filled up, so that all have one shape. Every process holds all of the arrays.
    """
    n = len(jax.tree.leaves(arrays)[0])
    size, sharding = whole_batch(mesh, min(batch_size, n)), split_batch(mesh)
    for begin in range(0, n, size):
        batch = jax.tree.map(lambda a: np.resize(a[begin : begin + size], (size, *a.shape[1:])), arrays)  # noqa: B023
        yield min(size, n - begin), jax.device_put(batch, sharding)


def host_share(mesh: Mesh) -> tuple[int, int]:
    """(k, n): this process feeds the k-th of n equal parts of a batch; so do others where `model` spans processes."""
    rows = np.vectorize(lambda d: d.process_index == jax.process_index())(mesh.devices).any(axis=1)
    first, n = int(rows.argmax()), int(rows.sum())
    return first // n, len(rows) // n


def place_batch(mesh: Mesh, local: np.ndarray) -> jax.Array:
    """This host's part of a batch, as the whole batch's array."""
    return jax.make_array_from_process_local_data(split_batch(mesh), local)


def place_ahead(mesh: Mesh, batches: Iterable[np.ndarray], ahead: int = 1) -> Iterator[jax.Array]:
    """As `place_batch`, of each in turn; `ahead` more are on their way to the devices while one is worked on."""
    placed: deque[jax.Array] = deque()
    for batch in batches:
        placed.append(place_batch(mesh, batch))
        if len(placed) > ahead:
            yield placed.popleft()
    yield from placed
