"""The explorer: its states in every written form, its history, its drawings, and the actions of the page."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.explorer_fixtures import explorer_fixture  # noqa: F401
from tests.pictures import noise
from tests.tiny import tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.config import make_chain
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.errors import UserError
from vaedm_jax.modes import explore
from vaedm_jax.modes.explorer import drawing, state
from vaedm_jax.modes.explorer.actions import Actions
from vaedm_jax.modes.explorer.directions import describe_loss, find_directions, lost
from vaedm_jax.modes.explorer.history import MOST_SHOWN, History
from vaedm_jax.modes.explorer.state import LIMIT, Allowed, State

ALLOWED = Allowed(3, 100, ("ddim", "unipc2"), ("warm", "noise"))
START = State((0.0, 0.0, 0.0), 0, 5, "ddim", "warm")
FULL = State((0.52, -1.2, 4.0), 2**32 - 1, 100, "unipc2", "noise")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_state_comes_back_from_its_query():
    query = state.to_query(FULL, "abc")
    assert query == "position=0.52,-1.2,4&seed=4294967295&steps=100&sampler=unipc2&start=noise&model=abc"
    assert state.from_query(query, ALLOWED, START) == (FULL, "abc")
    dpm = replace(START, sampler="dpm++2m")
    assert state.from_query(state.to_query(dpm, ""), ALLOWED._replace(samplers=("dpm++2m",)), START) == (dpm, "")


def test_a_query_may_name_some_of_the_settings_and_positions_and_other_things():
    found, model = state.from_query("seed=7&position=1,-2&__theme=dark", ALLOWED, FULL)
    assert found == replace(FULL, seed=7, position=(1.0, -2.0, 0.0)) and model == ""
    assert state.from_query("", ALLOWED, FULL) == (FULL, "")


@pytest.mark.parametrize(
    "query, words",
    [
        ("position=nan", "position = .* a number, from -4.0 to 4.0"),
        ("position=1,4.01", "4.01 should be"),
        ("position=1,,2", "must be a number"),
        ("position=1,2,3,4", "4 positions: this model has 3"),
        ("seed=-1", "seed = -1"),
        ("seed=1e3", "a whole number"),
        ("seed=" + "9" * 5000, "seed"),
        ("steps=0", "steps = 0"),
        ("steps=101", "steps = 101"),
        ("sampler=<b>", "sampler = '<b>'"),
        ("start=hot", "start = 'hot'"),
        ("&".join(f"a{i}=1" for i in range(200)), "too many fields"),
        ("position=" + "1" * 2**17, "characters"),
    ],
)
def test_an_invalid_query_is_refused_in_one_line(query, words):
    with pytest.raises(UserError, match=rf"^the address: .*{words}") as error:
        state.from_query(query, ALLOWED, START)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_file_that_is_not_of_the_explorer_is_refused_in_one_line(tmp_path):
    good = state.to_file(START, "abc", np.zeros(2), Chain(), b"png")
    settings = good["settings"]
    bad = {
        "no JSON": (b"\x80\x04pickle", "not a valid JSON"),
        "of another kind": (good | {"kind": "other"}, "its kind is another"),
        "without z": ({k: v for k, v in good.items() if k != "z"}, "z is missing"),
        "z of text": (good | {"z": ["1"]}, "should be a number"),
        "infinite": (b'{"z": [1e999]}', "not a finite number"),
        "of another size": (good | {"z": [0.0] * 3}, "a z of 3 numbers, but this model has 2"),
        "seed of text": (good | {"settings": settings | {"seed": "0"}}, "seed should be a whole number"),
        "too large": (b" " * (2**24 + 1), "too many"),
    }
    for name, (content, words) in bad.items():
        file = tmp_path / "file.json"
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(UserError, match=words) as error:
            state.from_file(file, 2)
        assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value), name


def test_undo_goes_back_to_what_was_shown_before():
    a, b, c = (replace(START, seed=seed) for seed in range(3))
    history = History().visit(a).visit(b).visit(b).visit(c).visit(a)
    assert history.strip == (a, b, c) and history.now == a
    seen = []
    for _ in range(5):
        history = history.undo()
        seen.append(history.now)
    assert seen == [c, b, a, a, a] and history.strip == (a, b, c)
    assert History().undo().now is None


def test_the_strip_keeps_the_last_pictures():
    history = History()
    for seed in range(MOST_SHOWN + 5):
        history = history.visit(replace(START, seed=seed))
    assert [old.seed for old in history.strip] == list(range(5, MOST_SHOWN + 5))


def test_directions_are_principal_components_as_long_as_a_standard_deviation(explorer):
    z, found = explorer.model.encode(explorer.images), explorer.directions
    values, vectors = np.linalg.eigh(np.cov(z.T, bias=True))
    lengths = np.linalg.norm(found.axes, axis=1)
    np.testing.assert_allclose(lengths**2, values[::-1][: len(lengths)], rtol=1e-4)
    np.testing.assert_allclose(np.abs(found.axes[0] @ vectors[:, -1]) / lengths[0], 1, rtol=1e-4)
    np.testing.assert_allclose(found.shares, values[::-1][: len(lengths)] / values.sum(), rtol=1e-4)


def test_the_signs_of_directions_do_not_depend_on_the_decomposition():
    z = np.random.default_rng(0).standard_normal((50, 3)) * [3, 2, 1]
    axes = find_directions(z).axes
    np.testing.assert_allclose(find_directions(z[:, ::-1]).axes[:, ::-1], axes, atol=1e-9)
    assert all(axis[np.argmax(np.abs(axis))] > 0 for axis in axes)


def test_directions_that_the_decoder_ignores_are_left_out():
    z = np.random.default_rng(0).standard_normal((500, 4)) * [1, 0.8, 0.02, 0.01]
    found = find_directions(z)
    assert len(found.axes) == 2
    np.testing.assert_allclose(found.position(found.z((1.5, -2.0))), (1.5, -2.0), atol=0.005)
    assert len(find_directions(np.zeros((5, 2))).axes) == 1


def test_a_picture_that_the_vae_hardly_knows_is_named():
    image = np.random.default_rng(0).random((1, 8, 8, 3))
    flat = np.full_like(image, image.mean())
    np.testing.assert_allclose(lost(image, image), 0)
    np.testing.assert_allclose(lost(image, flat), 1, rtol=0.01)  # the floor of the variance
    usual = np.linspace(0.1, 0.5, 101)
    assert describe_loss(0.49, usual) == ""
    assert "unlike the training images" in describe_loss(0.6, usual) and "60%" in describe_loss(0.6, usual)


def test_a_position_changes_x_hat_and_the_seed_changes_only_the_refined_image(explorer):
    a = explorer.own
    b, c = replace(a, seed=1), replace(a, position=(2.0, *a.position[1:]))
    assert pixels(explorer.refined(a)).shape == (16, 16, 3)
    assert explorer.x_hat(a) == explorer.x_hat(b) != explorer.x_hat(c)
    assert len({explorer.refined(state) for state in (a, b, c)}) == 3


def test_a_picture_is_that_of_the_model(explorer):
    shown = replace(explorer.own, seed=3, position=(0.5,) * len(explorer.own.position), steps=2, sampler="ddim")
    z = explorer.directions.mean + 0.5 * explorer.directions.axes.sum(axis=0)
    samples = explorer.model.sample(1, 3, z=z, chain=explorer.chain(shown))
    for png, image in ((explorer.refined(shown), samples.images[0]), (explorer.x_hat(shown), samples.x_hat[0])):
        assert np.abs(pixels(png) / 255 - image).max() < 0.51 / 255 + 1e-4


def test_a_warm_start_begins_at_the_step_of_the_configuration_or_of_the_rule(explorer):
    config = tiny_config(**{"sample.start": "noise", "sample.t_start": 500})
    rule = drawing.Explorer(explorer.model, explorer.images, make_chain(config.sample))
    warm = replace(rule.own, start="warm")
    expected = explorer.model.chain(make_chain(config.sample), start="warm", t_start=0)
    variance = explorer.model.error_variance(explorer.images)
    assert rule.chain(warm).t_start == expected.with_t_start(explorer.model.schedule, lambda: variance).t_start
    assert explorer.chain(replace(explorer.own, steps=3)).t_start == 700
    asked = drawing.Explorer(explorer.model, explorer.images, replace(expected, steps=3))
    assert asked.chain(asked.own).t_start == rule.chain(replace(warm, steps=3)).t_start


def test_presets_are_what_the_weights_allow(explorer):
    assert list(explorer.presets) == ["As configured", "Fast", "Good", "From noise"]
    assert explorer.presets["As configured"] == explorer.own
    assert "consistency" not in explorer.allowed.samplers and "tuned" not in explorer.allowed.samplers
    late = replace(explorer.chain(explorer.own), t_start=3)  # has four steps
    assert list(drawing.Explorer(explorer.model, explorer.images, late).presets) == [
        "As configured",
        "Fast",
        "From noise",
    ]


def test_a_z_beyond_the_sliders_is_named_and_one_at_their_ends_is_not():
    directions = find_directions(np.random.default_rng(0).normal(size=(200, 3)))
    end = directions.z((LIMIT, -LIMIT, 0.0))
    beyond = directions.z((LIMIT + 1, 0.0, 0.0))
    assert directions.describe_place(end) == "" and "beyond" in directions.describe_place(beyond)
    assert directions.position(beyond)[0] == LIMIT


def test_a_tuned_refiner_is_offered_only_what_suits_it(explorer):
    """Its configuration may have the chain of the refiner that it began from."""
    changes = {"objective": "consistency", "prediction": "residual", "sigma_r": 0.3, "sigma_data": 0.6}
    config = tiny_config(**{f"ddpm.{name}": value for name, value in changes.items()})
    params = explorer.model.params
    tuned = drawing.Explorer(VAEDM(config, params["vae"], params["ddpm"]), explorer.images, make_chain(config.sample))
    assert tuned.allowed.samplers == ("consistency",)
    assert {state.sampler for state in tuned.presets.values()} == {"consistency"}
    chain = tuned.chain(tuned.own)
    assert (chain.spacing, chain.start, chain.t_start) == ("open", "warm", 900)


def test_mixing_and_arithmetic_are_those_of_z(explorer):
    k = len(explorer.own.position)
    positions = np.random.default_rng(0).uniform(-1, 1, (3, k)).round(2).tolist()
    a, b, c = (replace(explorer.own, position=tuple(position)) for position in positions)
    za, zb, zc = (explorer.directions.z(s.position) for s in (a, b, c))
    assert explorer.between(a, b, 0.0, "linear") == a.position and explorer.between(a, b, 1.0, "linear") == b.position
    np.testing.assert_allclose(explorer.combine(a, b, c), explorer.directions.position(za - zb + zc), atol=1e-9)
    cosine = za @ zb / np.linalg.norm(za) / np.linalg.norm(zb)
    middle = explorer.directions.position((za + zb) / np.sqrt(2 + 2 * cosine))
    np.testing.assert_allclose(explorer.between(a, b, 0.5, "spherical"), middle, atol=0.011)
    with pytest.raises(UserError, match="place = 2"):
        explorer.between(a, b, 2.0, "linear")


def test_a_saved_file_gives_the_same_picture(explorer, tmp_path):
    saved = replace(explorer.own, seed=5, position=explorer.draw_z(1))
    text = explorer.to_file(saved)
    (tmp_path / "a.json").write_text(text)
    assert explorer.from_file(tmp_path / "a.json") == (saved, "")
    png = base64.b64decode(json.loads(text)["image"].removeprefix("data:image/png;base64,"))
    assert png == explorer.refined(saved)
    (tmp_path / "a.json").write_text(json.dumps(json.loads(text) | {"model": "another"}))
    assert explorer.from_file(tmp_path / "a.json") == (saved, drawing.OTHER)
    chain = json.loads(text)["chain"]
    assert Chain(**chain) == explorer.chain(saved)
    (tmp_path / "a.json").write_text(json.dumps(json.loads(text) | {"chain": chain | {"spacing": "karras", "b": 1}}))
    assert explorer.from_file(tmp_path / "a.json") == (saved, drawing.OTHER_CHAIN.format("spacing"))
    (tmp_path / "a.json").write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "chain"}))
    assert explorer.from_file(tmp_path / "a.json") == (saved, "")


def test_an_address_of_another_model_of_other_images_or_of_other_settings_is_named(explorer):
    """A browser also keeps the images of an address, so those of other settings need another address."""
    query, chain = explorer.to_query(explorer.own), explorer.chain(explorer.own)
    assert explorer.from_query(query, explorer.own) == (explorer.own, "")
    other = drawing.Explorer(explorer.model, explorer.images[::-1], chain)
    assert other.from_query(query, other.own)[1] == drawing.OTHER
    changed = drawing.Explorer(explorer.model, explorer.images, replace(chain, temperature=0.5))
    assert changed.from_query(query, changed.own)[1] == drawing.OTHER
    same = drawing.Explorer(explorer.model, explorer.images, replace(chain, steps=3, sampler="ddim"))
    assert same.from_query(query, same.own)[1] == ""


def test_a_picture_is_found_among_the_directions(explorer, tmp_path):
    noise(16).save(tmp_path / "a.png")
    position, _ = explorer.find(str(tmp_path / "a.png"))
    z = explorer.model.encode(np.asarray(noise(16))[None])[0] - explorer.directions.mean
    axes = explorer.directions.axes
    expected = np.clip(axes @ z / np.sum(axes**2, axis=1), -state.LIMIT, state.LIMIT)
    np.testing.assert_allclose(position, expected, atol=0.0051)


def test_pictures_are_restored(explorer, tmp_path):
    noise(8).save(tmp_path / "a.png")
    assert pixels(explorer.restore(str(tmp_path / "a.png"), "super", 2, 0.1)).shape == (16, 16, 3)
    assert pixels(explorer.restore(str(tmp_path / "a.png"), "denoise", 2, 0.1)).shape == (8, 8, 3)


def test_a_file_that_is_no_picture_or_too_large_is_refused_before_it_is_decoded(explorer, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    Image.new("L", (300, 300)).save(tmp_path / "large.png")
    for name, words in (("text.png", "cannot be read"), ("large.png", "600 x 600")):
        with pytest.raises(UserError, match=words):
            explorer.restore(str(tmp_path / name), "super", 2, 0.1)
    for name, words in (("bomb.png", "20000 x 20000"), ("huge.png", "5000 x 5000")):
        with pytest.raises(UserError, match=words):
            explorer.find(str(tmp_path / name))
    with pytest.raises(UserError, match="drop a picture"):
        explorer.find(None)


def test_every_action_arrives_at_a_state_that_the_controls_show(explorer, tmp_path):
    actions = Actions(explorer)
    controls = actions.controls(explorer.own)
    *shown, slots, _ = actions.open("")
    history = shown[0]
    assert actions.state(shown[5:]) == slots[0] == history.now and any(slots[0].position)
    noise(16).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(actions.save(*controls))
    arrived = {
        "random": actions.random(history, *controls),
        "renew": actions.renew(history, *controls),
        "preset": actions.choose("Fast", history, *controls),
        "picture": actions.find(str(tmp_path / "a.png"), history, *controls),
        "file": actions.load(str(tmp_path / "a.json"), history),
        "combine": actions.combine(slots, history, *controls),
    }
    for name, (after, strip, query, *_) in arrived.items():
        assert explorer.from_query(query, explorer.own)[0] == after.now != history.now, name
        assert strip.count("<li>") == 2 and strip.count("aria-current") == 1, name
    assert arrived["preset"][3] == "Fast" and arrived["renew"][0].now.seed == 1
    undone = actions.undo(arrived["random"][0], *controls)
    assert actions.state(undone[5:]) == history.now
    assert actions.visit(undone[0], 1)[0].now == arrived["random"][0].now
    with pytest.raises(UserError, match="picture 3"):
        actions.visit(undone[0], 2)


def test_a_wrong_address_opens_a_random_picture_and_says_why(explorer):
    history, *_ = shown = Actions(explorer).open("seed=x")
    assert "the address: seed = &#x27;x&#x27;" in shown[4] and any(history.now.position)


def test_texts_of_others_are_escaped_on_the_page(explorer):
    shown = Actions(explorer).open("sampler=<script>")
    assert "<script>" not in "".join(text for text in shown if isinstance(text, str))


def test_the_page_is_served_only_to_this_machine_by_default():
    assert tiny_config().explore.host == "127.0.0.1"


def test_samples_take_the_place_of_training_images_that_are_elsewhere(explorer, capsys):
    config, model = tiny_config(**{"data.path": "/not/here"}), explorer.model.with_precision("float32", "float32")
    model.config.data.path = "/not/here"
    assert explore.known_images(config, model).shape == (explore.STAND_INS, 16, 16, 3)
    assert "take the place" in capsys.readouterr().out
    config.sample.start, config.sample.t_start = "warm", 0  # found from training images
    assert explore.known_images(config, model).shape == (explore.STAND_INS, 16, 16, 3)
    with pytest.raises(UserError, match="elsewhere"):
        explore.known_images(tiny_config(**{"data.path": "/elsewhere"}), model)
