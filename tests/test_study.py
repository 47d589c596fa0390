"""The tables of the study show means over the seeds of the training, with their 95 % intervals."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "launch" / "study.py"
SCORES = ("kid_avatars", "fd_avatars", "fd_random", "precision_avatars", "recall_avatars")


def evaluation(folder, *rows):
    """Write the table of an evaluation, from rows of (run, sampler, start, nfe, KID)."""
    (folder / "evaluation").mkdir(parents=True)
    with (folder / "evaluation" / "evaluation.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "sampler", "start", "nfe", *SCORES])
        for *facts, kid in rows:
            writer.writerow([*facts, *(kid * (i + 1) for i in range(len(SCORES)))])


def study(workdir):
    return subprocess.run([sys.executable, SCRIPT, workdir], capture_output=True, text=True)


@pytest.fixture
def done(tmp_path):
    for seed, shift in enumerate((-1, 0, 1)):
        plain = [(f"uncond-eps-{seed}", "unipc2", "noise", n, 8 + shift) for n in (10, 20)]
        evaluation(tmp_path / "scores" / f"plain-{seed}", *plain)
        refiner = f"form1-eps-{seed}"
        evaluation(
            tmp_path / "scores" / f"noise-{seed}",
            (f"{refiner}-prior", "unipc2", "noise", 5, 3 + 2 * shift),
            (f"{refiner}-prior", "vae", "z", 0, 50),
        )
        evaluation(tmp_path / "scores" / f"normal-{seed}", (refiner, "unipc2", "noise", 5, 6))
    made = study(tmp_path)
    assert made.returncode == 0, made.stderr
    return tmp_path


def test_a_point_is_the_mean_over_seeds_with_its_interval(done):
    """4.303 is the 97.5 % quantile of Student's t with two degrees of freedom."""
    with (done / "study.csv").open() as file:
        rows = {(r["variant"], r["start"], r["sampler"], r["nfe"]): r for r in csv.DictReader(file)}
    mixture = rows["form1", "noise", "unipc2", "5"]
    assert mixture["seeds"] == "3" and float(mixture["kid_avatars"]) == 3
    assert float(mixture["kid_avatars_95"]) == pytest.approx(4.3027 * 2 / np.sqrt(3), rel=1e-3)
    assert float(rows["form1", "noise, z from N(0, I)", "unipc2", "5"]["kid_avatars"]) == 6
    assert float(rows["form1", "noise", "vae", "0"]["fd_avatars"]) == 100
    assert (done / "study.png").stat().st_size > 1000


def test_a_kind_without_points_of_the_plotted_sampler_gets_no_empty_plot(done):
    evaluation(done / "scores" / "tuned", ("uncond-consistency-0", "consistency", "noise-open", 1, 9))
    made = study(done)
    assert made.returncode == 0 and "legend" not in made.stderr
    assert "## uncond, consistency" in (done / "tables.md").read_text()


def test_the_refiner_is_compared_with_the_plain_ddpm_at_two_and_four_times_its_steps(done):
    lines = (done / "tables.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("| 5 | noise | KID |"))
    twice, once = f"{2 * 4.3027 / np.sqrt(3):.2g}", f"{4.3027 / np.sqrt(3):.2g}"
    assert line == f"| 5 | noise | KID | 3 ± {twice} | 8 ± {once} | -5 ± {once} | 8 ± {once} | -5 ± {once} |"


def test_models_of_other_seeds_are_not_compared(tmp_path):
    for seed in (0, 1):
        evaluation(tmp_path / "scores" / f"noise-{seed}", (f"form1-eps-{seed}-prior", "unipc2", "noise", 5, seed))
        evaluation(tmp_path / "scores" / f"plain-{seed}", (f"uncond-eps-{seed}", "unipc2", "noise", 10, seed))
        evaluation(tmp_path / "scores" / f"more-{seed}", (f"uncond-eps-{seed + 1}", "unipc2", "noise", 20, seed))
    assert study(tmp_path).returncode == 0
    (line,) = (line for line in (tmp_path / "tables.md").read_text().splitlines() if "| 5 | noise | KID |" in line)
    assert line == "| 5 | noise | KID | 0.5 ± 6.4 | 0.5 ± 6.4 | 0 ± 0 | – | – |"


def test_a_folder_without_evaluations_is_refused(tmp_path):
    refused = study(tmp_path)
    assert refused.returncode == 1 and "launch/study.sh makes them" in refused.stderr
