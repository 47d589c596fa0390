"""Drawing any number of images of a model in parts, so that a command that is stopped can continue."""

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vaedm_jax.api import VAEDM, Samples
from vaedm_jax.data import Source, picture, some
from vaedm_jax.data.dataset import Lazy
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.spacing import RULE_OF
from vaedm_jax.errors import UserError
from vaedm_jax.reporting import to_uint8
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import whole_batch
from vaedm_jax.sampling.generation import NOTHING, Given
from vaedm_jax.sampling.inputs import compute_digest
from vaedm_jax.storage import Array, Damaged, read_arrays
from vaedm_jax.storage.writing import is_writer, replacing, set_aside, write_arrays

Parts = Callable[[], Iterator[Samples]]  # each call starts with the first part


def with_t_start(model: VAEDM, chains: Iterable[Chain], train: Callable[[], Source]) -> list[Chain]:
    """Return the chains; a warm start with t_start = 0 gets the t_start of `spacing.warm_step`.

    Args:
      train: returns the training images; called only if they are needed.
    """

    @cache
    def error() -> float:
        return model.error_variance(some(train(), RULE_OF))

    full, known = model.schedule, model.engine.networks.has_x_hat
    return [chain.with_t_start(full, error) if known else chain for chain in chains]


def originals(model: VAEDM, source: Callable[[], Source]) -> Source | None:
    """Return the images that a condition is computed from; None if the model has no condition."""
    return source() if model.engine.networks.condition else None


def cycled(images: Source, first: int, n: int) -> np.ndarray:
    """Return n images from `first` on, [n, H, W, C]; after the last one the first follows."""
    return np.stack([images[i % len(images)] for i in range(first, first + n)])


def stored(
    model: VAEDM,
    n: int,
    seed: int,
    chain: Chain,
    batch_size: int,
    folder: Path,
    source: Source | None = None,
) -> Iterator[Samples]:
    """Yield the first n images of a seed as uint8, in parts of a batch. Memory holds one batch.

    A part is read from `folder`, if it is there, else drawn and written. Parts of another model or chain, and damaged
    parts, are drawn again.

    Args:
      source: see `originals`; sample i is made from its i-th image, starting again after the last.
    """
    size, first = whole_batch(model.engine.mesh, min(batch_size, n)), 0
    while first < n:
        path, images = folder / f"{first:08d}.npz", None if source is None else cycled(source, first, size)
        identity = json.dumps([model.engine.fingerprint, chain.changes, seed, compute_digest(images)])
        part = read_part(path, identity, model.engine.networks.shape if images is None else images.shape[1:])
        if part is None:
            given = NOTHING if images is None else Given(x_hat=model.condition(images, seed, first))
            drawn = next(model.engine.sample_batches(size, seed, first, chain, batch_size, given))
            part = Samples(*(a if a is None else to_uint8(a) for a in drawn))
            arrays = {name: a for name, a in part._asdict().items() if a is not None}
            write_arrays(path, arrays | {"identity": np.array(identity)})
            hosts.wait_for_all("a part is stored")
        yield Samples(*(a if a is None else a[: n - first] for a in part))
        first += len(part.images)


def read_part(path: Path, identity: str, shape: tuple[int, ...]) -> Samples | None:
    """Return a part with this identity and at least one image of this shape; None if the file has none."""
    images = Array(np.uint8, ("N", *shape))
    try:
        arrays = read_arrays(path, {"identity": Array(str), "images": images, "x_hat": images}, ("x_hat",), most=2**32)
    except Damaged:
        return None
    if arrays["identity"] != identity or not len(arrays["images"]):
        return None
    return Samples(arrays["images"], arrays.get("x_hat"))


def must_write(target: Path, grid: Path, n: int, parts: Parts) -> bool:
    """Return whether n images must be written to a file or a folder. Nothing that is there is lost.

    If the target already begins with these images, nothing must be written. If it has other images, it is renamed,
    with its grid.
    """
    if not is_writer() or not os.path.lexists(target):
        return is_writer()
    there, first = images_in(target, next(parts()).images.shape[1:]), 0
    for images in (part.images for part in parts()):
        known = [there[i] for i in range(first, min(first + len(images), len(there)))]
        if any(not np.array_equal(a, b) for a, b in zip(known, images, strict=False)):
            there = []
        first += len(images)
    if not len(there):
        set_aside(target, grid)
    return len(there) < n


def images_in(target: Path, shape: tuple[int, ...]) -> Sequence[np.ndarray]:
    """Return the images that `write_npz` or `write_pngs` has written; no images if there is anything else."""
    if not target.is_dir():
        try:
            # The user's own file, so of any size.
            return read_arrays(target, {"images": Array(np.uint8, ("N", *shape))}, most=sys.maxsize)["images"]
        except Damaged:
            return []
    names = sorted(os.listdir(target))
    if names != [f"{i:06d}.png" for i in range(len(names))]:
        return []

    def image(i: int) -> np.ndarray:
        try:
            return picture(target / names[i], None, shape[0] * shape[1])
        except UserError:
            return np.zeros(0, np.uint8)

    return Lazy(range(len(names)), image)


def write_npz(path: Path, n: int, parts: Parts) -> None:
    """Write all n images, and their x_hat if there is one, as arrays [n, H, W, C] of one file."""
    if not is_writer():
        return
    with replacing(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (name for name, a in next(parts())._asdict().items() if a is not None):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for i, part in enumerate(parts()):
                    images = getattr(part, name)
                    if i == 0:
                        header = {"descr": "|u1", "fortran_order": False, "shape": (n, *images.shape[1:])}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(images.tobytes())


def write_pngs(folder: Path, parts: Parts) -> None:
    """Write all images as `000000.png` and so on, to a folder that appears when it is complete."""
    if not is_writer():
        return
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    i = 0
    for part in parts():
        for image in part.images:
            Image.fromarray(image).save(beside / f"{i:06d}.png")
            i += 1
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
