"""Learnt tables: they begin as a solver, come nearer to a chain of many steps, and belong to one refiner."""

import io
import re
import shutil
from contextlib import redirect_stdout

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.test_consistency import SIGMA_R, X_HAT, predict_with
from tests.test_diffusion import FULL, by_noise, stand_in
from tests.tiny import in_float64, random_params, tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.diffusion.chain import Chain, run_chain
from vaedm_jax.diffusion.learnt import learnt_table, table_name, unrolled
from vaedm_jax.errors import UserError
from vaedm_jax.main import main
from vaedm_jax.modes.tune import FIRST
from vaedm_jax.storage.tensors import read_tensors
from vaedm_jax.training.stages import ddpm_stage, vae_stage


@pytest.mark.parametrize("start", ["noise", "warm"])
@pytest.mark.parametrize("sampler", ["unipc2", "unipc3", "dpm++2m", "dpm++3m"])
def test_a_table_begins_as_a_solver(sampler, start):
    keys, x_hat = jax.random.split(jax.random.key(0), 3), jnp.full((3, 4, 4, 3), 0.2)
    for steps in (1, 2, 5):
        chain = Chain(sampler, steps, start=start)
        arrays = chain.arrays(FULL)
        table = learnt_table(FULL, arrays.table, jax.tree.map(jnp.float32, unrolled(chain.table(FULL))))
        solver, same = (
            run_chain(a, by_noise(stand_in), keys, (4, 4, 3), x_hat) for a in (arrays, arrays._replace(table=table))
        )
        np.testing.assert_allclose(same, solver, atol=3e-6)


def test_one_learnt_row_is_exact_on_gaussian_data():
    """The ODE leads from u to x_hat + (u / a - x_hat) times a factor. One row is a u + b x_0, so it can be exact."""
    with in_float64():
        arrays = Chain("unipc2", 1, clip=False).arrays(FULL)
        keys = jax.random.split(jax.random.key(1), 64)
        u = jax.random.normal(jax.random.key(2), (64, 1, 1, 1))
        a, s = arrays.table.sqrt_alpha_bar[0], arrays.table.sqrt_one_minus_alpha_bar[0]
        exact = X_HAT + (u / a - X_HAT) * SIGMA_R / np.sqrt((s / a) ** 2 + SIGMA_R**2)

        def error(learnt):
            table = learnt_table(FULL, arrays.table, learnt)
            found = run_chain(arrays._replace(table=table), predict_with(1), keys, (1, 1, 1), x_T=u)
            return jnp.mean((found - exact) ** 2)

        start = jax.tree.map(jnp.asarray, unrolled(Chain("unipc2", 1).table(FULL)))
        learnt, state, adam = start, optax.adam(0.05).init(start), optax.adam(0.05)
        step = jax.jit(lambda learnt, state: adam.update(jax.grad(error)(learnt), state))
        for _ in range(1000):
            updates, state = step(learnt, state)
            learnt = optax.apply_updates(learnt, updates)
        assert error(start) > 0.1 and error(learnt) < 1e-6


def saved(folder, variant):
    """Return a file of a tiny model with random weights."""
    config = tiny_config(variant)
    vae = {} if variant == "uncond" else random_params(vae_stage(config))
    VAEDM(config, vae, random_params(ddpm_stage(config, vae))).save(folder / f"{variant}.safetensors")
    return folder / f"{variant}.safetensors"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), "form1")


COMMAND = "--mode=tune --config.sample.start=noise --config.tune.teacher=6 --config.tune.batch_size=8"


def tune(workdir, weights, steps, *options):
    few = ["--config.tune.images=24", "--config.tune.steps=20", "--config.tune.learning_rate=0.02"]
    command = [*COMMAND.split(), f"--workdir={workdir}", f"--config.sample.weights={weights}"]
    return main(["main", *command, *few, f"--config.sample.steps={steps}", *options])


@pytest.fixture(scope="module")
def tuned(weights, tmp_path_factory):
    """Return the folder of a learnt table of two rows."""
    workdir = tmp_path_factory.mktemp("tuned")
    with redirect_stdout(io.StringIO()) as printed:
        assert tune(workdir, weights, 2) == 0
    (workdir / "printed.txt").write_text(printed.getvalue())
    return workdir


def distance(model, **chain):
    """Return the error that mode `tune` prints: to the teacher, of the held-out images, which are the first eight."""
    teacher = model.sample(8, first=FIRST, sampler="unipc2", start="noise", steps=6).images
    images = model.sample(8, first=FIRST, start="noise", steps=2, **chain).images
    return np.sqrt(np.mean((images - teacher) ** 2))


def check_nearer(weights, folder, printed):
    """Check that a table of two rows has the errors that were printed, and comes nearer to the teacher."""
    began, reached = map(float, re.findall(r"(?:began|learnt): (0\.\d+)", printed))
    model = VAEDM.open(weights).with_tables(folder / "tables.safetensors")
    assert distance(model, sampler="unipc2") == pytest.approx(began, abs=2e-4)
    assert distance(model, sampler="tuned") == pytest.approx(reached, abs=2e-4)
    assert reached < 0.95 * began


def test_a_learnt_table_comes_nearer_to_many_steps_on_held_out_noise(weights, tuned):
    check_nearer(weights, tuned, (tuned / "printed.txt").read_text())


@pytest.mark.parametrize("variant", ["form2", "uncond"])
def test_so_does_one_of_another_variant(variant, tmp_path, capsys):
    weights = saved(tmp_path, variant)
    assert tune(tmp_path, weights, 2) == 0
    check_nearer(weights, tmp_path, capsys.readouterr().out)


def test_a_useless_rate_leaves_the_table_as_it_began(weights, tmp_path):
    assert tune(tmp_path, weights, 2, "--config.tune.learning_rate=100") == 0
    found = read_tensors(tmp_path / "tables.safetensors")
    begin = unrolled(Chain("unipc2", 2).table(VAEDM.open(weights).schedule))
    for name, array in begin._asdict().items():
        np.testing.assert_allclose(found.tensor(f"noise_2/{name}"), array, rtol=1e-6)


def test_tables_of_other_chains_are_kept_and_stored_with_the_weights(weights, tuned, tmp_path):
    shutil.copy(tuned / "tables.safetensors", tmp_path)
    assert tune(tmp_path, weights, 3, "--config.sample.start=warm", "--config.sample.t_start=400") == 0
    model = VAEDM.open(weights).with_tables(tmp_path / "tables.safetensors")
    assert set(model.params["tables"]) == {"noise_2", "warm400_3"}
    model.save(tmp_path / "with.safetensors", np.float16)
    stored = VAEDM.open(tmp_path / "with.safetensors")
    jax.tree.map(np.testing.assert_array_equal, stored.params["tables"], model.params["tables"])
    chain = dict(sampler="tuned", start="warm", t_start=400, steps=3)
    np.testing.assert_allclose(stored.sample(2, **chain).images, model.sample(2, **chain).images, atol=0.02)
    assert table_name(stored.chain(**chain)) == "warm400_3"
    alone = VAEDM(model.config, model.params["vae"], model.params["ddpm"], tables={"noise_5": {}})
    assert set(alone.with_tables(tuned / "tables.safetensors").params["tables"]) == {"noise_2", "noise_5"}


def test_a_table_is_drawn_from_by_the_command_line(weights, tuned, tmp_path):
    chain = ["--config.sample.sampler=tuned", "--config.sample.start=noise", "--config.sample.steps=2"]
    named = [f"--config.sample.weights={weights}", f"--config.sample.tables={tuned / 'tables.safetensors'}"]
    assert main(["main", "--mode=sample", f"--workdir={tmp_path}", *named, *chain, "--config.sample.n=4"]) == 0
    (file,) = (tmp_path / "samples").glob("*tuned_noise_2*.npz")
    model = VAEDM.open(weights).with_tables(tuned / "tables.safetensors")
    images = model.sample(4, sampler="tuned", start="noise", steps=2).images
    assert np.abs(np.load(file)["images"] - 255 * images).max() < 1


def test_images_that_fill_one_batch_are_refused_since_none_would_be_held_out(weights, refused):
    one = f"--mode=tune --workdir={{new}} --config.sample.weights={weights} --config.tune.batch_size=4"
    refused(one + " --config.tune.images=8", "tune.images = 8: it must be more than 8", "held out")


def test_what_has_no_table_or_another_refiner_is_refused(weights, tuned, tmp_path, refused):
    model, file = VAEDM.open(weights), tuned / "tables.safetensors"
    with pytest.raises(UserError, match=r"no learnt table noise_2 .* it has none; fit one"):
        model.sample(1, sampler="tuned", start="noise", steps=2)
    with pytest.raises(UserError, match=r"no learnt table noise_5 .* it has noise_2"):
        model.with_tables(file).sample(1, sampler="tuned", start="noise", steps=5)
    config = tiny_config()
    refiner = random_params(ddpm_stage(config, model.params["vae"]), 5)
    VAEDM(config, model.params["vae"], refiner).save(tmp_path / "other.safetensors")
    command = "--mode=sample --workdir={new} --config.sample.weights={tmp}/other.safetensors --config.sample.tables="
    refused(command + str(file), "sample.tables", "fitted to another refiner", "--mode=tune")
    refused(command + str(weights), "sample.tables", "is not a complete file of --mode=tune")
    refused(command + "{tmp}/none", "sample.tables: {tmp}/none is not there", "--mode=tune makes one")
    early = f"--mode=tune --workdir={{new}} --config.sample.weights={weights} --config.sample.start=warm"
    refused(early + " --config.sample.t_start=30", "tune.teacher: 50 steps from t_start = 30")
    refused(
        "--mode=tune --workdir={new} --config.sample.weights=avatars-fast", "--mode=tune", "objective = 'consistency'"
    )
