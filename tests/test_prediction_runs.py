"""A run and its weights store the target of the refiner, and training and sampling use it."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import apply, random_params, tiny_config
from vaedm_jax import VAEDM, models
from vaedm_jax.config import flatten
from vaedm_jax.config.checks import check
from vaedm_jax.data import load
from vaedm_jax.errors import UserError
from vaedm_jax.modes import convert, train
from vaedm_jax.training.stages import ddpm_stage, vae_stage
from vaedm_jax.training.state import optimizer

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
KEYS = jax.random.split(jax.random.key(0), 6)
VAE = random_params(vae_stage(tiny_config()), 1)


@pytest.fixture(name="fitted")
def fitted_fixture(monkeypatch):
    """Replace training: each stage ends with random parameters. Return the list of the stages that were trained."""
    stages = []

    def fit(stage, *_):
        stages.append(stage)
        return SimpleNamespace(average=random_params(stage, 1))

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "renew_report", lambda workdir: None)
    return stages


def stored(workdir):
    return json.loads((workdir / "config.json").read_text())["ddpm"]


def test_training_measures_the_deviations_of_the_residual_and_the_run_keeps_them(tmp_path, fitted):
    config = tiny_config(**{"ddpm.prediction": "residual"})
    train.train(config, tmp_path)
    found = stored(tmp_path)
    x = np.float32([*load(config.data).train]) / 255  # all images: they are fewer than would be measured
    assert found["sigma_data"] == pytest.approx(np.sqrt(np.mean((2 * x - 1) ** 2)), abs=1e-4)
    vae = models.build_vae(config)
    mu, logvar = apply(vae, VAE, x, method="encode")
    z = mu + np.exp(logvar / 2) * np.random.default_rng(0).standard_normal(mu.shape)
    x_hat = apply(vae, VAE, z, method="decode")
    assert found["sigma_r"] == pytest.approx(2 * np.sqrt(np.mean((x - x_hat) ** 2)), rel=0.02)
    assert fitted[-1].settings.sigma_r == found["sigma_r"] and not config.ddpm.sigma_r

    train.train(config, tmp_path)  # continues with the measured values
    assert stored(tmp_path) == found and fitted[-1].settings.sigma_r == found["sigma_r"]
    for name, other in (("prediction", "v"), ("sigma_r", 0.5)):
        changed = tiny_config(**{"ddpm.prediction": "residual", f"ddpm.{name}": other})
        with pytest.raises(UserError, match=f"holds another run: .*ddpm.{name} was"):
            train.train(changed, tmp_path)


def test_a_run_of_before_the_targets_predicts_eps_and_continues(tmp_path, fitted):
    train.train(tiny_config(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in (n for n in tiny_config().ddpm if n.startswith(("predict", "sigma", "weight", "min", "t_s", "cond_n"))):
        del config["ddpm"][name]
    del config["ddpm"]["decay"], config["vae"]["decay"], config["vae"]["kl_warmup"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    train.train(tiny_config(), tmp_path)
    assert stored(tmp_path)["prediction"] == "eps"


def test_a_plain_ddpm_measures_only_the_deviation_of_the_images(tmp_path, fitted):
    train.train(tiny_config("uncond", **{"ddpm.prediction": "residual"}), tmp_path)
    assert stored(tmp_path)["sigma_data"] > 0.1 and stored(tmp_path)["sigma_r"] == 0


def test_weights_have_the_measured_values_and_are_refused_without_them(tmp_path):
    config = tiny_config(**{"ddpm.prediction": "residual", "ddpm.sigma_r": 0.3, "ddpm.sigma_data": 0.7})
    ddpm = random_params(ddpm_stage(config, VAE), 2)
    model = VAEDM(config, VAE, ddpm)
    model.save(tmp_path / "whole.safetensors")
    again = VAEDM.open(tmp_path / "whole.safetensors")
    assert (
        again.engine.networks.target == model.engine.networks.target
        and again.engine.fingerprint == model.engine.fingerprint
    )
    assert (again.sample(2, steps=2).images == model.sample(2, steps=2).images).all()
    other = VAEDM(tiny_config(**{**flatten({"ddpm": config.ddpm}), "ddpm.sigma_r": 0.4}), VAE, ddpm)
    assert other.engine.fingerprint != model.engine.fingerprint
    assert np.abs(other.sample(2, steps=2).images - model.sample(2, steps=2).images).max() > 1e-3

    model.config.ddpm.sigma_r = 0.0
    model.save(tmp_path / "torn.safetensors")
    with pytest.raises(UserError, match=r"torn.safetensors: ddpm.prediction = 'residual' needs ddpm.sigma_r"):
        VAEDM.open(tmp_path / "torn.safetensors")


@pytest.mark.parametrize(
    ("variant", "settings", "words"),
    [
        ("form2", {"ddpm.prediction": "residual"}, "the shift by x_hat cancels"),
        ("form1", {"ddpm.prediction": "x0"}, "ddpm.prediction = 'x0': it must be one of eps, v, residual"),
        ("uncond", {"ddpm.cond_noise": 5}, "is shown nothing"),
        ("form1", {"ddpm.cond_noise": 1001}, "ddpm.cond_noise = 1001"),
        ("form1", {"ddpm.cond_noise": 10, "sample.cond_noise": 11}, "sample: cond_noise = 11"),
        ("form1", {"vae.decay": "exponential"}, "vae.decay = 'exponential'"),
        ("form1", {"ddpm.weighting": "snr"}, "ddpm.weighting = 'snr'"),
        ("form1", {"ddpm.t_sampling": "normal"}, "ddpm.t_sampling = 'normal'"),
    ],
)
def test_invalid_settings_are_refused(variant, settings, words):
    with pytest.raises(UserError) as error:
        check(tiny_config(variant, **settings))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), [("prediction", "v"), ("cond_noise", 9)])
def test_a_model_that_the_published_network_cannot_express_is_not_exported(tmp_path, name, value):
    config = tiny_config(**{"ddpm.patch": 1, f"ddpm.{name}": value})
    VAEDM(config, VAE, random_params(ddpm_stage(config, VAE))).save(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=rf"a.safetensors: ddpm.{name} = {value!r}, .* cannot be exported"):
        convert.export_model(config, str(tmp_path / "a.safetensors"), str(tmp_path / "a.pt"))
    assert not (tmp_path / "a.pt").exists()


# --- conditioning augmentation, and the distribution of t


def watched(monkeypatch):
    """Make the U-Net give zeros, and return the list of its inputs."""
    seen = []
    real = models.apply

    def apply(network, params, *inputs, **how):
        if isinstance(network, models.VAE):
            return real(network, params, *inputs, **how)
        seen.append(inputs)
        return 0 * inputs[0]

    monkeypatch.setattr(models, "apply", apply)
    return seen


def test_training_noises_x_hat_to_a_level_that_the_network_is_told(monkeypatch):
    config = tiny_config(**{"ddpm.cond_noise": 300, "ddpm.condition": "grayscale"})
    stage, seen = ddpm_stage(config, {}), watched(monkeypatch)
    assert {"k_0", "k_1"} <= set(random_params(stage)) and "k_0" not in random_params(ddpm_stage(tiny_config(), VAE))
    images, keys = IMAGES.repeat(40, axis=0), jax.random.split(jax.random.key(1), 240)
    stage.loss({}, {}, images, keys, 0)
    with jax.disable_jit():
        stage.held_out({}, {}, images[:2], keys[:2])
    _, _, shown, _, _, k = seen[0]
    assert k.min() >= 0 and k.max() <= 300 and len(np.unique(k)) > 100
    grey = np.einsum("bhwc,c->bhw", images / 127.5 - 1, [0.299, 0.587, 0.114])[..., None]
    left = np.append(1, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[np.asarray(k)][:, None, None, None]
    noise = np.asarray(shown - np.sqrt(left) * grey)[k > 20] / np.sqrt(1 - left)[k > 20]
    assert noise.std() == pytest.approx(1, abs=0.02) and noise.mean() == pytest.approx(0, abs=0.02)
    assert (np.asarray(seen[1][5]) == 0).all()  # held-out images are not noised


def test_the_noise_level_of_x_hat_is_a_setting_of_sampling():
    config = tiny_config(**{"ddpm.cond_noise": 20, "ddpm.T": 20, "ddpm.beta_T": 0.4, "sample.t_start": 10})
    model = VAEDM(config, VAE, random_params(ddpm_stage(config, VAE), 2))
    images = {k: model.sample(2, sampler="ddim", steps=2, cond_noise=k).images for k in (0, 1, 20)}
    assert np.abs(images[20] - images[0]).max() > 1e-3 and np.abs(images[1] - images[0]).max() > 1e-6
    assert model.chain(cond_noise=20).name(model.schedule).options == "condnoise20"
    assert (model.bound(IMAGES[:2], chain=model.chain(cond_noise=20)).total > 0).all()
    for asked in (lambda chain: model.sample(1, chain=chain), lambda chain: model.bound(IMAGES[:1], chain=chain)):
        with pytest.raises(UserError, match="cond_noise = 21"):
            asked(model.chain(cond_noise=21))


def test_lognormal_t_is_normal_in_log_sigma_about_the_deviation_of_the_target(monkeypatch):
    names = {"prediction": "residual", "sigma_r": 0.3, "sigma_data": 0.7, "t_sampling": "lognormal"}
    names |= {"condition": "grayscale", "t_mean": -0.5, "t_deviation": 0.6, "cond_dropout": 0.5}
    stage, seen = ddpm_stage(tiny_config(**{f"ddpm.{k}": v for k, v in names.items()}), {}), watched(monkeypatch)
    n = 3000
    stage.loss({}, {}, np.full((n, 16, 16, 3), 200, np.uint8), jax.random.split(jax.random.key(1), n), 0)
    _, t, shown, *_ = seen[0]
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.asarray(t)]
    log_sigma, blank = np.log(np.sqrt((1 - alpha_bar) / alpha_bar)), (np.asarray(shown) == 0).all(axis=(1, 2, 3))
    for chosen, sigma in ((blank, 0.7), (~blank, 0.3)):
        assert 1300 < chosen.sum() < 1700
        assert log_sigma[chosen].mean() == pytest.approx(np.log(sigma) - 0.5, abs=0.06)
        assert log_sigma[chosen].std() == pytest.approx(0.6, abs=0.05)


# --- schedules of the learning rate and of the weight of the KL


@pytest.mark.parametrize("decay", ["constant", "cosine", "linear"])
def test_the_learning_rate_follows_warmup_and_decay(decay):
    config, total = tiny_config(**{"ddpm.learning_rate": 0.5, "ddpm.warmup": 4, "ddpm.decay": decay}), 12
    config.ddpm.clip = 0.0
    tx = optimizer(config.ddpm, total)
    state, rates = tx.init(jnp.ones(())), []
    update = jax.jit(tx.update)
    for _ in range(total + 2):  # with a gradient of 1, the step of Adam is the learning rate
        step, state = update(jnp.ones(()), state)
        rates.append(-float(step))
    left = np.clip((np.arange(total + 2) - 4) / (total - 4), 0, 1)
    factor = {"constant": 1 + 0 * left, "cosine": (1 + np.cos(np.pi * left)) / 2, "linear": 1 - left}[decay]
    np.testing.assert_allclose(rates, 0.5 * np.minimum((np.arange(total + 2) + 1) / 4, 1) * factor, atol=1e-5)


def test_the_weight_of_the_kl_rises_over_the_first_steps_and_is_full_for_held_out_images():
    stage = vae_stage(tiny_config(**{"vae.kl_weight": 3.0, "vae.kl_warmup": 4}))
    loss_at = jax.jit(lambda step: stage.loss(VAE, {}, IMAGES, KEYS, step))
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (900, 1.0), (None, 1.0)):
        loss, figures = loss_at(step)
        assert float(loss) == pytest.approx(float(figures["squared_error"] + 3 * share * figures["kl"]), rel=1e-5)
    held_out = jax.jit(stage.held_out)(VAE, {}, IMAGES, KEYS)
    assert float(jnp.mean(held_out["loss"])) == pytest.approx(float(loss), rel=1e-5)
