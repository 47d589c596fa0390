"""Evaluation scores models and chains, continues after a stop, and refuses what cannot be compared."""

import csv
import importlib
import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.cli_fixtures import files, save, trained_fixture  # noqa: F401
from tests.tiny import FIVE_STEPS, random_params, tiny_config
from tests.tiny_features import means
from vaedm_jax.api import VAEDM
from vaedm_jax.config import make_chain, picture_chain
from vaedm_jax.data import load
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.features import space
from vaedm_jax.evaluation.judge import judges
from vaedm_jax.evaluation.moments import Moments
from vaedm_jax.evaluation.scores import frechet_distance, kernel_distance, precision_recall
from vaedm_jax.main import main
from vaedm_jax.modes.evaluate import Cell
from vaedm_jax.modes.train import Pictures, check_scored
from vaedm_jax.reporting import to_uint8
from vaedm_jax.runs import rundir
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.sampling.engine import Engine
from vaedm_jax.training.stages import ddpm_stage, vae_stage

FEATURES = "--config.eval.features=tests.tiny_features:means"
MEANS = "tests.tiny_features.means"  # the name in files and columns
SMALL = ["--config.eval.n=12", "--config.sample.batch_size=8", FEATURES]


def evaluate(workdir, *options):
    steps = [] if any("eval.steps" in option for option in options) else ["--config.eval.steps=2,3"]
    return main(["main", f"--workdir={workdir}", "--mode=evaluate", *SMALL, *steps, *options])


def table(workdir):
    with open(workdir / "evaluation" / "evaluation.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def fresh(trained, tmp_path):
    """Return a copy of the trained run, without an evaluation."""
    return shutil.copytree(trained, tmp_path / "fresh")


def save_weights(folder, **changes):
    """Save a tiny model of Formulation 1 and return its file."""
    config = tiny_config(**changes)
    vae = random_params(vae_stage(config), 1)
    file = folder / "tiny.safetensors"
    VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2)).save(file)
    return file


@pytest.fixture(name="weights", scope="module")
def weights_fixture(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights"))


def test_every_combination_is_scored_at_its_exact_number_of_evaluations(fresh):
    assert evaluate(fresh, "--config.eval.samplers=heun,ddim", "--config.eval.seeds=2") == 0
    rows = table(fresh)
    found = [(row["sampler"], int(row["steps"]), int(row["nfe"]), int(row["seed"])) for row in rows]
    assert found == [
        *(("heun", n, 2 * n - 1, seed) for n in (2, 3) for seed in (0, 1)),
        *(("ddim", n, n, seed) for n in (2, 3) for seed in (0, 1)),
    ]
    about = json.loads((fresh / "evaluation" / "evaluation.json").read_text())
    assert about["frechet_distance"] == {"tests.tiny_features.means": "FD-tests.tiny_features:means"}
    for mean, pair in zip(about["means_over_seeds"], zip(rows[::2], rows[1::2], strict=True), strict=True):
        values = [float(row["kid_" + MEANS]) for row in pair]
        assert mean["kid_" + MEANS] == pytest.approx(np.mean(values), rel=1e-4) and mean["seeds"] == 2
        assert mean[f"kid_{MEANS}_sem"] == pytest.approx(abs(values[0] - values[1]) / 2, rel=1e-2)
    with Image.open(fresh / "evaluation" / f"{MEANS}.png") as picture:
        assert picture.size[0] > 300
    assert f"evaluation/{MEANS}.png" in (fresh / "report.html").read_text()


def test_samples_of_the_vae_are_scored_on_their_own(weights, tmp_path, capsys):
    own = [f"--config.sample.weights={weights}", "--config.sample.z_temperature=0.5"]
    assert evaluate(tmp_path, *own, "--config.eval.samplers=vae,ddim", "--config.eval.steps=2") == 0
    refined, alone = table(tmp_path)
    assert (refined["sampler"], refined["nfe"]) == ("ddim ztemperature0.5", "2")
    assert (alone["sampler"], alone["nfe"], alone["n"]) == ("vae ztemperature0.5", "0", refined["n"])
    model = VAEDM.open(weights)
    x_hat = to_uint8(model.decode(model.sample_z(12, 0, 0.5)))
    images = load(model.config.data).train
    a, b = (np.asarray(means(x)) for x in (x_hat, np.stack([images[i] for i in range(len(images))])))
    expected = frechet_distance(*(Moments.empty(6).add(x) for x in (a, b)))
    assert float(alone["fd_" + MEANS]) == pytest.approx(expected, rel=1e-3)
    assert evaluate(tmp_path, *own, "--config.eval.samplers=vae") == 0 and len(table(tmp_path)) == 2
    assert evaluate(tmp_path / "new", "--config.sample.weights=avatars-uncond", "--config.eval.samplers=vae") == 2
    assert "no model here has a VAE" in capsys.readouterr().err


def test_a_model_without_a_bound_is_refused_before_anything_is_scored(tmp_path, capsys):
    config = tiny_config("uncond", **{"ddpm.prediction": "v", "ddpm.objective": "consistency"})
    VAEDM(config, {}, random_params(ddpm_stage(config, {}))).save(tmp_path / "tuned.safetensors")
    weights = f"--config.sample.weights={tmp_path / 'tuned.safetensors'}"
    assert evaluate(tmp_path / "out", weights, "--config.eval.bits=2") == 2
    assert "eval.bits, tuned: ddpm.objective = 'consistency'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "evaluation").exists()


def test_samples_of_the_vae_have_a_name_also_where_T_is_below_the_default_number_of_steps():
    model = VAEDM(tiny_config(**{"ddpm.T": 100}), {}, {})
    alone = Cell("run", model, Chain(z_temperature=0.5), 3, alone=True)
    assert (alone.label, alone.nfe) == ("run_vae_z_0_ztemperature0.5_seed3", 0)


def test_a_spacing_that_gives_fewer_steps_is_listed_with_the_steps_that_are_run(fresh):
    quadratic = "--config.sample.spacing=quadratic"
    assert evaluate(fresh, quadratic, "--config.eval.steps=50", "--config.eval.samplers=ddim,heun") == 0
    found = [(row["sampler"], row["start"], row["steps"], row["nfe"]) for row in table(fresh)]
    assert found == [("ddim", "noise-quadratic50", "49", "49"), ("heun", "noise-quadratic50", "49", "97")]


def test_the_scores_are_those_of_the_images_that_the_model_draws(fresh):
    assert evaluate(fresh, "--config.eval.keep_images=True", "--config.eval.equal_nfe=True") == 0
    row, model = table(fresh)[1], VAEDM.from_run(fresh)
    chain = make_chain(model.config.sample, steps=3)
    images = to_uint8(model.sample(12, 0, chain=chain, batch_size=8).images)
    train = load(model.config.data).train
    a, b = (np.asarray(means(x)) for x in (images, np.stack([train[i] for i in range(len(train))])))
    assert float(row["fd_" + MEANS]) == pytest.approx(
        frechet_distance(*(Moments.empty(6).add(x) for x in (a, b))), rel=1e-3
    )
    halves = [frechet_distance(Moments.empty(6).add(x), Moments.empty(6).add(b)) for x in (a[::2], a[1::2])]
    assert float(row["fd_bias_" + MEANS]) == pytest.approx(np.mean(halves) - float(row["fd_" + MEANS]), rel=1e-2)
    assert float(row["precision_" + MEANS]) == pytest.approx(precision_recall(a, b)[0])
    shuffled = b[np.random.default_rng(0).permutation(len(b))]
    assert float(row["kid_" + MEANS]) == pytest.approx(kernel_distance(a, shuffled)[0], rel=1e-3)
    kept = sorted((fresh / "evaluation" / "images").glob("*_3_seed0/*.npz"))
    np.testing.assert_array_equal(np.concatenate([np.load(p)["images"] for p in kept])[:12], images)


def test_a_killed_evaluation_continues_where_it_was(fresh, trained, tmp_path, monkeypatch, capsys):
    assert evaluate(fresh) == 0
    other = shutil.copytree(trained, tmp_path / "other" / "fresh")
    drawn, batches = [], Engine.sample_batches

    def stopping(self, n, seed, first, chain, *how):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append((chain.steps, first))
        return batches(self, n, seed, first, chain, *how)

    monkeypatch.setattr(Engine, "sample_batches", stopping)
    assert evaluate(other) == 130
    assert drawn == [(2, 0), (2, 8), (3, 0)]
    drawn.append(None)  # so that the next command is not stopped
    assert evaluate(other) == 0
    assert drawn[4:] == [(3, 8)]
    assert table(other) == table(fresh)
    capsys.readouterr()
    assert evaluate(other) == 0 and len(drawn) == 5
    printed = capsys.readouterr().out
    assert "2 to score, 2 of them done" in printed
    lines = [line.split() for line in printed.splitlines()[1:4]]
    assert lines[0][3:5] == ["NFE", "KID"] and [line[3] for line in lines[1:]] == ["2", "3"]
    assert not (other / "evaluation" / "images" / "fresh_ddpm_noise_2_seed0").exists()


def test_a_folder_keeps_the_results_of_earlier_commands_that_are_still_valid(fresh, capsys):
    for options in (
        ["--config.eval.steps=2"],
        ["--config.eval.steps=3"],
        ["--config.eval.steps=2", "--config.eval.n=8"],
    ):
        assert evaluate(fresh, *options) == 0
    assert [row["steps"] for row in table(fresh)] == ["2"]  # scores of 8 images are not compared with those of 12
    assert "2 earlier results in" in capsys.readouterr().out
    assert evaluate(fresh, "--config.eval.samplers=ddim", "--config.eval.steps=3") == 0
    assert [(row["sampler"], row["steps"]) for row in table(fresh)] == [("ddim", "3"), ("ddpm", "2"), ("ddpm", "3")]
    capsys.readouterr()
    assert evaluate(fresh, "--config.eval.steps=2,3") == 0
    assert "2 to score, 2 of them done" in capsys.readouterr().out
    save(fresh / "ddpm" / "checkpoints", 0.01, step=7)  # the training of the run has continued
    assert evaluate(fresh, "--config.eval.steps=2") == 0
    assert [row["steps"] for row in table(fresh)] == ["2"]


def test_of_several_results_of_one_entry_only_the_newest_counts(fresh):
    assert evaluate(fresh, "--config.eval.steps=2") == 0
    (cell,) = (fresh / "evaluation" / "cells").iterdir()
    result = json.loads(cell.read_text())
    for i, kid in enumerate((1.0, 3.0, 2.0)):  # three stages of the training of a run that is not named now
        other = {"run": "gone", "kid_" + MEANS: kid}
        file = cell.with_name(f"{i}.json")
        file.write_text(json.dumps({"identity": [str(i), *result["identity"][1:]], "row": result["row"] | other}))
        os.utime(file, (kid, kid))
    assert evaluate(fresh, "--config.eval.steps=2") == 0
    means = json.loads((fresh / "evaluation" / "evaluation.json").read_text())["means_over_seeds"]
    assert [(mean["run"], mean["seeds"]) for mean in means] == [("fresh", 1), ("gone", 1)]
    assert means[1]["kid_" + MEANS] == 3.0


def test_chains_that_differ_in_a_setting_have_their_own_rows_and_a_damaged_result_is_left_out(fresh):
    for setting in ("spacing=even", "spacing=logsnr", "clip=False"):
        assert evaluate(fresh, "--config.eval.steps=2", f"--config.sample.{setting}") == 0
    found = {(row["sampler"], row["start"]) for row in table(fresh)}
    assert found == {("ddpm", "noise"), ("ddpm", "noise-logsnr"), ("ddpm unclipped", "noise")}
    means = json.loads((fresh / "evaluation" / "evaluation.json").read_text())["means_over_seeds"]
    assert [mean["seeds"] for mean in means] == [1, 1, 1]
    next((fresh / "evaluation" / "cells").glob("*logsnr*")).write_bytes(b'{"identity": [')
    assert evaluate(fresh, "--config.eval.steps=2") == 0
    assert {(row["sampler"], row["start"]) for row in table(fresh)} == found - {("ddpm", "noise-logsnr")}


def test_several_models_are_compared_in_one_table(tmp_path):
    rundir.claim(fresh := tmp_path / "fresh", tiny_config("uncond", **FIVE_STEPS))
    save(fresh / "ddpm" / "checkpoints", 0)
    runs = f"--config.eval.runs={fresh},{save_weights(tmp_path, **FIVE_STEPS)}"
    assert evaluate(tmp_path / "compared", runs, "--config.eval.bits=5") == 0
    rows = table(tmp_path / "compared")
    assert [(row["run"], row["variant"]) for row in rows] == [("fresh", "uncond")] * 2 + [("tiny", "form1")] * 2
    with open(tmp_path / "compared" / "evaluation" / "bits.csv") as file:
        bits = list(csv.DictReader(file))
    assert [row["run"] for row in bits] == ["fresh", "tiny"]
    for row in bits:
        terms = [float(row[name]) for name in ("z", "prior", "steps", "decoder")]
        assert float(row["bits"]) == pytest.approx(sum(terms), rel=1e-4)
        assert float(row["joint"]) == pytest.approx(sum(terms) + float(row["condition"]), rel=1e-4)
    assert (tmp_path / "compared" / "evaluation" / "bits.png").exists()


def test_starts_are_compared_and_a_warm_start_may_name_its_step(weights, tmp_path):
    options = [f"--config.eval.runs={weights}", "--config.eval.starts=noise,truncated,warm300,warm"]
    assert evaluate(tmp_path / "out", *options, "--config.eval.steps=2") == 0
    assert [row["start"] for row in table(tmp_path / "out")] == ["noise", "truncated", "warm300", "warm500"]


def test_too_few_images_give_no_frechet_distance_and_a_message(fresh, capsys):
    assert evaluate(fresh, "--config.eval.n=6", "--config.eval.steps=2") == 0
    assert "no FD-tests.tiny_features:means: a covariance of 6 features" in capsys.readouterr().out
    (row,) = table(fresh)
    assert row["fd_" + MEANS] == "" and float(row["kid_" + MEANS])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config.eval.n=1"], ["eval.n = 1", "2 or more"]),
        (["--config.eval.samplers=euler"], ["eval.samplers = 'euler'", "dpm++2m"]),
        (["--config.eval.starts=noise300"], ["eval.starts = 'noise300'", "warm300"]),
        (["--config.eval.starts=cold"], ["eval.starts = 'cold'", "warm"]),
        (["--config.eval.starts=warm"], ["fresh, ddpm", "no x_hat to start from"]),
        (["--config.sample.z_temperature=0.8"], ["z_temperature = 0.8", "no z"]),
        (["--config.sample.eta=1.5"], ["sample.eta = 1.5", "from 0.0 to 1.0"]),
        (["--config.eval.steps=0"], ["eval.steps = (0,)"]),
        (["--config.eval.steps=()"], ["eval.steps = ()", "at least one"]),
        (["--config.eval.steps=2000"], ["2000 steps", "T = 1000"]),
        (["--config.eval.split=all"], ["eval.split = 'all'", "train, held_out"]),
        (["--config.eval.features=resnet"], ["eval.features = 'resnet'", "MODULE:FUNCTION"]),
        (["--config.eval.features=no.such:f"], ["no.such:f", "ModuleNotFoundError"]),
        (["--config.eval.features=tests.tiny_features:number"], ["number", "not a function"]),
        (["--config.eval.features=tests.tiny_features:undefined"], ["undefined", "not finite"]),
        (["--config.eval.features=tests.tiny_features:pixels"], ["pixels", "[2, D]"]),
        (["--config.eval.features=tests.tiny_features:fails"], ["fails", "the function fails"]),
        (["--config.eval.features=inception"], ["eval.inception", "pt_inception-2015-12-05-6726825d.pth"]),
        (["--config.eval.inception={file}", "--config.eval.features=inception"], ["SHA-256", "6726825d"]),
        (["--config.eval.runs={file}"], ["config.json", "VAEDM.save"]),
        (["--config.eval.runs={run},{run}"], ["same name"]),
        (["--config.eval.runs={run}", "--config.sample.weights={run}"], ["sample.weights and eval.runs both name"]),
        (["--stage=vae"], ["--stage=vae", "--mode=train"]),
    ],
)
def test_what_cannot_be_evaluated_is_refused(fresh, capsys, options, words):
    options = [option.format(file=fresh / "config.json", run=fresh) for option in options]
    before = files(fresh)
    assert evaluate(fresh, *options) == 2
    printed = capsys.readouterr().err
    line = printed.splitlines()[-1]
    assert line.startswith("vaedm: ") and "Traceback" not in printed
    assert all(word in line for word in words), line
    assert files(fresh) == before


def test_feature_functions_of_users_are_identified_by_module_and_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("mine_a", "mine_b"):
        (tmp_path / f"{module}.py").write_text("def random(images):\n    return images.mean(axis=(1, 2))\n")
    a, b = (space(f"{module}:random") for module in ("mine_a", "mine_b"))
    assert len({a.name, b.name, "random"}) == len({a.identity, b.identity, space("random").identity}) == 3
    assert space("mine_a:random").identity == a.identity
    (tmp_path / "mine_a.py").write_text("def random(images):\n    return 1 + images.mean(axis=(1, 2))  # changed\n")
    importlib.reload(sys.modules["mine_a"])
    assert space("mine_a:random").identity != a.identity


def test_statistics_that_are_damaged_or_of_other_images_are_refused(fresh, capsys):
    assert evaluate(fresh, "--config.eval.steps=2") == 0
    statistics = fresh / "evaluation" / "reference"
    shutil.copy(statistics / f"{MEANS}_train.npz", statistics / f"{MEANS}_held_out.npz")
    assert evaluate(fresh, "--config.eval.split=held_out") == 2
    assert "content is" in capsys.readouterr().err
    arrays = dict(np.load(statistics / f"{MEANS}_train.npz"))
    changes = {"mean_0": arrays["mean_0"] + 1, "features": arrays["features"][:-1], "scatter_1": np.eye(3)}
    for name, change in changes.items():
        np.savez(statistics / f"{MEANS}_train.npz", **arrays | {name: change})
        assert evaluate(fresh, "--config.eval.steps=2") == 2
        told = capsys.readouterr().err
        assert f"{MEANS}_train.npz" in told and ("contradict" in told or f"'{name}' has the shape (3, 3)" in told)
    (statistics / f"{MEANS}_train.npz").write_bytes(b"no archive")
    assert evaluate(fresh, "--config.eval.steps=2") == 2
    assert "means_train.npz: cannot be read" in capsys.readouterr().err


def test_models_of_different_data_are_not_compared(fresh, tmp_path, capsys):
    config = tiny_config("uncond", **{"data.category": "Objects"})
    VAEDM(config, {}, random_params(ddpm_stage(config, {}))).save(tmp_path / "objects.safetensors")
    assert evaluate(tmp_path / "new", f"--config.eval.runs={fresh},{tmp_path / 'objects.safetensors'}") == 2
    assert "data.category is 'Activities' and 'Objects'" in capsys.readouterr().err


def test_training_scores_a_few_samples_while_it_runs(tmp_path):
    config = tiny_config("uncond", **{"log.scored": 12, "eval.features": "tests.tiny_features:means,random"})
    stage, data = ddpm_stage(config, {}), load(config.data)
    params = random_params(stage)
    figures = Pictures(stage, data, config, tmp_path)(4, params, lambda: None)
    assert [file.stem for file in (tmp_path / "evaluation" / "reference").iterdir()] == [f"{MEANS}_train"]
    images = VAEDM(config, {}, params).sample(12, chain=picture_chain(config), batch_size=8).images
    judge = next(judges(config.eval, config.data, data, make_mesh(), 8, tmp_path / "evaluation" / "reference"))
    scores = judge.scores(judge.add(None, to_uint8(images)))
    assert (figures["kid"], figures["fd"]) == pytest.approx((scores["kid"], scores["fd"]), rel=1e-5)
    with config.unlocked():
        config.log.scored, config.checkpoint.best = 5, "fd"
    with pytest.raises(UserError, match="'fd', but there is no FD"):
        check_scored(config, data)
