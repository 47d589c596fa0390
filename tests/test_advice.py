"""A refiner that has not learnt enough, attention that is missing, and a poor spacing are noticed."""

import json

import numpy as np
import pytest

from tests.tiny import tiny_config
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.modes.shared.advice import advise, advise_spacing
from vaedm_jax.modes.train import note_attention

RANGES = ("t0_249", "t250_499", "t500_749", "t750_999")
NOISE, WARM = Chain("unipc2", 10), Chain("unipc2", 10, start="warm", t_start=499)


@pytest.fixture(name="said")
def said_fixture(tmp_path, capsys):
    """Return a function (errors by range, chain, prediction) -> what is printed; x_hat has the error 0.1."""

    def said(errors: tuple[float, ...], chain: Chain = NOISE, prediction: str = "residual", **changes) -> str:
        by_t = {f"held_out_x_0_error_{of}": error for of, error in zip(RANGES, errors, strict=False)}
        lines = [{"step": 1, "held_out_x_hat_error": 0.1, **by_t}, {"step": 2, "loss": 1.0}] if errors else []
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        advise(tmp_path, tiny_config(**{"ddpm.prediction": prediction, **changes}).ddpm, chain)
        return capsys.readouterr().out

    return said


@pytest.mark.parametrize(("attention", "noted"), [((), ""), ((2, 4), ""), ((2, 16), "16 adds none")])
def test_attention_at_a_level_that_the_network_does_not_have_is_noted(capsys, attention, noted):
    note_attention(tiny_config(**{"ddpm.multipliers": (1, 2, 2), "ddpm.attention": attention}).ddpm)
    said = capsys.readouterr().out
    assert noted in said and bool(said) == bool(noted)


@pytest.mark.parametrize(
    ("chain", "noted"),
    [
        (Chain("heun", 10), True),
        (Chain("heun", 10, spacing="karras"), False),
        (Chain("heun", 10, start="warm"), False),
        (Chain("unipc2", 10), False),
    ],
)
def test_few_even_steps_of_heun_from_noise_are_noted(capsys, chain, noted):
    advise_spacing(chain)
    assert ("sample.spacing=karras" in capsys.readouterr().out) == noted


def test_a_refiner_that_is_better_than_a_linear_filter_is_not_mentioned(said):
    assert said((0.01, 0.05, 0.08, 0.09)) == ""


def test_the_note_proposes_a_start_below_the_noise_at_which_the_refiner_fails(said):
    note = said((0.01, 0.05, 0.2, 0.3))
    assert "t from 500 to 749" in note and "is 0.2, and 0.1 without" in note
    assert note.endswith("--config.sample.t_start=499\n")


def test_the_note_is_only_about_the_noise_that_the_chain_passes(said):
    assert said((0.01, 0.05, 0.2, 0.3), WARM) == ""
    assert said((0.01, 0.05, 0.2, 0.3), Chain("ddpm", 100, start="truncated")) == ""
    assert "t from 250 to 499" in said((0.01, 0.5, 0.2, 0.3), WARM)


def test_a_refiner_that_fails_at_little_noise_has_no_better_start(said):
    note = said((0.2, 0.2, 0.2, 0.2))
    assert "t from 0 to 249" in note and "t_start" not in note


def test_at_much_noise_errors_of_eps_are_expected(said):
    assert said((0.01, 0.05, 2.0, 90.0), prediction="eps") == ""
    assert "t from 250 to 499" in said((0.01, 0.2, 2.0, 90.0), prediction="eps")


def test_a_tuned_refiner_gets_no_note_since_its_clean_images_are_samples(said):
    assert said((0.2, 0.2, 0.2, 0.2), **{"ddpm.objective": "consistency"}) == ""


def test_a_warm_start_without_a_step_gets_no_note(said):
    assert said((0.2, 0.2, 0.2, 0.2), Chain("unipc2", 10, start="warm", t_start=0)) == ""


def test_runs_without_the_errors_get_no_note(said):
    assert said(()) == ""


def test_damaged_metrics_do_not_stop_what_needs_no_metrics(said, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n{"step": 2}\n')
    advise(tmp_path, tiny_config().ddpm, NOISE)
    assert capsys.readouterr().out.startswith("note: ")


def test_the_error_without_a_network_is_that_of_the_best_linear_filter(said):
    """The threshold lies at the error of the best linear estimate of x_0, by simulation for errors of x_hat of 0.1."""
    rng = np.random.default_rng(0)
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - beta)[250:500, None]
    missing = rng.normal(0, np.sqrt(0.1), (250, 4000))
    seen = missing + np.sqrt((1 - alpha_bar) / alpha_bar) * rng.normal(size=missing.shape)
    share = np.sum(missing * seen, axis=1) / np.sum(seen**2, axis=1)
    best = np.mean((missing - share[:, None] * seen) ** 2)
    assert said((0.01, 0.98 * best, 0.08, 0.09)) == "" and said((0.01, 1.02 * best, 0.08, 0.09)) != ""
