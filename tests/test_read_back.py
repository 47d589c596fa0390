"""A damaged or unfitting file of the package is made anew, skipped, or refused in one line."""

import json
from contextlib import closing

import jax
import numpy as np
import pytest
import safetensors.numpy

from tests.cli_fixtures import configs_fixture, refused_fixture, run_fixture, save  # noqa: F401
from tests.test_checkpoints import assert_same, state_at, written
from tests.test_store import CHAIN, MODEL, drawn, images, parts  # noqa: F401
from tests.tiny import random_params, tiny_config
from vaedm_jax.api import VAEDM
from vaedm_jax.data.records import read_plan, recorded_names
from vaedm_jax.errors import RunError, UserError
from vaedm_jax.main import main
from vaedm_jax.reporting import read_metrics, write_report
from vaedm_jax.runs import rundir
from vaedm_jax.storage.writing import write_arrays
from vaedm_jax.training.checkpoints import Checkpoints
from vaedm_jax.training.stages import ddpm_stage

UNCOND = tiny_config("uncond")
DDPM = random_params(ddpm_stage(UNCOND, {}), 2)
DEEP = "[" * 100_000 + "]" * 100_000


def weights(change=lambda arrays: None, metadata=None) -> bytes:
    """Return the bytes of a file of weights, after `change` was applied to its arrays."""
    flat = {f"ddpm/{'/'.join(k.key for k in path)}": a for path, a in jax.tree_util.tree_leaves_with_path(DDPM)}
    arrays = {name: np.array(a, np.float32) for name, a in flat.items()}
    change(arrays)
    return safetensors.numpy.save(arrays, metadata or {"config": rundir.encode_config(UNCOND)})


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: a["ddpm/conv_out/bias"].fill(np.nan), "'ddpm/conv_out/bias' has numbers that are not finite"),
        (lambda a: a["ddpm/conv_in/kernel"].fill(np.inf), "'ddpm/conv_in/kernel' has numbers that are not finite"),
        (lambda a: a.pop("ddpm/conv_out/bias"), "'ddpm/conv_out/bias' is missing"),
        (lambda a: a.update({"ddpm/more": np.zeros(2, np.float32)}), "'ddpm/more' is [2]; there should be none"),
        (lambda a: a.update({"other/more": np.zeros(2, np.float32)}), "'other/more' is [2]; there should be none"),
        (lambda a: a.update({"prior/logits": np.zeros(2, np.float32)}), "'prior/logits' is [2]; there should be none"),
        (lambda a: a.update({"ddpm/conv_out/bias": np.zeros(5, np.float32)}), "'ddpm/conv_out/bias' is [5]"),
        (lambda a: a.update({"ddpm/conv_out/bias": np.zeros((), np.float32)}), "'ddpm/conv_out/bias' is []"),
        (lambda a: a.update({"ddpm/conv_out/bias": np.zeros(12, np.int32)}), "is of the type I32"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_array_is_named(tmp_path, refused, change, words):
    (tmp_path / "w.safetensors").write_bytes(weights(change))
    refused("--workdir={new} --mode=sample --config.sample.weights={tmp}/w.safetensors", "w.safetensors", words)


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        DEEP,
        "[]",
        '{"ddpm": {"variant": 3}}',
        '{"ddpm": {"variant": "uncond"}, "ddpm": {}}',
        '{"ddpm": {"variant": "uncond", "T": NaN}}',
    ],
)
def test_weights_without_a_valid_configuration_are_refused(tmp_path, refused, metadata):
    (tmp_path / "w.safetensors").write_bytes(weights(metadata={"config": metadata}))
    refused("--workdir={new} --mode=sample --config.sample.weights={tmp}/w.safetensors", "that VAEDM.save wrote")


def test_a_run_with_a_deeply_nested_configuration_or_a_huge_number_is_refused(run, refused):
    for text in (DEEP, '{"ddpm": ' + DEEP + "}", '{"ddpm": {"variant": "form1"}, "seed": ' + "9" * 5000 + "}"):
        (run / "config.json").write_text(text)
        refused("--workdir={run} --mode=sample", "{run}/config.json is not the configuration of a run")


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # the step, an integer, is made from NaN
def test_a_model_with_numbers_that_are_not_finite_is_an_error_and_draws_no_picture(tmp_path, capsys):
    rundir.claim(tmp_path / "run", UNCOND)
    save(tmp_path / "run" / "ddpm" / "checkpoints", np.nan, step=0)
    assert main(["main", f"--workdir={tmp_path / 'run'}", "--mode=sample"]) == 1
    assert "not finite" in capsys.readouterr().err and not list(tmp_path.rglob("*.png"))
    bias = {**DDPM, "conv_out": {**DDPM["conv_out"], "bias": np.full_like(DDPM["conv_out"]["bias"], np.inf)}}
    with pytest.raises(RunError, match="not finite"):  # clipped images would hide it: they would be black or white
        VAEDM(UNCOND, {}, bias).sample(4, batch_size=8)


def test_parts_of_another_form_are_drawn_anew(tmp_path, drawn):  # noqa: F811
    want = images(parts(tmp_path))
    with np.load(tmp_path / "00000008.npz") as arrays:
        part = dict(arrays)
    for change in (
        {"images": part["images"][:0], "x_hat": part["x_hat"][:0]},
        {"images": part["images"][:, :4]},
        {"images": part["images"].astype(np.float32)},
        {"x_hat": part["x_hat"][:3]},
        {"identity": np.array(3)},
    ):
        write_arrays(tmp_path / "00000008.npz", part | change)
        np.testing.assert_array_equal(images(parts(tmp_path)), want)
        assert drawn[-1] == 8


def test_a_prior_of_another_form_is_refused_and_the_array_is_named(tmp_path):
    D = MODEL.engine.networks.vae.z_dim
    sound = {"logits": np.zeros(2), "means": np.zeros((2, D)), "factors": np.zeros((2, D, D))}
    sound = {name: np.float32(a) for name, a in sound.items()} | {"vae": np.array(MODEL.engine.vae_digest)}
    write_arrays(tmp_path / "prior.npz", sound)
    assert MODEL.with_prior(tmp_path / "prior.npz").params["prior"].keys() == {"logits", "means", "factors"}
    for change, words in (
        ({"means": np.full((2, D), np.nan, np.float32)}, "'means' has numbers that are not finite"),
        ({"means": np.zeros((3, D), np.float32)}, "'means' has the shape"),
        ({"factors": np.zeros((2, D), np.float32)}, "'factors' has the shape"),
        ({"logits": np.zeros(2)}, "'logits' is of the type float64"),
        ({"w_in": np.zeros((1, D, 4), np.float32)}, "its arrays have the shapes"),
        ({"vae": np.zeros(3)}, "'vae' is of the type"),
    ):
        write_arrays(tmp_path / "prior.npz", sound | change)
        with pytest.raises(UserError, match=r"prior\.npz is not a complete file") as caught:
            MODEL.with_prior(tmp_path / "prior.npz")
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda proof: proof["shapes"].update({next(iter(proof["shapes"])): [3]}),
        lambda proof: proof["checksums"].append(1),
        lambda proof: proof["checksums"].__setitem__(0, "text"),
        lambda proof: proof.update({"shapes": [1]}),
        lambda proof: proof.update({"figures": {"loss": "low"}}),
        lambda proof: proof.pop("checksums"),
    ],
)
def test_a_checkpoint_with_a_damaged_proof_is_skipped(tmp_path, change):
    folder = written(tmp_path / "c", 1, 2)
    file = folder / "2" / "proof" / "metadata"
    proof = json.loads(file.read_text())
    change(proof)
    file.write_text(json.dumps(proof))
    with closing(Checkpoints(folder)) as checkpoints:
        assert_same(checkpoints.restore(state_at(0)), state_at(1))


def test_a_proof_of_an_earlier_version_without_a_digest_is_accepted(tmp_path):
    folder = written(tmp_path / "c", 1)
    file = folder / "1" / "proof" / "metadata"
    proof = json.loads(file.read_text())
    del proof["digest"]
    file.write_text(json.dumps(proof))
    with closing(Checkpoints(folder)) as checkpoints:
        assert_same(checkpoints.restore(state_at(0)), state_at(1))


@pytest.mark.parametrize("line", ['{"step": 1, "loss": "low"}', '{"step": 1, "loss": [1]}', DEEP, '{"step": "x"}', "3"])
def test_metrics_of_another_form_are_refused_and_the_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    "name, text",
    [
        ("config.json", DEEP),
        ("evaluation/evaluation.json", '{"means_over_seeds": [{"run": 3}]}'),
        ("evaluation/evaluation.json", '{"frechet_distance": {"a": 1}}'),
        ("evaluation/evaluation.json", '{"means_over_seeds": 3}'),
        ("vae/summary.json", '{"parameters": "many"}'),
        ("vae/summary.json", '{"device": {}}'),
        ("samples/a.png", "no picture"),
    ],
)
def test_a_report_names_a_file_of_another_form(tmp_path, name, text):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        write_report(tmp_path)


@pytest.mark.parametrize("text", ["", DEEP, "[]", '{"folder": "a", "image_size": "8", "shards": 1, "names": []}'])
def test_damaged_lists_of_prepared_images_are_refused(tmp_path, text):
    (tmp_path / "folder.json").write_text(text)
    with pytest.raises(UserError, match=r"folder\.json is damaged"):
        read_plan(tmp_path)
    sound = {"folder": "a", "image_size": 8, "shards": 1, "names": ["x", "y"]}
    (tmp_path / "folder.json").write_text(json.dumps(sound))
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(UserError, match=r"broken\.json"):
        recorded_names(tmp_path, read_plan(tmp_path))
