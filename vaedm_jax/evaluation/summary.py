"""Summaries of the features of any number of images, in bounded memory. Scores are computed from them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.moments import Moments
from vaedm_jax.evaluation.scores import Entropies, frechet_distance, kernel_distance, precision_recall
from vaedm_jax.storage import Array, Damaged, parse_json, read_arrays, reading
from vaedm_jax.storage.writing import write_arrays

# The arrays that `Summary.save` writes: D features of each of K images, and the moments of both halves of all images.
FORMS = {"identity": Array(str), "features": Array(np.float32, ("K", "D"))}
HALF = {"n": Array(np.int64), "mean": Array(np.float64, ("D",)), "scatter": Array(np.float64, ("D", "D"))}
FORMS |= {f"{name}_{i}": form for name, form in HALF.items() for i in range(2)}
KEPT = 10_000  # images whose features are kept for the scores that compare pairs: KID, precision and recall


class Summary(NamedTuple):
    """A summary of the features of images.

    Attributes:
      halves: the moments of the images with an even index, and of those with an odd index.
      features: [K, D], the features of the first KEPT images.
      entropies: the sums for the Inception Score; None if the space has no classes.
    """

    halves: tuple[Moments, Moments]
    features: np.ndarray
    entropies: Entropies | None = None

    @classmethod
    def empty(cls, D: int, classes: int = 0) -> "Summary":
        """Return the summary of no images."""
        nothing = Moments.empty(D)
        return cls((nothing, nothing), np.zeros((0, D), np.float32), Entropies.empty(classes) if classes else None)

    def add(self, features: np.ndarray, logits: np.ndarray | None = None) -> "Summary":
        """Return the summary with features [B, D] added, and with logits [B, classes] if there are classes."""
        first = self.moments.n % 2
        halves = tuple(half.add(features[(i + first) % 2 :: 2]) for i, half in enumerate(self.halves))
        kept = np.concatenate([self.features, np.float32(features[: KEPT - len(self.features)])])
        return Summary(halves, kept, self.entropies and self.entropies.add(logits))

    @property
    def moments(self) -> Moments:
        """The moments of all images."""
        return self.halves[0].merge(self.halves[1])

    def save(self, path: Path, identity: str) -> None:
        """Write the summary as `.npz`, with the identity that `load` checks.

        The entropies are left out, since no score needs those of a reference.
        """
        parts = {f"{name}_{i}": a for i, half in enumerate(self.halves) for name, a in half._asdict().items()}
        write_arrays(path, parts | {"features": self.features, "identity": np.array(identity)})

    @classmethod
    def load(cls, path: Path, identity: str) -> "Summary":
        """Return the summary that `save` wrote.

        Args:
          identity: what the summary depends on, as a JSON object.

        Raises:
          UserError: the file is missing or damaged, or has another identity.
        """
        try:
            arrays = read_arrays(path, FORMS)
            halves = tuple(
                Moments(int(arrays[f"n_{i}"]), arrays[f"mean_{i}"], arrays[f"scatter_{i}"]) for i in range(2)
            )
            summary = cls(halves, arrays["features"])
            with reading(path, "identity"):
                theirs = parse_json(arrays["identity"], dict)
        except Damaged as error:
            raise UserError(f"{path}: cannot be read as feature statistics ({error.why}); delete the file") from error
        if differing := difference(theirs, json.loads(identity)):
            raise UserError(f"{path}: these statistics are of something else: {differing}; delete the file")
        check_sound(path, summary)
        return summary


def difference(a: dict, b: dict) -> str:
    """Return in words the first entry of `a` that differs in `b`; "" if there is none.

    The name of the data is ignored, since its folder may move. Entries that `a` lacks, such as those of older
    statistics, are ignored too.
    """
    name = next((name for name in a if name != "data" and a[name] != b.get(name)), None)
    return "" if name is None else f"{name} is {a[name]!r} in the file, but {b.get(name)!r} here"


def check_sound(path: Path, summary: Summary) -> None:
    """Raise UserError unless the number of features and their mean agree with the moments."""
    kept, total = len(summary.features), summary.moments
    sound = min(half.n for half in summary.halves) > 0 and kept == min(total.n, KEPT)
    if not (sound and (total.n > kept or np.allclose(summary.features.mean(0, np.float64), total.mean, atol=1e-3))):
        raise UserError(f"{path}: its statistics contradict each other; delete the file")


def compare(samples: Summary, reference: Summary) -> dict[str, float | None]:
    """Return all scores of samples against a reference; None for those that need more images.

    `fd_bias` is the part of `fd` that comes from the finite number of samples. It falls as 1 / n (arXiv 1911.07023), so
    each half of the samples has twice as much. It is therefore the mean `fd` of the halves, minus `fd`.
    """
    kid, error = kernel_distance(samples.features, reference.features)
    found = {"kid": kid, "kid_error": None if np.isnan(error) else error, "fd": None, "fd_bias": None}
    if min(samples.moments.n, reference.moments.n) > samples.features.shape[1]:
        found["fd"] = frechet_distance(samples.moments, reference.moments)
        if min(half.n for half in samples.halves) > 1:
            of_halves = [frechet_distance(half, reference.moments) for half in samples.halves]
            found["fd_bias"] = float(np.mean(of_halves)) - found["fd"]
    neighbours = min(len(samples.features), len(reference.features)) > 3
    of_pairs = precision_recall(samples.features, reference.features) if neighbours else (None, None)
    found |= zip(("precision", "recall"), of_pairs, strict=True)
    if samples.entropies:
        found |= zip(("is", "is_error"), samples.entropies.score(), strict=True)
    return found
