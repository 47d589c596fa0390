"""Every configuration at its full size: both stages can be traced, and have as many parameters as the paper's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vaedm_jax import command_line as flags
from vaedm_jax.config.checks import check
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.models import count
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training.loop import total_steps
from vaedm_jax.training.stages import ddpm_stage, vae_stage
from vaedm_jax.training.state import create_state
from vaedm_jax.training.step import make_train_step

FOLDER = Path(__file__).parents[1] / "configs"
# Numbers of parameters of the VAE, of the U-Net that is shown x_hat, and of the U-Net that is not.
PARAMETERS = {
    "avatars": (402_747, 2_131_884, 2_128_428),
    "avatars_small": (402_747, 1_201_036, 1_197_580),
    "own": (693_587, 2_288_204, 2_284_748),
    "emoji": (1_631_667, 4_454_988, 4_448_076),
    "cifar10": (9_243_107, 35_749_763, 35_746_307),
    "celebamask_hq_128": (21_098_275, 113_676_675, 113_673_219),
}
PUBLISHED = {
    "celeba_64": (14_011_907, 82_644_099),
    "celeba_hq_256": (32_632_579, 113_676_675),
    "afhq_256": (32_632_579, 113_676_675),
    "ffhq_128": (21_098_275, 87_903_747),
}
# Epochs and batch size of the VAE and of the DDPM (appendix E of the paper), and the number of training images.
RECIPES = {"cifar10": (500, 128, 1000, 128, 50_000), "celebamask_hq_128": (180, 40, 250, 64, 30_000)}


def traced(stage, config) -> int:
    """Trace a whole train step of a stage at full size, and return the number of parameters."""
    state = jax.eval_shape(lambda key: create_state(stage.init(key), stage.settings), jax.random.key(0))
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((stage.settings.batch_size, size, size, 3), jnp.uint8)
    step = make_train_step(stage, make_mesh(), 100)
    new, metrics = jax.eval_shape(step, state, stage.frozen, images, jax.random.key(0))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert metrics["loss"].shape == metrics["grad_norm"].shape == ()
    return count(state.params)


def test_there_is_a_count_for_every_configuration():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*PARAMETERS, *PUBLISHED}


@pytest.mark.parametrize("variant", FORMULATIONS)
@pytest.mark.parametrize("name", PARAMETERS)
def test_each_stage_can_be_traced_at_full_size_and_has_the_expected_parameters(name, variant):
    config = flags.load(f"{FOLDER / name}.py:{variant}")
    of_vae, of_unet, of_unconditional = PARAMETERS[name]
    vae = {}
    if variant != "uncond":
        first = vae_stage(config)
        vae = jax.eval_shape(first.init, jax.random.key(0))
        assert traced(first, config) == of_vae
    assert traced(ddpm_stage(config, vae), config) == (of_unconditional if variant == "uncond" else of_unet)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_configurations_have_the_published_networks(name):
    config = flags.load(f"{FOLDER / name}.py")
    check(config)
    stages = vae_stage(config), ddpm_stage(config, {})
    counts = tuple(count(jax.eval_shape(stage.init, jax.random.key(0))) for stage in stages)
    assert counts == PUBLISHED[name] and config.ddpm.heads in (1, 8)


@pytest.mark.parametrize("name", RECIPES)
def test_the_papers_recipes_are_followed(name):
    config = flags.load(f"{FOLDER / name}.py")
    vae_epochs, vae_batch, ddpm_epochs, ddpm_batch, images = RECIPES[name]
    for stage, epochs, batch in ((config.vae, vae_epochs, vae_batch), (config.ddpm, ddpm_epochs, ddpm_batch)):
        assert (stage.epochs, stage.batch_size, stage.steps) == (epochs, batch, 0)
        assert total_steps(stage, images) == -(-epochs * images // batch)
    assert (config.vae.learning_rate, config.vae.kl_weight, config.vae.warmup) == (1e-4, 1, 0)
    assert (config.vae.clip, config.vae.ema_decay) == (0, 0)
    assert config.ddpm.learning_rate == {"cifar10": 2e-4, "celebamask_hq_128": 2e-5}[name]
    assert config.ddpm.dropout == {"cifar10": 0.1, "celebamask_hq_128": 0}[name]
    assert (config.ddpm.warmup, config.ddpm.clip, config.ddpm.heads) == (5000, 1, 1)
    assert (config.ddpm.ema_decay, config.ddpm.ema_schedule, config.data.flip) == (0.9999, "byol", False)
    assert (config.ddpm.T, config.ddpm.beta_1, config.ddpm.beta_T) == (1000, 1e-4, 0.02)


@pytest.mark.parametrize("name", [*PARAMETERS, *PUBLISHED])
def test_a_configuration_fits_on_a_screen_and_has_locked_keys(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 40
    with pytest.raises(AttributeError):
        flags.load(f"{FOLDER / name}.py").ddpm.batchsize = 1
