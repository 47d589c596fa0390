"""The second stage needs the first, of this run or another, and leaves it as it is."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.cli_fixtures import configs_fixture, files, refused_fixture, run_fixture, untrained_fixture  # noqa: F401
from tests.tiny import random_params, tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.data import pipeline
from vaedm_jax.main import main
from vaedm_jax.modes import train
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training.loop import restore_average, stage_seed
from vaedm_jax.training.stages import ddpm_stage, vae_stage

FACES = Path(__file__).parents[1] / "configs" / "avatars.py"


def reach(run: Path, stage: str, step: int) -> None:
    """Make a run look as if a stage had been trained to a step."""
    (run / stage / "checkpoints" / str(step)).mkdir(parents=True)


def test_the_requested_stages_are_trained(run, untrained):
    for stage, trained in (("vae", ["vae"]), ("all", ["vae", "ddpm"])):
        assert main(["main", f"--workdir={run}", f"--stage={stage}"]) == 0
        assert [name for name, _ in untrained] == trained
        untrained.clear()


def test_the_second_stage_alone_needs_a_finished_first_stage(refused, run):
    command = "--workdir={run} --stage=ddpm"
    refused(command, "the VAE in {run} has 0 of its 6 steps", "--stage=vae", "--config.vae.checkpoint")
    reach(run, "vae", 3)
    refused(command, "the VAE in {run} has 3 of its 6 steps")


def test_the_first_stage_is_not_trained_further_once_the_second_has_begun(refused, run, untrained):
    reach(run, "vae", 6)
    reach(run, "ddpm", 3)
    refused(
        "--workdir={run} --config.vae.steps=9",
        "the DDPM in {run}",
        "--config.vae.steps=6",
        "another --workdir",
        "--config.vae.init={run}",
    )
    assert main(["main", f"--workdir={run}", "--config.ddpm.steps=9"]) == 0
    assert untrained[-1] == ("ddpm", 9)


def test_the_vae_of_another_run_is_copied_and_refined(tmp_path, configs, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["main", f"--config={configs}/tiny.py", f"--workdir={first}", "--stage=vae"]) == 0
    vae, before = restore_average(vae_stage(tiny_config()), first, make_mesh()), files(first)
    frozen = []

    def fit(stage, *_):
        frozen.append((stage.name, jax.device_get(stage.frozen)))
        return SimpleNamespace(average={})

    monkeypatch.setattr(train, "fit", fit)
    command = ["main", f"--config={configs}/tiny.py", f"--workdir={second}", f"--config.vae.checkpoint={first}"]
    assert main(command) == 0
    assert files(first) == before
    shutil.rmtree(first)  # the second run needs only its own files
    assert main(command) == 0
    assert [name for name, _ in frozen] == ["ddpm", "ddpm"]
    for _, params in frozen:
        jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(vae))


def test_training_starts_from_the_named_network(tmp_path, configs):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["main", f"--config={configs}/tiny.py:uncond", f"--workdir={first}"]) == 0
    theirs = jax.device_get(VAEDM.from_run(first).params["ddpm"])
    command = f"--config={configs}/tiny.py:uncond --workdir={second} --config.ddpm.init={first}"
    assert main(["main", *command.split(), "--config.ddpm.learning_rate=0"]) == 0
    mine = jax.device_get(VAEDM.from_run(second).params["ddpm"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-6), theirs, mine)
    shutil.rmtree(first)  # the run has its own state now
    assert main(["main", *command.split(), "--config.ddpm.steps=7"]) == 0


def test_a_network_to_start_from_must_fit(tmp_path, refused):
    command = "--config={configs}/tiny.py --workdir={new} --config.ddpm.init="
    refused(command + "{tmp}/none", "{tmp}/none", "no such file")
    other = "the DDPM in avatars has another architecture"
    refused(command + "avatars", other, "ddpm.multipliers is (2, 2, 3) there and (1,) here")
    faces = f"--config={FACES} --workdir={{new}} --config.ddpm.init=avatars-uncond"
    refused(faces, "avatars-uncond", "ddpm.variant is 'uncond' there and 'form1' here")
    VAEDM(tiny_config(), random_params(vae_stage(tiny_config())), {}).save(tmp_path / "half.safetensors")
    refused(command + "{tmp}/half.safetensors", "half.safetensors holds no trained DDPM")
    config = tiny_config(**{"ddpm.z_conditioning": True})
    stages = vae_stage(config), ddpm_stage(config, random_params(vae_stage(config)))
    VAEDM(config, *map(random_params, stages)).save(tmp_path / "z.safetensors")
    ladder = " --config.ddpm.z_conditioning=True --config.vae.dec_block=1u4,1t4,4z2,4u4,4t16,16x1"
    refused(command + "{tmp}/z.safetensors" + ladder, "z.safetensors has another architecture", "vae.dec_block is")


def test_the_plain_ddpm_needs_no_first_stage(tmp_path, configs, untrained):
    command = ["main", f"--config={configs}/tiny.py:uncond", f"--workdir={tmp_path / 'run'}"]
    assert main(command) == main([*command, "--stage=ddpm"]) == 0
    assert [name for name, _ in untrained] == ["ddpm", "ddpm"]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_batch_larger_than_the_data_is_refused(refused, steps):
    refused(
        "--config={configs}/tiny.py --workdir={new} --config.vae.batch_size=80 --config.vae.epochs=1 "
        f"--config.vae.steps={steps}",
        "79 training images",
        "vae.batch_size = 80",
    )


@pytest.mark.parametrize("apart", [True, False])
def test_the_stages_draw_differently_from_one_seed_except_in_earlier_runs(apart):
    """If both stages used one seed and one batch size, stage 2 would repeat the order of stage 1 and its noise of z."""
    config = tiny_config(**{"seed_per_stage": apart, "seed": 3})
    seeds = [stage_seed(name, config) for name in ("vae", "ddpm")]
    source = np.arange(64, dtype=np.uint8).reshape(64, 1, 1, 1)
    orders = [np.ravel(pipeline(source, 32, seed, flip=False)[0]) for seed in seeds]
    noise = [np.asarray(jax.random.normal(jax.random.key(seed), (4,))) for seed in seeds]
    for a, b in (orders, noise):
        assert np.array_equal(a, b) is not apart
    assert apart or seeds == [3, 3]
