"""Any number of images of a model: drawn into parts on disk, so that a run that is stopped goes on where it was."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vaedm_jax.api import VAEDM, Samples
from vaedm_jax.data import Source, picture, some
from vaedm_jax.data.source import Lazy
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.images import to_uint8
from vaedm_jax.diffusion.spacing import RULE_OF
from vaedm_jax.errors import UserError
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import whole_batch
from vaedm_jax.sampling.generation import NOTHING, Given
from vaedm_jax.sampling.inputs import digest_of
from vaedm_jax.storage import Array, Damaged, read_arrays
from vaedm_jax.storage.disk import writing
from vaedm_jax.storage.writing import set_aside, write_arrays, writes

Parts = Callable[[], Iterator[Samples]]  # begins anew at every call


def placed(model: VAEDM, chains: Iterable[Chain], train: Callable[[], Source]) -> list[Chain]:
    """The chains; a warm start whose t_start is 0 begins where the error of x_hat asks for.

    Args:
      train: gives the images of the training; called where the rule is asked for.
    """

    @cache
    def error() -> float:
        return model.error_variance(some(train(), RULE_OF))

    full, known = model.networks.full_schedule, model.networks.has_x_hat
    return [chain.with_t_start(full, error) if known else chain for chain in chains]


def origin(model: VAEDM, source: Callable[[], Source]) -> Source | None:
    """The images that a model is shown something of; None, where it has a VAE, or is shown nothing."""
    return source() if model.networks.condition else None


def cycled(images: Source, first: int, n: int) -> np.ndarray:
    """n images from `first` on, as if they had no end, [n, H, W, C]."""
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
    """The first n images of a seed as uint8, a batch at a time: read where `folder` has them, else drawn and put there.

    A part that another model or chain has left, or that cannot be read, is drawn anew. Memory holds one batch.

    Args:
      source: see `origin`; image i is made of what is left of its i-th, from the first again after the last.
    """
    size, first = whole_batch(model.mesh, min(batch_size, n)), 0
    while first < n:
        path, images = folder / f"{first:08d}.npz", None if source is None else cycled(source, first, size)
        identity = json.dumps([model.fingerprint, chain.changes, seed, digest_of(images)])
        part = read_part(path, identity, model.networks.shape if images is None else images.shape[1:])
        if part is None:
            given = NOTHING if images is None else Given(x_hat=model.condition(images, seed, first))
            drawn = next(model.batches(size, seed, first, chain, batch_size, given))
            part = Samples(*(a if a is None else to_uint8(a) for a in drawn))
            arrays = {name: a for name, a in part._asdict().items() if a is not None}
            write_arrays(path, arrays | {"identity": np.array(identity)})
            hosts.meet("a part is stored")
        yield Samples(*(a if a is None else a[: n - first] for a in part))
        first += len(part.images)


def read_part(path: Path, identity: str, shape: tuple[int, ...]) -> Samples | None:
    """A part that was stored for the same purpose, with one image of that shape at least; None where there is none."""
    images = Array(np.uint8, ("N", *shape))
    try:
        arrays = read_arrays(path, {"identity": Array(str), "images": images, "x_hat": images}, ("x_hat",), most=2**32)
    except Damaged:
        return None
    if arrays["identity"] != identity or not len(arrays["images"]):
        return None
    return Samples(arrays["images"], arrays.get("x_hat"))


def makes_room(target: Path, grid: Path, n: int, parts: Parts) -> bool:
    """Return whether n images have to be written to a file or a folder; what is there, and its grid, is never lost.

    Where these are the first of the images that are there, the others stay and nothing has to be written. Where there
    are other images, these get another name, and so does their grid.
    """
    if not writes() or not os.path.lexists(target):
        return writes()
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
    """Return the images that `write_npz` or `write_pngs` has written; none where there is anything else."""
    if not target.is_dir():
        try:
            return read_arrays(target, {"images": Array(np.uint8, ("N", *shape))}, most=2**32)["images"]
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
    """All n images, and their x_hat where they have one, as arrays [n, H, W, C] of one file, which is written whole."""
    if not writes():
        return
    beside = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, beside), zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (name for name, a in next(parts())._asdict().items() if a is not None):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for i, part in enumerate(parts()):
                    images = getattr(part, name)
                    if i == 0:
                        header = {"descr": "|u1", "fortran_order": False, "shape": (n, *images.shape[1:])}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(images.tobytes())
    os.replace(beside, path)


def write_pngs(folder: Path, parts: Parts) -> None:
    """All images as `000000.png` and so on, in a folder that appears when it is whole."""
    if not writes():
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
