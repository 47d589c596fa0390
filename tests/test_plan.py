"""Planning reads the figures of the compiler correctly. What cannot be planned is refused before it is compiled."""

import csv
import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.tiny import tiny_config
from vaedm_jax.main import main
from vaedm_jax.models import count
from vaedm_jax.modes.plan import Program, duration, largest, lower_train_step, not_stored, programs
from vaedm_jax.runtime import targets
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.runtime.targets import TARGETS, Cost, compile_for, cost_on, exchanges, make_devices, roofline
from vaedm_jax.training.stages import ddpm_stage, vae_stage

WITH_LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: launch/env.sh plan"
)


def test_the_cost_of_a_product_is_that_of_its_matrices():
    x = jax.ShapeDtypeStruct((64, 128), np.float32)
    w = jax.ShapeDtypeStruct((128, 32), np.float32)
    cost = compile_for(jax.jit(jnp.matmul).lower(x, w))
    assert cost.flops == 2 * 64 * 128 * 32
    assert cost.held == 4 * (64 * 128 + 128 * 32 + 64 * 32) and cost.collectives == 0


@pytest.mark.parametrize("model", [1, 2])
def test_collectives_are_counted_with_their_bytes(model):
    mesh = make_mesh(model)
    cut = NamedSharding(mesh, PartitionSpec("data"))
    summed = jax.jit(lambda x: x.sum(axis=0), in_shardings=cut, out_shardings=NamedSharding(mesh, PartitionSpec()))
    cost = compile_for(summed.lower(jax.ShapeDtypeStruct((16, 10, 7), np.float32)))
    assert (cost.collectives, cost.exchanged) == (1, 4 * 10 * 7)
    text = "%a = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce-start(%x), x\n%b = f32[2,3] all-reduce-done(%a)"
    assert exchanges(text) == [4 * 6 + 2 * 4]


def test_a_data_parallel_step_exchanges_its_gradients():
    config = tiny_config("uncond")
    stage = ddpm_stage(config, {})
    cost = compile_for(lower_train_step(stage, make_mesh(), config, 8))
    parameters = count(jax.eval_shape(stage.init, jax.random.key(0)))
    assert 1 <= cost.exchanged / (4 * parameters) < 1.1


def test_a_roofline_is_the_work_over_the_peaks():
    cost = Cost(197e12, 819e9, 0, 0, 0, 0, None)
    assert roofline("tpu-v5e-1", cost) == pytest.approx((1.0, 1.0))
    assert roofline("cpu", cost) is None


def test_the_largest_batch_fills_the_memory_in_proportion():
    program = Program("step", 16, "float32", 8, 1, lambda batch: None, 1, "")
    cost = Cost(0, 0, 100, 16 * 10, 0, 0, None)
    assert largest(program, cost, 1100) == 96  # (1100 - 100 held) / 10 an image: 100, cut to a multiple of 8


def test_no_batch_fits_if_the_parameters_alone_do_not():
    program = Program("step", 16, "float32", 8, 1, lambda batch: None, 1, "")
    assert largest(program, Cost(0, 0, 2000, 16 * 10, 0, 0, None), 1100) == 0


def test_a_chain_with_guidance_has_as_many_reverse_steps_which_take_twice_as_long():
    guided, plain = (
        programs("cpu", make_mesh(), tiny_config("form1", **{"ddpm.cond_dropout": 0.1, "sample.guidance": w}), 64)[0]
        for w in (1.0, 0.0)
    )
    assert guided.runs == plain.runs == 2
    costs = [compile_for(program.lower(8)).flops for program in (guided, plain)]
    assert costs[0] > 1.7 * costs[1]


def test_each_program_is_planned_with_the_precision_of_its_network():
    config = tiny_config(**{"vae.precision": "bfloat16"})
    found = {program.label: program.precision for program in programs("cpu", make_mesh(), config, 64)}
    assert found == {"reverse step": "float32", "vae step": "bfloat16", "ddpm step": "float32"}


def test_the_cost_on_a_tpu_is_kept_for_the_same_program_and_versions(monkeypatch, tmp_path):
    made, text, version = [], ["program"], ["1.0"]

    def compiled(lowered):
        made.append(lowered.as_text())
        return "does not fit" if text[0] == "large" else Cost(2.5, 3.0, 4, 5, 6, 7, None)

    monkeypatch.setattr(targets, "compile_for", compiled)
    monkeypatch.setattr(targets, "user_cache", lambda: str(tmp_path))
    monkeypatch.setattr(targets.metadata, "version", lambda name: version[0])
    lowered = SimpleNamespace(as_text=lambda: text[0])
    first = cost_on("tpu-v2-8", lowered)
    assert cost_on("tpu-v2-8", lowered) == first == Cost(2.5, 3.0, 4, 5, 6, 7, None) and len(made) == 1
    cost_on("tpu-v3-8", lowered)
    version[0] = "1.1"
    cost_on("tpu-v2-8", lowered)
    text[0] = "large"
    assert cost_on("tpu-v2-8", lowered) == cost_on("tpu-v2-8", lowered) == "does not fit" and len(made) == 4
    for file in (tmp_path / "plans").iterdir():
        file.write_text("{")
    assert cost_on("tpu-v2-8", lowered) == "does not fit" and len(made) == 5
    cost_on("cpu", lowered)
    cost_on("cpu", lowered)
    assert len(made) == 7


def test_a_plan_needs_no_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(targets, "compile_for", lambda lowered: "does not fit")
    monkeypatch.setattr(targets, "user_cache", lambda: str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(targets.metadata, "version", lambda name: "1.0")
    assert cost_on("tpu-v2-8", SimpleNamespace(as_text=lambda: "program")) == "does not fit"


def test_durations_are_printed_in_the_largest_unit():
    assert [duration(s) for s in (0.002, 3, 90, 7200, 5e5)] == ["2 ms", "3 s", "1.5 minutes", "2 hours", "5.79 days"]


def test_a_plan_for_the_cpu_names_every_program(tmp_path, configs):
    command = f"--config={configs}/tiny.py --workdir={tmp_path} --mode=plan --targets=cpu".split()
    assert main(["main", *command]) == 0
    with open(tmp_path / "plan.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["program"] for row in rows] == ["reverse step", "vae step", "ddpm step"]
    assert [row["whole"] for row in rows] == ["2 runs", "6 runs", "6 runs"]
    assert float(rows[2]["GFLOP"]) > 0 and float(rows[2]["MB held"]) > 0


def test_what_cannot_be_planned_is_refused(refused):
    plan = "--config={configs}/tiny.py --workdir={new} --mode=plan "
    refused(plan + "--targets=,", "plan.targets = ',' names no accelerator", "tpu-v5e-1")
    refused(plan + "--targets=", "plan.targets = '' names no accelerator")
    refused(plan + "--config.plan.targets=", "plan.targets = '' names no accelerator")
    refused(plan + "--targets=tpu-v9-8", "plan.targets = 'tpu-v9-8'", "tpu-v5e-1")
    refused(plan + "--targets=cpu --config.mesh.model=3", "mesh.model = 3", "8 devices")
    refused(plan + "--targets=cpu --config.ddpm.batch_size=12", "ddpm.batch_size = 12", "8 parts")
    if importlib.util.find_spec("libtpu") is None:
        refused(plan + "--targets=tpu-v2-8", "tpu-v2-8 needs libtpu", "launch/env.sh plan")


@WITH_LIBTPU
@pytest.mark.parametrize("name", [name for name in TARGETS if name != "cpu"])
def test_each_target_is_known_to_libtpu(name):
    config = tiny_config()
    mesh = make_mesh(1, make_devices(name))
    assert len(mesh.devices.flat) in (1, 4, 8)
    first = programs(name, mesh, config, 64)[1]
    assert compile_for(first.lower(first.batch)).seconds > 0


@WITH_LIBTPU
def test_both_cores_of_a_chip_are_one_device_from_v4_on_as_on_the_machine():
    assert [len(make_devices(name)) for name in ("tpu-v3-8", "tpu-v4-8", "tpu-v5p-8")] == [8, 4, 4]


@WITH_LIBTPU
@pytest.mark.parametrize("name", ["vae", "ddpm"])
def test_rematerialisation_takes_less_memory_of_a_tpu(name):
    mesh = make_mesh(1, make_devices("tpu-v2-8"))

    def temporary(remat: bool) -> int:
        config = tiny_config("uncond", **{"ddpm.blocks": 3, "ddpm.attention": (1,), f"{name}.remat": remat})
        stage = vae_stage(config) if name == "vae" else ddpm_stage(config, {})
        with not_stored():
            return compile_for(lower_train_step(stage, mesh, config, 1024)).temporary

    assert temporary(remat=True) < 0.7 * temporary(remat=False)
