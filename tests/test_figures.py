"""The figures of a run are drawn with captions, and the shares of the variance are right for known data."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import random_params, tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.learnt import unrolled
from vaedm_jax.diffusion.schedule import linear_schedule
from vaedm_jax.evaluation.explained import shares, shares_and_errors
from vaedm_jax.main import main
from vaedm_jax.modes.figures import applies
from vaedm_jax.reporting import read_caption
from vaedm_jax.training.stages import ddpm_stage, vae_stage


def table_of(rng, K, M, D, parts):
    """Return features [K, M, D] of K z and M x_T: effects of z, of x_T and of both, with the variances `parts`."""
    shapes = (K, 1, D), (1, M, D), (K, M, D)
    return sum(np.sqrt(v) * rng.standard_normal(shape) for v, shape in zip(parts, shapes, strict=True))


@pytest.mark.parametrize("parts", [(0.6, 0.3, 0.1), (0.0, 0.5, 0.5), (0.9, 0.0, 0.1)])
def test_the_shares_are_those_that_the_features_were_drawn_with(parts):
    rng = np.random.default_rng(0)
    found, errors = shares_and_errors(table_of(rng, 20, 30, 400, parts))
    np.testing.assert_allclose(found, parts, atol=0.03)
    assert sum(found) == pytest.approx(1) and max(errors) < 0.05


def test_the_errors_of_the_shares_are_their_scatter_over_repetitions():
    rng = np.random.default_rng(1)
    found = [shares_and_errors(table_of(rng, 10, 12, 3, (0.5, 0.3, 0.2))) for _ in range(200)]
    values, errors = (np.array(a) for a in zip(*found, strict=True))
    np.testing.assert_allclose(np.sqrt((errors**2).mean(0)), values.std(0), rtol=0.5)
    np.testing.assert_allclose(values.mean(0), (0.5, 0.3, 0.2), atol=0.05)


def test_features_that_depend_on_z_alone_give_x_T_no_share():
    of_z = np.random.default_rng(0).standard_normal((4, 1, 5)).repeat(3, axis=1)
    np.testing.assert_allclose(shares(of_z), (1, 0, 0), atol=1e-12)


def draw(tmp_path, variants, *options, **changes):
    """Save tiny models in files named after their variants, draw their figures, and return the exit status."""
    for variant in variants:
        config = tiny_config(variant, **changes)
        vae = {} if variant == "uncond" else random_params(vae_stage(config), 1)
        model = VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2))
        model.save(tmp_path / f"{variant}.safetensors")
    runs = ",".join(str(tmp_path / f"{variant}.safetensors") for variant in variants)
    small = "--config.figures.columns=3", "--config.figures.z=3", "--config.figures.x_T=3", "--config.sample.steps=2"
    features = "--config.eval.features=tests.tiny_features:means"
    command = ["main", f"--workdir={tmp_path / 'out'}", "--mode=figures", f"--config.eval.runs={runs}"]
    return main([*command, *small, features, "--config.figures.steps=(2,)", *options])


def captions(folder: Path) -> dict[str, str]:
    return {path.stem: read_caption(path) for path in folder.glob("*.png")}


def test_a_refiner_has_all_figures_with_captions_in_the_report(tmp_path):
    start = "--config.sample.start=warm"
    assert draw(tmp_path, ["form1", "uncond"], start, **{"ddpm.cond_dropout": 0.1}) == 0
    found = captions(tmp_path / "out" / "figures")
    drawn = "refinement steps z x_T variance restoration temperature shared guidance"
    assert found.keys() == set(drawn.split())
    assert all(found.values()) and "z 0." in found["variance"]
    with open(tmp_path / "out" / "figures" / "variance.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["z"]) + float(row["x_T"]) + float(row["both"]) == pytest.approx(1, abs=1e-5)
    report = (tmp_path / "out" / "report.html").read_text()
    assert all(f"figures/{name}.png" in report for name in found)


def test_a_plain_ddpm_has_the_figures_that_need_no_vae(tmp_path):
    assert draw(tmp_path, ["uncond"]) == 0
    assert captions(tmp_path / "out" / "figures").keys() == {"steps", "x_T", "temperature"}


@pytest.mark.parametrize("objective", ["diffusion", "consistency"])
def test_only_a_refiner_that_can_be_guided_has_the_figure_of_guidance(objective):
    changes = {"ddpm.cond_dropout": 0.1, "ddpm.prediction": "v", "ddpm.objective": objective}
    assert applies("guidance", VAEDM(tiny_config(**changes), {}, {})) == (objective == "diffusion")


def test_a_number_of_steps_without_a_learnt_table_is_refused_before_anything_is_drawn(tmp_path, capsys):
    config = tiny_config("uncond")
    table = unrolled(Chain("unipc2", 2).table(linear_schedule()))._asdict()
    model = VAEDM(config, {}, random_params(ddpm_stage(config, {})), tables={"noise_2": table})
    model.save(tmp_path / "tuned.safetensors")
    command = ["main", f"--workdir={tmp_path / 'out'}", "--mode=figures", "--config.sample.sampler=tuned"]
    command += [f"--config.sample.weights={tmp_path / 'tuned.safetensors'}", "--config.sample.steps=2"]
    assert main([*command, "--config.figures.steps=(2,3)"]) == 2
    assert "figures.steps: " in (told := capsys.readouterr().err) and "noise_3" in told
    assert not (tmp_path / "out" / "figures").exists()


def test_a_chain_that_a_restoration_cannot_run_is_refused_before_anything_is_drawn(tmp_path, capsys):
    """Noise of a deviation of 0.1 belongs to t = 57, from where no integer stride gives 37 steps."""
    steps = "--config.sample.steps=37", "--config.sample.spacing=uniform", "--config.sample.start=warm"
    assert draw(tmp_path, ["form1"], *steps, "--config.sample.t_start=36") == 2
    assert re.search(r"vaedm: (super2|denoise0\.1): 37 steps: no integer stride", capsys.readouterr().err)
    assert not (tmp_path / "out" / "figures").exists()


def test_a_chain_that_a_later_model_cannot_run_is_refused_before_anything_is_drawn(tmp_path, capsys):
    assert draw(tmp_path, ["form1", "uncond"], "--config.sample.z_temperature=0.9") == 2
    assert "figures.steps: uncond: z_temperature = 0.9: this model has no VAE" in capsys.readouterr().err
    assert not (tmp_path / "out" / "figures").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config.figures.steps=()"], ["figures.steps = ()", "at least one"]),
        (["--config.figures.columns=0"], ["figures.columns = 0"]),
        (["--config.figures.z=1"], ["figures.z = 1", "3 or more"]),
        (["--config.sample.sampler=euler"], ["'euler'"]),
        (["--config.sample.guidance=1"], ["cond_dropout"]),
    ],
)
def test_impossible_figures_are_refused_in_one_line(tmp_path, capsys, options, words):
    assert draw(tmp_path, ["form1"], *options) == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in words) and not (tmp_path / "out" / "figures").exists()
