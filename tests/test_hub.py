"""A model is written to the Hub and read from it, against a server of its protocol on this machine."""

import re
import threading

import jax
import numpy as np
import pytest

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.hub_server import Hub
from tests.tiny import random_params, tiny_config
from vaedm_jax import VAEDM, UserError
from vaedm_jax.config.trust import find_risk
from vaedm_jax.main import main
from vaedm_jax.runs.card import read_scores, scores_table
from vaedm_jax.runs.rundir import differences
from vaedm_jax.training.stages import ddpm_stage, vae_stage

constants = pytest.importorskip("huggingface_hub.constants", reason="an extra: pip install huggingface-hub")

SCORES = {
    "run": "run", "sampler": "ddim", "start": "noise", "steps": 10, "nfe": 10, "n": 500, "kid_random": 0.251,
    "fd_random": 1.5, "precision_random": 0.7, "recall_random": 0.625, "kid_error_random": 0.01, "fd_bias_random": 0.2,
}  # fmt: skip


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()


@pytest.fixture(scope="module", name="model")
def model_fixture():
    config = tiny_config()
    with config.unlocked():
        config.data.path = "/home/me/private pictures"
        config.sample.prior = "/home/me/private prior.npz"
    vae, sides = random_params(vae_stage(config)), {"image_size": 16, "content": "-"}
    images = {"train": {"images": 4500, **sides}, "held_out": {"images": 10, **sides}, "files": "-", "folder": "-"}
    return VAEDM(config, vae, random_params(ddpm_stage(config, vae)), images=images)


def test_a_model_comes_back_as_it_was_pushed_with_card_and_samples(hub, model, tmp_path):
    (tmp_path / "evaluation.csv").write_text("\n".join(",".join(map(str, of)) for of in (SCORES, SCORES.values())))
    place = model.push_to_hub("user/faces", evaluation=tmp_path / "evaluation.csv", licence="cc0-1.0")
    assert place == f"{hub.address}/user/faces"
    files = hub.repositories["user/faces"]["main"]
    assert files.keys() == {"README.md", "model.safetensors", "samples.png"}
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: vaedm_jax\n") and "license: cc0-1.0\n---\n\n# faces\n" in card
    assert 'VAEDM.from_pretrained("user/faces")' in card and "16 x 16 pixels" in card and "private" not in card
    assert f"| VAE | {sum(a.size for a in jax.tree.leaves(model.params['vae'])):,} | 6 steps, batches of 8 |" in card
    assert "**Data.** A folder of pictures, 4,500 to train on and 10 held out.\n" in card
    assert "KID, `random` | FD, `random` | precision, `random` | recall, `random` |" in card
    assert "| `ddim` | noise | 10 | 500 | 0.251 | 1.5 | 0.7 | 0.625 |" in card
    assert files["samples.png"].startswith(b"\x89PNG")

    back = VAEDM.from_pretrained("user/faces")
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    published = {"data.path": "training-images", "sample.prior": ""}
    assert {key: new for key, (new, _) in differences(back.config, model.config, allowed=()).items()} == published
    assert b"private" not in files["model.safetensors"]


def test_the_card_of_a_refiner_with_a_condition_says_how_to_restore_images(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny_config(**{"ddpm.condition": "grayscale"})
    VAEDM(config, {}, random_params(ddpm_stage(config, {}))).push_to_hub("user/colours")
    files = hub.repositories["user/colours"]["main"]
    assert files.keys() == {"README.md", "model.safetensors"}
    card = files["README.md"].decode()
    assert "pipeline_tag: image-to-image\n" in card and "what `grayscale` leaves of an image" in card
    assert "| VAE |" not in card and "samples](" not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(code, {"images": np.zeros((2, 16, 16, 3), np.uint8)})
    assert (tmp_path / "restored.png").exists()


def test_a_card_has_all_scores_of_a_space_with_any_name():
    names = {"kid": "kid_body", "kid_error": "kid_error_body", "fd": "fd_body", "fd_bias": "fd_bias_body"}
    row = {"sampler": "ddim", "start": "noise", "nfe": "5", "n": "9"} | dict.fromkeys(names.values(), "0.5")
    assert "| samples | KID, `body` | FD, `body` |\n" in scores_table([row])


def test_a_table_with_the_scores_of_several_models_names_them():
    rows = [{name: str(value) for name, value in SCORES.items()} | {"run": run} for run in ("mine", "plain")]
    table = scores_table(rows)
    assert "| model | sampler | start |" in table and "| --- | --- | --- | ---: | ---: |" in table
    assert "| mine | `ddim` | noise | 10 | 500 |" in table and "| plain | `ddim` | noise | 10 | 500 |" in table
    assert "training images" not in table, "the table does not say which split they are compared with"


def test_a_table_whose_scores_are_no_numbers_is_refused(tmp_path):
    (tmp_path / "evaluation.csv").write_text("sampler,start,nfe,n,kid_body\nddim,noise,5,9,good\n")
    with pytest.raises(UserError, match=r"evaluation\.csv: kid_body = 'good' is not a number"):
        read_scores(tmp_path / "evaluation.csv")


def test_the_command_line_samples_it_and_without_a_network_takes_the_cache(hub, model, tmp_path, monkeypatch, capsys):
    model.push_to_hub("user/faces")
    sampling = ["main", "--mode=sample", "--config.sample.weights=hub:user/faces", "--config.sample.n=1"]
    sampling += ["--config.sample.nearest=False"]
    assert main([*sampling, f"--workdir={tmp_path / 'online'}"]) == 0
    hub.shutdown()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main([*sampling, f"--workdir={tmp_path / 'offline'}"]) == 0
    images = [next(tmp_path.glob(f"{run}/samples/*.png")).read_bytes() for run in ("online", "offline")]
    assert images[0] == images[1] and "weights 'hub:user/faces'" in capsys.readouterr().out


def test_a_revision_is_fetched_and_a_damaged_file_is_refused(hub, model, tmp_path):
    model.push_to_hub("user/faces")
    (commit,) = set(hub.repositories["user/faces"]) - {"main"}
    VAEDM.from_pretrained("user/faces", revision=commit)
    (blob,) = (tmp_path / "cache").glob("models--user--faces/blobs/*")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(UserError, match="is not the file that the Hub has; remove it"):
        VAEDM.from_pretrained("user/faces", revision=commit)


def test_what_is_not_there_or_not_a_model_is_refused_in_one_line(hub, model, tmp_path, refused, monkeypatch):
    hub.repositories["user/other"] = {"main": {"README.md": b"-"}, "c" * 40: {"README.md": b"-"}}
    for name, word in (
        ("user/nothing", "there is no such repository"),
        ("user/other", "has no model.safetensors"),
        ("user/other@v2", "no such revision"),
    ):
        with pytest.raises(UserError, match=f"hub:{name}: .*{word}"):
            VAEDM.from_pretrained(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hub:user/away: it is not in the cache, and the Hub cannot be reached"):
        VAEDM.from_pretrained("user/away")
    refused("--mode=sample --workdir={new} --config.sample.weights=hub:faces", "hub:faces: give hub:USER/MODEL")
    with pytest.raises(UserError, match="faces: give USER/MODEL"):
        model.push_to_hub("faces")
    for text in ("a,b\n1,2\n", "sampler,start,nfe,n\n" + "a" * 200_000):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(UserError, match=r"other\.csv is not an evaluation\.csv"):
            model.push_to_hub("user/faces", evaluation=tmp_path / "other.csv")


def test_a_file_may_not_name_a_model_of_the_hub():
    assert find_risk("sample.weights", "hub:user/faces") and find_risk("eval.runs", "runs/a, hub:user/faces")
    assert not find_risk("sample.weights", "runs/hub")
