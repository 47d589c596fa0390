"""The rows of a comparison: what was evaluated, and its scores in each feature space.

A column is named SCORE_SPACE, such as `kid_error_random`. The name of a space may itself contain `_error_`, so the name
of a column is never parsed. Whatever uses such a name makes it from its two parts.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaedm_jax.errors import UserError

FACTS = {"run": str, "variant": str, "sampler": str, "start": str, "steps": int, "nfe": int, "seed": int, "n": int}
SCORES = ("kid", "fd", "precision", "recall", "is")
OF_ONE_SEED = ("kid_error", "fd_bias", "is_error")  # further columns of a score
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Row:
    """One row of a comparison: the scores of one seed, or their means over the seeds.

    Attributes:
      facts: the values of FACTS. Means over seeds have `seeds`, the number of seeds, in place of `seed`.
      scores: by space, the scores by SCORE. Means also have their standard errors, `SCORE_sem`.
    """

    facts: dict[str, Any]
    scores: dict[str, Scores]

    @property
    def columns(self) -> dict[str, Any]:
        """The values of the row by column."""
        scores = {column(key, name): v for name, found in self.scores.items() for key, v in found.items()}
        return self.facts | scores

    @classmethod
    def of(cls, columns: dict[str, Any], spaces: Collection[str]) -> "Row":
        """Return the row with these columns.

        Raises:
          ValueError: a fact or a score is missing, or a score is not a number.
        """
        scores = {
            name: {key: columns[c] for key in (*SCORES, *OF_ONE_SEED) if (c := column(key, name)) in columns}
            for name in spaces
        }
        values = [v for found in scores.values() for v in found.values()]
        if not all(isinstance(columns.get(name), kind) for name, kind in FACTS.items()):
            raise ValueError("a fact is missing")
        if not all({"kid", "kid_error", *SCORES[1:4]} <= found.keys() for found in scores.values()):
            raise ValueError("a score is missing")
        if not all(v is None or isinstance(v, int | float) for v in values):
            raise ValueError("a score is not a number")
        return cls({name: columns[name] for name in FACTS}, scores)


def column(score: str, space: str) -> str:
    """Return the name of the column of a score in a space."""
    key, _, what = score.partition("_")
    return f"{key}_{space}_sem" if what == "sem" else f"{score}_{space}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal: lines of words, whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def check_spaces(spaces: Sequence[str]) -> None:
    """Raise UserError if columns of two spaces would have the same name."""
    keys = (*SCORES, *OF_ONE_SEED, *(f"{key}_sem" for key in SCORES))
    taken: dict[str, str] = dict.fromkeys(FACTS, "the table itself")
    for name, key in ((name, key) for name in spaces for key in keys):
        if (other := taken.setdefault(column(key, name), name)) != name:
            both = f"'{name}' and '{other}' would both have a column {column(key, name)}"
            raise UserError(f"eval.features: {both}; rename one of them")


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each combination, with the means of its scores over the seeds and their standard errors.

    With one seed, only the kernel distance has an error, which comes from blocks of its images.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(v for name, v in row.facts.items() if name != "seed"), []).append(row)
    means = []
    for group in groups.values():
        first = group[0]
        facts = {name: value for name, value in first.facts.items() if name != "seed"} | {"seeds": len(group)}
        scores = {name: mean_scores([row.scores[name] for row in group]) for name in first.scores}
        means.append(Row(facts, scores))
    return means


def mean_scores(group: Sequence[Scores]) -> Scores:
    """Return the means over the seeds of the scores in one space; None for a score that a seed does not have."""
    mean: Scores = {}
    for key in group[0]:
        values = [scores.get(key) for scores in group]
        missing = None in values
        mean[key] = None if missing else float(np.mean(values))
        if key in SCORES:
            several = not missing and len(values) > 1
            many = float(np.std(values, ddof=1) / np.sqrt(len(values))) if several else None
            mean[f"{key}_sem"] = group[0].get("kid_error") if key == "kid" and len(values) == 1 else many
    return mean
