"""Odd and damaged input succeeds or is refused in one line. `python -m tests.fuzz 5000` tries more of it."""

from random import Random

import pytest

from tests import fuzz
from tests.fuzz_cases import KINDS, SHARES

CASES, SEED = 150, 0
SOUND = fuzz.Outcome(0, "", "", [], 0.1)
REFUSED = fuzz.Outcome(2, "vaedm: ddpm.T = 0: it should be more\n", "", [], 0.1)


def test_damaged_and_odd_input_is_refused_in_one_line_and_sound_input_is_accepted(tmp_path):
    found = list(fuzz.fuzz(range(CASES), SEED, list(KINDS), tmp_path))
    wrong = [fuzz.report(case, SEED) for case in found if case["wrong"]]
    assert not wrong, "\n".join(wrong)
    assert len(found) == CASES and {case["kind"] for case in found} == set(KINDS)
    ended = [case["status"] for case in found]
    assert min(ended.count(0), ended.count(2)) > CASES // 10


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (SOUND._replace(status=None, traceback="KeyError: 'a'\nTraceback"), "raised KeyError"),
        (SOUND._replace(said="Traceback (most recent call last):\n"), "printed a traceback"),
        (SOUND._replace(status=3), "ended with 3"),
        (REFUSED._replace(said=""), "0 lines"),
        (REFUSED._replace(said=REFUSED.said * 2), "2 lines"),
        (REFUSED._replace(said=REFUSED.said + "more\n"), "1 lines"),
        (REFUSED._replace(said="vaedm: \n"), "a line of"),
        (REFUSED._replace(said="vaedm: data.path: \x1b[31m is not there\n"), "a line of"),
        (REFUSED._replace(changed=["run/config.json"]), "changed run/config.json"),
        (SOUND._replace(seconds=100.0), "of the CPU"),
    ],
)
def test_each_fault_of_an_outcome_is_found(outcome, words):
    assert words in fuzz.problem(outcome, sound=False, owned=[])


def test_a_proper_outcome_is_no_problem_unless_files_of_the_user_change():
    for outcome in (SOUND, REFUSED, REFUSED._replace(status=1)):
        assert fuzz.problem(outcome, sound=False, owned=[]) == ""
    assert "refused what is sound" in fuzz.problem(REFUSED, sound=True, owned=[])
    assert "the user's" in fuzz.problem(SOUND, sound=False, owned=["images/a.png"])


def test_a_case_is_a_function_of_its_seed_and_number(tmp_path):
    assert SHARES.keys() == KINDS.keys()
    first, second, other = (KINDS["settings"](Random(seed), tmp_path) for seed in ("0/1", "0/1", "0/2"))
    assert first == second != other
