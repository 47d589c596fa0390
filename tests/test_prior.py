"""A prior fitted to the latents of a VAE has the right density and draws, and is refused for another VAE."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.tiny import FIVE_STEPS, apply, in_float64, random_params, tiny_config
from vaedm_jax.api import VAEDM
from vaedm_jax.errors import UserError
from vaedm_jax.main import main
from vaedm_jax.models.flow import forward, init_flow
from vaedm_jax.models.prior import draw, log_prob
from vaedm_jax.modes import prior as mode
from vaedm_jax.modes.prior import fit_flow, used_latents
from vaedm_jax.training.stages import ddpm_stage, vae_stage

RNG = np.random.default_rng(0)
FACTORS = np.tril(RNG.normal(0, 0.3, (2, 3, 3))) + np.eye(3)
MIXTURE = {
    "logits": np.float32(np.log([0.2, 0.6])),  # not normalised
    "means": np.float32([[4, 0, -4], [-4, 1, 0]]),
    "factors": np.float32(FACTORS),
}


def test_the_density_of_a_mixture_is_the_sum_of_its_components():
    z = RNG.normal(0, 3, (20, 3))
    parts = zip((0.25, 0.75), MIXTURE["means"], FACTORS, strict=True)
    expected = np.log(sum(w * multivariate_normal(mean, L @ L.T).pdf(z) for w, mean, L in parts))
    np.testing.assert_allclose(log_prob(MIXTURE, np.float32(z)), expected, rtol=1e-4)
    np.testing.assert_allclose(log_prob({}, np.float32(z)), multivariate_normal(np.zeros(3)).logpdf(z), rtol=1e-5)


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_a_prior_of_some_latents_leaves_the_others_normal(kind):
    """The density is that of a prior of all latents, in which the others are independent and N(0, 1)."""
    flow = init_flow(jax.random.key(0), np.float32([4, 0, -4]), np.float32(FACTORS[0]))
    part = {**(MIXTURE if kind == "mixture" else flow), "used": np.float32([0, 1, 0, 1, 1])}
    z = np.float32(RNG.normal(0, 3, (20, 5)))
    whole = {name: a for name, a in part.items() if name != "used"}
    expected = log_prob(whole, z[:, [1, 3, 4]]) + norm.logpdf(z[:, [0, 2]]).sum(1)
    np.testing.assert_allclose(log_prob(part, z), expected, rtol=1e-5)
    drawn = np.asarray(draw(part, jax.vmap(jax.random.key)(np.arange(4000)), 5))
    assert np.abs(drawn[:, [0, 2]].std(0) - 1).max() < 0.05 and np.abs(drawn[:, [0, 2]].mean(0)).max() < 0.05
    assert abs(np.mean(log_prob(whole, drawn[:, [1, 3, 4]])) - np.mean(log_prob(part, drawn)) - 2 * 1.419) < 0.1


def test_the_latents_that_are_used_are_found():
    """Of four latents, the first depends on the image, the next two do not, and the last is N(1, 1) for every image."""
    noise = np.random.default_rng(0).normal(size=(8, 500, 4))
    noise[..., 0] = 0.6 * noise[..., 0] + 0.8 * noise[0, :, 1]
    noise[..., 3] += 1
    assert list(used_latents(noise)) == [0, 3]
    with pytest.raises(UserError, match="uses none of its latents"):
        used_latents(noise[..., 1:3])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_moments_of_the_components(temperature):
    keys = jax.vmap(jax.random.key)(np.arange(20_000))
    z = np.asarray(draw(MIXTURE, keys, 3, temperature))
    second = z[:, 0] < 0
    assert abs(second.mean() - 0.75) < 0.02
    for k, part in enumerate((z[~second], z[second])):
        np.testing.assert_allclose(part.mean(0), MIXTURE["means"][k], atol=0.1)
        np.testing.assert_allclose(np.cov(part.T), temperature**2 * FACTORS[k] @ FACTORS[k].T, atol=0.1)
    plain = np.asarray(draw({}, keys, 3, temperature))
    np.testing.assert_allclose(plain.std(0), temperature, atol=0.02)


def test_the_density_of_a_flow_is_that_of_its_draws():
    D, rng = 4, np.random.default_rng(1)
    with in_float64():
        params = init_flow(jax.random.key(0), rng.normal(size=D), np.eye(D) + np.tri(D) / 4)
        noise = rng.normal(size=(5, D))
        gaussian = multivariate_normal(params["mean"], params["factor"] @ params["factor"].T)
        np.testing.assert_allclose(
            log_prob(params, noise), gaussian.logpdf(noise), rtol=1e-9
        )  # a new flow is a Gaussian

        for name in ("w_out", "b_out"):
            params[name] = rng.normal(0, 0.3, params[name].shape)
        z = jax.jit(jax.vmap(partial(forward, params)))(noise)
        jacobians = jax.jit(jax.vmap(jax.jacobian(partial(forward, params))))(noise)
        expected = multivariate_normal(np.zeros(D)).logpdf(noise) - np.linalg.slogdet(jacobians)[1]
        np.testing.assert_allclose(log_prob(params, z), expected, rtol=1e-9)
        assert np.abs(expected - gaussian.logpdf(z)).max() > 0.1, "it is not the Gaussian any more"


def test_z_are_scored_in_chunks_since_each_component_holds_them_all(monkeypatch):
    z, sizes = np.float32(RNG.normal(0, 3, (7, 3))), []
    monkeypatch.setattr(mode, "CHUNK", 3)
    monkeypatch.setattr(mode, "log_prob", lambda params, z: (sizes.append(len(z)), log_prob(params, z))[1])
    found = mode.mean_log_density(MIXTURE, z)
    assert sizes == [3, 3, 1] and found == pytest.approx(float(np.mean(log_prob(MIXTURE, z))), rel=1e-5)


def test_a_flow_fits_a_ring_better_than_a_gaussian():
    rng = np.random.default_rng(0)
    ring = rng.uniform(0, 2 * np.pi, 4000)
    z = np.float32(np.stack([3 * np.cos(ring), 3 * np.sin(ring)], 1))
    flow = fit_flow(z[:3000], z[3000:], 600, 0)
    gaussian = multivariate_normal(z.mean(0), np.cov(z.T)).logpdf(z[3000:]).mean()
    assert log_prob(flow, z[3000:]).mean() > gaussian + 0.3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a file of a tiny model with random weights. The z that its VAE encodes are far from N(0, I)."""
    file, config = tmp_path_factory.mktemp("weights") / "tiny.safetensors", tiny_config()
    vae = random_params(vae_stage(config), 1)
    VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2)).save(file)
    return file


LADDER = {"vae.dec_block": "1u4,1t4,4z1,4u4,4t16,16x1"}


def gaussian(D: int, deviation: float) -> dict[str, np.ndarray]:
    """Return a mixture of one Gaussian for `models.prior`. It is N(0, I) if the deviation is 0, else far from it."""
    rng = np.random.default_rng(5)
    factor = np.eye(D) + deviation * np.tril(rng.normal(size=(D, D))) / D
    arrays = {"logits": [0.7], "means": deviation * rng.normal(size=(1, D)), "factors": factor[None]}
    return {name: np.float32(a) for name, a in arrays.items()}


def drawn(model: VAEDM, images: np.ndarray) -> list[np.ndarray]:
    """Return the z that the bound draws for each image, and the mean and variance of q(z | x) there, in float64."""
    noise = jax.vmap(
        lambda i: jax.random.normal(
            jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), 0), (model.engine.networks.vae.z_dim,)
        )
    )(np.arange(len(images)))
    vae, x = model.engine.networks.vae, np.float32(images) / 255
    _, z, mu, logvar = apply(vae, model.params["vae"], x, noise, method="reconstruct")
    return [np.float64(z), np.float64(mu), np.exp(np.float64(logvar))]


@pytest.fixture(scope="module", params=[{}, LADDER], ids=["one layer", "ladder"])
def bounded(request):
    """Return a tiny model with a short chain, and 512 copies of one image."""
    config = tiny_config(**FIVE_STEPS, **request.param)
    vae = random_params(vae_stage(config), 1)
    image = np.random.default_rng(3).integers(0, 256, (1, 16, 16, 3), np.uint8)
    return VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2)), image.repeat(512, axis=0)


def with_gaussian(model: VAEDM, deviation: float) -> VAEDM:
    params = model.params
    return VAEDM(
        model.config, params["vae"], params["ddpm"], prior=gaussian(model.engine.networks.vae.z_dim, deviation)
    )


def test_a_mixture_that_is_standard_normal_gives_the_same_bound(bounded):
    model, images = bounded
    plain, other = (m.bound(images[:16]) for m in (model, with_gaussian(model, 0.0)))
    np.testing.assert_allclose(other.z, plain.z, rtol=1e-3, atol=1e-6)
    with in_float64():  # two programs may round differently
        config = tiny_config(**FIVE_STEPS, **{"vae.precision": "float64", "ddpm.precision": "float64"})
        with config.unlocked():
            config.vae.dec_block = model.config.vae.dec_block
        wide = VAEDM(config, model.params["vae"], model.params["ddpm"])
        plain, other, far = (m.bound(images[:16]) for m in (wide, *(with_gaussian(wide, d) for d in (0.0, 1.5))))
        assert plain.steps.dtype == np.float64
        np.testing.assert_allclose(other.steps, plain.steps, rtol=1e-12)
        np.testing.assert_array_equal(other.steps, far.steps)


def test_the_bound_uses_the_density_of_the_fitted_prior(bounded):
    model, images = bounded
    prior, bits = gaussian(model.engine.networks.vae.z_dim, 1.5), 16 * 16 * 3 * np.log(2)
    found = with_gaussian(model, 1.5).bound(images).z * bits
    z, mu, variance = drawn(model, images)
    of_p = multivariate_normal(prior["means"][0], prior["factors"][0] @ prior["factors"][0].T)
    sampled = norm.logpdf(z, mu, np.sqrt(variance)).sum(1) - of_p.logpdf(z)
    scatter = np.std(found - sampled) / np.sqrt(len(images))
    assert abs(np.mean(found) - np.mean(sampled)) < 4 * scatter + 1e-3
    plain = model.bound(images[:1]).z[0] * bits
    assert abs(np.mean(found) - plain) > 10 * np.std(found) / np.sqrt(len(images)), "it is another divergence"
    if len(model.engine.networks.vae.shapes) == 1:
        covariance = of_p.cov
        shift = mu[0] - prior["means"][0]
        trace = np.trace(np.linalg.solve(covariance, np.diag(variance[0])))
        logs = np.linalg.slogdet(covariance)[1] - np.log(variance[0]).sum()
        closed = 0.5 * (trace + shift @ np.linalg.solve(covariance, shift) - len(shift) + logs)
        assert abs(np.mean(found) - closed) < 4 * np.std(found) / np.sqrt(len(images))


@pytest.fixture(scope="module")
def fitted(weights, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("prior")
    command = ["main", "--mode=prior", f"--workdir={workdir}", f"--config.sample.weights={weights}"]
    assert main([*command, "--config.prior.components=(1,2)", "--config.prior.steps=100"]) == 0
    return workdir / "prior.npz"


def test_a_fitted_prior_makes_held_out_z_likelier_and_is_sampled_from(weights, fitted, tmp_path):
    model = VAEDM.open(weights)
    lines = (fitted.parent / "prior.csv").read_text().splitlines()
    figures = [float(line.split(",")[-1]) for line in lines[1:]]
    assert len(figures) == 6 and max(figures) > figures[0], "two kinds of two, and the flow, after N(0, I)"
    other = model.with_prior(fitted)
    assert other.engine.fingerprint != model.engine.fingerprint
    z, plain = other.sample_z(4000), model.sample_z(4000)
    assert abs(plain.std() - 1) < 0.02 and np.abs(z.std(0) - plain.std(0)).max() > 0.1
    np.testing.assert_allclose(other.sample(2, steps=2).x_hat, other.decode(z[:2]), atol=1e-5)
    other.save(tmp_path / "with.safetensors")
    stored = VAEDM.open(tmp_path / "with.safetensors")
    np.testing.assert_array_equal(stored.sample_z(8), other.sample_z(8))
    np.testing.assert_array_equal(stored.with_prior("normal").sample_z(8), model.sample_z(8))
    taken = model.with_prior(tmp_path / "with.safetensors")
    np.testing.assert_array_equal(taken.sample_z(8), other.sample_z(8))


def test_the_command_line_samples_from_the_fitted_prior(weights, fitted, tmp_path):
    command = ["main", "--mode=sample", f"--workdir={tmp_path}", f"--config.sample.weights={weights}"]
    settings = [f"--config.sample.prior={fitted}", "--config.sample.n=2", "--config.sample.z_temperature=0.5"]
    assert main([*command, *settings, "--config.sample.steps=2"]) == 0
    (file,) = (tmp_path / "samples").glob("tiny-prior_*ztemperature0.5*.npz")
    expected = VAEDM.open(weights).with_prior(fitted).sample(2, steps=2, z_temperature=0.5).x_hat
    with np.load(file) as arrays:
        np.testing.assert_allclose(arrays["x_hat"] / 255, expected, atol=1 / 255)


def test_a_model_with_a_prior_has_its_own_name_in_a_comparison(weights, fitted, tmp_path):
    command = ["main", "--mode=evaluate", f"--workdir={tmp_path}", f"--config.sample.weights={weights}"]
    few = ["--config.eval.n=8", "--config.eval.steps=2", "--config.eval.features=tests.tiny_features:means"]
    for prior in ("", fitted):
        assert main([*command, *few, f"--config.sample.prior={prior}"]) == 0
    lines = (tmp_path / "evaluation" / "evaluation.csv").read_text().splitlines()
    assert sorted(line.split(",")[0] for line in lines[1:]) == ["tiny", "tiny-prior"]


def test_z_are_encoded_in_the_precision_that_is_asked_for(weights, tmp_path, monkeypatch):
    seen = []

    def stop(model, *_):
        seen.append(model.engine.networks.vae.precision)
        raise UserError("enough is seen")

    monkeypatch.setattr(mode, "posterior_draws", stop)
    command = ["main", "--mode=prior", f"--workdir={tmp_path}", f"--config.sample.weights={weights}"]
    assert main([*command, "--config.vae.precision=bfloat16"]) == 2 and seen == ["bfloat16"]


def test_an_earlier_prior_is_kept(weights, tmp_path, capsys):
    command = ["main", "--mode=prior", f"--workdir={tmp_path}", f"--config.sample.weights={weights}"]
    for components in (1, 2, 1):
        assert main([*command, "--config.prior.kinds=diag", f"--config.prior.components=({components},)"]) == 0
    assert f"{tmp_path / 'prior.npz'} existed already and is now {tmp_path / 'prior_2.npz'}" in capsys.readouterr().out
    counts = [len(np.load(tmp_path / f"prior{n}.npz")["logits"]) for n in ("_1", "_2", "")]
    assert counts == [1, 2, 1]


def test_settings_that_leave_no_prior_to_try_are_refused_for_that_reason(weights, tmp_path, capsys):
    command = ["main", "--mode=prior", f"--workdir={tmp_path}", f"--config.sample.weights={weights}"]
    assert main([*command, "--config.prior.kinds="]) == 2
    assert "prior.kinds = '': give one or more of full, diag, flow" in capsys.readouterr().err
    few = ["--config.prior.kinds=diag", "--config.prior.images=20", "--config.prior.components=(11,64)"]
    assert main([*command, *few]) == 2
    assert "prior.components = (11, 64): none is at most 10, half of the training images" in capsys.readouterr().err


def test_a_prior_that_does_not_fit_is_refused(refused, weights, fitted, tmp_path):
    config = tiny_config()
    vae = random_params(vae_stage(config), 3)
    VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2)).save(tmp_path / "other.safetensors")
    (tmp_path / "torn.npz").write_bytes(fitted.read_bytes()[:100])
    command = f"--mode=sample --workdir={{new}} --config.sample.weights={weights} --config.sample.prior="
    refused(command + "{tmp}/none.npz", "{tmp}/none.npz is not there", "--mode=prior")
    refused(command + "{tmp}/torn.npz", "{tmp}/torn.npz")
    refused(command + str(weights), "comes without a prior", "--mode=prior")
    refused(command + "avatars", "sample.prior", "the prior of avatars was fitted to another VAE")
    refused(command + "nobody", "sample.prior: weights 'nobody': no such file")
    refused(command.replace(str(weights), "{tmp}/other.safetensors") + str(fitted), "fitted to another VAE")
    refused(f"--mode=prior --workdir={{new}} --config.sample.weights={weights} --config.prior.kinds=gmm", "gmm", "flow")
    uncond = "--mode=prior --workdir={new} --config.sample.weights=avatars-uncond"
    refused(uncond, "has no VAE")
