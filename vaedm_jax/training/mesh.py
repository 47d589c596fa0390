"""The devices as a mesh, and what lies where: parameters everywhere, the batch split over `data`."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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
