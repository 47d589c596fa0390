"""The rows of a comparison keep facts, scores and feature spaces apart, whatever the names of the spaces."""

import csv
import json

import numpy as np
import pytest

from vaedm_jax.errors import UserError
from vaedm_jax.reporting.comparison import write_comparison
from vaedm_jax.reporting.rows import Row, check_spaces, over_seeds

FACTS = {"run": "a", "variant": "form1", "sampler": "ddim", "start": "noise", "steps": 5, "nfe": 5, "seed": 0, "n": 64}
AWKWARD = ["mine.of_error_size", "mine.no_bias_at_all", "mine.kid_error_", "mine._sem", "is", "n", "mine.seed_sem_kid"]


def scores(kid: float) -> dict:
    return {"kid": kid, "kid_error": 0.5, "fd": 3 * kid, "fd_bias": 0.1, "precision": None, "recall": 0.25}


def lines(*kids: float) -> list[Row]:
    return [Row(FACTS | {"seed": i}, {name: scores(kid) for name in AWKWARD}) for i, kid in enumerate(kids)]


def test_spaces_of_any_name_are_averaged_and_written(tmp_path):
    check_spaces(AWKWARD)
    text = write_comparison(tmp_path, lines(2.0, 4.0, 9.0), {name: f"FD-{name}" for name in AWKWARD})
    error = np.std([2, 4, 9], ddof=1) / np.sqrt(3)
    assert text.splitlines()[1].split() == ["a", "ddim", "noise", "5", "5", f"{error:.2g}", "15", "-", "0.25"]
    with open(tmp_path / "evaluation.csv") as file:
        (first, *_) = csv.DictReader(file)
    about = json.loads((tmp_path / "evaluation.json").read_text())
    for name in AWKWARD:
        assert (first[f"kid_{name}"], first[f"kid_error_{name}"], first[f"precision_{name}"]) == ("2", "0.5", "")
        (mean,) = about["means_over_seeds"]
        assert mean[f"kid_{name}"] == pytest.approx(5) and mean[f"fd_{name}"] == pytest.approx(15)
        assert mean[f"kid_{name}_sem"] == pytest.approx(error)
        assert mean[f"precision_{name}"] is None and mean[f"precision_{name}_sem"] is None


def test_with_one_seed_only_the_kernel_distance_has_an_error():
    (mean,) = over_seeds(lines(2.0))
    found = mean.scores[AWKWARD[0]]
    assert mean.facts["seeds"] == 1 and "seed" not in mean.facts
    assert (found["kid"], found["kid_sem"], found["fd_sem"], found["kid_error"]) == (2, 0.5, None, 0.5)


def test_a_row_is_read_back_from_its_columns():
    (row,) = lines(2.0)
    assert Row.of(row.columns, AWKWARD) == row


@pytest.mark.parametrize(
    "change",
    [{"n": "64"}, {"run": None}, {"steps": 1.5}, {"kid_is": "2"}, {"fd_is": [1]}, {"recall_is": {}}],
)
def test_columns_of_another_form_are_refused(change):
    (row,) = lines(2.0)
    with pytest.raises(ValueError):
        Row.of(row.columns | change, AWKWARD)
    name = next(iter(change))
    with pytest.raises(ValueError):
        Row.of({key: value for key, value in row.columns.items() if key != name}, AWKWARD)


@pytest.mark.parametrize("spaces", [["m.f", "error_m.f"], ["random", "random_sem"], ["bias_x.y", "x.y"]])
def test_spaces_whose_columns_would_be_the_same_are_refused(spaces):
    with pytest.raises(UserError, match="would both have a column"):
        check_spaces(spaces)
