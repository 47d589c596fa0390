"""Scores of samples against the images of a data set, in one feature space."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from vaedm_jax.config import names
from vaedm_jax.data import Dataset, Source
from vaedm_jax.data.dataset import fingerprint
from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.classifier import LABELS
from vaedm_jax.evaluation.features import Extractor, Space, space, width
from vaedm_jax.evaluation.summary import Summary, compare
from vaedm_jax.reporting import Progress
from vaedm_jax.reporting.rows import check_spaces

BLOCK = 256  # images of the data whose features are computed at a time


class Judge:
    """The scores of samples in one feature space.

    Attributes:
      reference: the summary of the features of the data, read from the file of an earlier judge or computed.
      identity: what the reference depends on: data, split, preprocessing and network.
    """

    def __init__(self, space: Space, mesh: Mesh, batch_size: int, data: Dataset, split: str, folder: Path):
        self.space, self.extract = space, Extractor(space, mesh, batch_size)
        source = side(data, split)
        self.identity = {"data": data.name, "split": split, **fingerprint(source)}
        # The fingerprint covers some of the images, the digest all.
        self.identity |= {"files": data.digest} if data.digest else {}
        self.identity |= {"features": space.name, "network": space.identity}
        self.reference = self.load_reference(source, folder / f"{space.name}_{split}.npz")

    def load_reference(self, source: Source, path: Path) -> Summary:
        """Return the summary in a file, or compute it and write it there if there is none."""
        identity = json.dumps(self.identity, sort_keys=True)
        if path.exists():
            return Summary.load(path, identity)
        order = np.random.default_rng(0).permutation(len(source))  # the first images of a sorted folder are alike
        summary = None
        with Progress(len(source), 0, f"features '{self.space.name}' of the data", noun="image") as progress:
            for begin in range(0, len(source), BLOCK):
                summary = self.add(summary, np.stack([source[int(i)] for i in order[begin : begin + BLOCK]]))
                progress.update(summary.moments.n)
        summary.save(path, identity)
        return summary

    def add(self, summary: Summary | None, images: np.ndarray) -> Summary:
        """Return the summary with uint8 images [N, H, W, C] added. None stands for the summary of no images."""
        features, logits = self.extract(images)
        if summary is None:
            summary = Summary.empty(features.shape[1], 0 if logits is None else logits.shape[1])
        return summary.add(features, logits)

    def scores(self, samples: Summary) -> dict[str, float | None]:
        """Return the scores of samples; see `summary.compare`."""
        return compare(samples, self.reference)

    def too_few(self, n: int) -> str:
        """Return why n samples have no Frechet distance here; "" if they have one."""
        return too_few(self.space, self.reference.features.shape[1], min(self.reference.moments.n, n))


def too_few(space: Space, D: int, n: int) -> str:
    """Return why n images have no Frechet distance in a space of D features; "" if they have one."""
    if n > D:
        return ""
    return (
        f"no {space.title}: a covariance of {D:,} features needs more than {D:,} images, but the samples or the data "
        f"have {n:,}; the kernel distance (KID) needs no covariance"
    )


def judges(
    settings: Any, data_settings: Any, data: Dataset, mesh: Mesh, batch_size: int, folder: Path
) -> Iterator[Judge]:
    """Yield a judge for each space of `spaces`. Their reference files are in `folder`.

    A judge may compute the features of the whole data set, so take only those that are needed.
    """
    for one in checked_spaces(settings, data_settings, data):
        yield Judge(one, mesh, batch_size, data, settings.split, folder)


def checked_spaces(settings: Any, data_settings: Any, data: Dataset) -> list[Space]:
    """Return the `spaces`, and check that samples can be compared with the data in all of them.

    Nothing is computed, so the check can precede all training and writing.

    Raises:
      UserError: there are fewer than two images to compare with, or a space cannot be used.
    """
    chosen, source = spaces(settings, data_settings), side(data, settings.split)
    if len(source) < 2:
        raise UserError(
            f"eval.split = {settings.split!r}: {data.name} has too few of these images ({len(source)}); scores need 2 "
            "or more"
        )
    for one in chosen:
        width(one, data_settings.image_size)
    return chosen


def side(data: Dataset, split: str) -> Source:
    """Return the images of a split, with which samples are compared."""
    return data.train if split == "train" else data.test


def spaces(settings: Any, data_settings: Any) -> list[Space]:
    """Return the feature spaces that the `eval` section names, else those that suit the data: `random` suits any."""
    own = data_settings.source if data_settings.source in LABELS and not data_settings.path else ""
    suit = ["inception" if settings.inception else own, "random"]
    found = [space(name, settings.inception) for name in names(settings.features) or filter(None, suit)]
    check_spaces([space.name for space in found])
    return found
