"""The command line: what it does with good input, and its one line for every kind of bad input."""

import errno
import json
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config
from vaedm_jax import flags, rundir, train
from vaedm_jax.config import check
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.main import main
from vaedm_jax.training.checkpoints import Checkpoints
from vaedm_jax.training.loop import abstract_state
from vaedm_jax.training.mesh import make_mesh
from vaedm_jax.training.stages import ddpm_stage

ROOT = Path(__file__).parents[1]
TINY = """from tests.tiny import tiny_config
def get_config(variant="form1"):
    return tiny_config(variant)
"""


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Compiled programs are kept, but not where those of real runs are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A folder of configuration files: tiny.py, and some that are wrong."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "tiny.py").write_text(TINY)
    (folder / "syntax.py").write_text("def get_config():\n    return (\n")
    (folder / "without.py").write_text("config = 3\n")
    (folder / "raises.py").write_text("def get_config():\n    x = 1\n    return x / 0\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "nothing.py").write_text("def get_config():\n    pass\n")
    (folder / "own.py").write_text("from ml_collections import ConfigDict\nget_config = lambda: ConfigDict({'a': 1})\n")
    (folder / "typo.py").write_text(TINY.replace("return ", "c = ") + "    c.ddpm.batchsize = 3\n    return c\n")
    (folder / "type.py").write_text(TINY.replace("return ", "c = ") + "    c.ddpm.batch_size = 'x'\n    return c\n")
    (folder / "binary.py").write_bytes(b"\xff\x00\xfe")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run of a tiny unconditional DDPM, whose parameters are all 0: training takes too long here."""
    workdir, config = tmp_path_factory.mktemp("runs") / "trained", tiny_config("uncond")
    rundir.claim(workdir, config)
    shapes = abstract_state(ddpm_stage(config, {}), make_mesh())
    with closing(Checkpoints(workdir / "ddpm" / "checkpoints")) as checkpoints:
        checkpoints.save(jax.tree.map(lambda s: jax.device_put(np.zeros(s.shape, s.dtype), s.sharding), shapes))
    return workdir


@pytest.fixture
def run(tmp_path):
    """A directory that holds a run of the tiny configuration, as far as its files are looked at before training."""
    rundir.claim(tmp_path / "run", tiny_config())
    (tmp_path / "run" / "vae" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "vae" / "checkpoints" / "kept").write_bytes(b"precious")
    return tmp_path / "run"


@pytest.fixture
def untrained(monkeypatch):
    """Everything but the training itself happens; (stage, steps) of what should be trained are noted down."""
    asked = []

    def fit(stage, data, config, workdir, mesh, on_picture):
        asked.append((stage.name, stage.settings.steps))
        return SimpleNamespace(average={})

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "write_report", lambda workdir: None)
    return asked


def files(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, byte for byte; None for folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(tmp_path, configs, capsys):
    """Run a command, in which {tmp}, {run}, {new}, {configs} are folders, and expect a refusal with the words in it."""

    def refuse(arguments: str, *words: str, status: int = 2) -> None:
        folders = {"tmp": tmp_path, "run": tmp_path / "run", "new": tmp_path / "new", "configs": configs}
        before = files(tmp_path)
        assert main(["main", *shlex.split(arguments.format(**folders))]) == status
        printed = capsys.readouterr()
        assert printed.err.startswith("vaedm: ") and printed.err.count("\n") == 1, printed.err
        assert printed.out == ""
        for word in words:
            assert word.format(**folders) in printed.err
        assert files(tmp_path) == before

    return refuse


# ---- what the command line itself gets wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--config.ddpm.batchsize=3", ["--config.ddpm.batchsize", "no such setting", "--config.ddpm.batch_size?"]),
        ("--config.ddpm.batchsize 3", ["--config.ddpm.batchsize", "--config.ddpm.batch_size?"]),
        ("--config.foo.bar=1", ["--config.foo.bar", "no such setting", "vaedm_jax/config.py"]),
        ("--config.ddpm=1", ["--config.ddpm", "no such setting"]),
        ("--config.=1", ["no such setting"]),
        ("--config.ddpm.batch_size=abc", ["--config.ddpm.batch_size=abc", "a whole number, such as 8"]),
        ("--config.ddpm.batch_size abc", ["--config.ddpm.batch_size=abc", "a whole number, such as 8"]),
        ("--config.ddpm.batch_size=8.5", ["--config.ddpm.batch_size=8.5", "a whole number"]),
        ("--config.vae.learning_rate=fast", ["--config.vae.learning_rate=fast", "a number"]),
        ("--config.data.flip=maybe", ["--config.data.flip=maybe", "true or false"]),
        ("'--config.ddpm.multipliers=(1,'", ["--config.ddpm.multipliers=(1,", "tuple", "(1, 1)"]),
        ("--config.ddpm.multipliers=abc", ["ddpm.multipliers", "'abc'", "a whole number"]),
        ("--config.ddpm.multipliers=()", ["ddpm.multipliers", "at least one"]),
        ("--config.ddpm.batch_size", ["--config.ddpm.batch_size", "value"]),
        ("--stages=vae", ["--stages", "--stage?"]),
        ("--xyzzy=1", ["--xyzzy", "--help"]),
        ("--mode=trian", ["--mode=trian", "train", "sample"]),
        ("--stage=first", ["--stage=first", "vae", "ddpm", "all"]),
        ("--mode=sample --stage=vae", ["--stage=vae", "--mode=train"]),
        ("train", ["'train'", "--NAME=VALUE"]),
        ("-- train", ["'train'", "--NAME=VALUE"]),
        ("--flagfile={tmp}/none", ["{tmp}/none"]),
    ],
)
def test_a_mistaken_argument_is_named_with_what_would_be_right(refused, arguments, words):
    refused("--config={configs}/tiny.py --workdir={new} " + arguments, *words)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tiny.py:form3", ["tiny.py:form3", "variant = 'form3'", "uncond, form1, form2"]),
        ("none.py", ["no file", "none.py"]),
        ("", ["no file"]),
        ("syntax.py", ["syntax.py, line 2", "SyntaxError", "never closed"]),
        ("without.py", ["without.py", "get_config"]),
        ("raises.py", ["raises.py, line 3", "ZeroDivisionError", "division by zero"]),
        ("raises.py:form1", ["raises.py", "get_config", "argument"]),
        ("exits.py", ["exits.py, line 2", "SystemExit"]),
        ("nothing.py", ["nothing.py", "base_config"]),
        ("own.py", ["own.py", "base_config"]),
        ("typo.py", ["typo.py, line 4", "batchsize", "batch_size"]),
        ("type.py", ["type.py, line 4", "batch_size", "int"]),
        ("binary.py", ["binary.py"]),
    ],
)
def test_a_configuration_file_that_fails_is_named_with_the_line(refused, spec, words):
    refused("--workdir={new} --config={configs}/" + spec, *words)


def test_a_missing_work_directory_is_asked_for(refused):
    refused("--config={configs}/tiny.py", "--workdir=DIR is missing")
    refused("--config={configs}/tiny.py --workdr={new}", "--workdr", "--workdir?")
    refused("--config={configs}/tiny.py --workdir", "--workdir", "value")


@pytest.mark.parametrize("mode", ["train", "sample"])
def test_a_work_directory_that_is_a_file_is_refused(refused, tmp_path, mode):
    (tmp_path / "file").write_text("mine")
    refused("--config={configs}/tiny.py --workdir={tmp}/file --mode=" + mode, "{tmp}/file is a file", "folder")
    refused("--config={configs}/tiny.py --workdir={tmp}/file/below --mode=" + mode, "{tmp}/file is a file")


def test_help_prints_the_flags_and_succeeds(capsys):
    assert main(["main", "--help"]) == 0
    printed = capsys.readouterr()
    assert all(flag in printed.out for flag in ("--config", "--workdir", "--mode", "--stage")) and not printed.err


@pytest.mark.parametrize(
    "form",
    ["--config={} --workdir={}", "--config {} --workdir {}", "-config={} -workdir={}", "-config {} -workdir {}"],
)
def test_every_form_of_a_flag_is_understood(tmp_path, configs, untrained, form):
    arguments = form.format(configs / "tiny.py", tmp_path / "new") + " --config.ddpm.steps=3 -config.vae.steps 4"
    assert main(["main", "--config.seed=7", *arguments.split(), "--config.data.flip", "--mode=train"]) == 0
    assert untrained == [("vae", 4), ("ddpm", 3)]
    config = rundir.read_config(tmp_path / "new")
    assert config.seed == 7 and config.data.flip


def test_the_process_exits_with_the_status_and_one_line(tmp_path):
    command = [sys.executable, "-m", "vaedm_jax.main", "--config=configs/emoji.py", f"--workdir={tmp_path}/new"]
    done = subprocess.run([*command, "--config.ddpm.batch=3"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("vaedm: --config.ddpm.batch: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_ctrl_c_before_training_leaves_no_traceback_and_no_directory(refused, monkeypatch):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load", interrupt)
    refused("--config={configs}/tiny.py --workdir={new}", "interrupted", status=130)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "disk/file"), 1, ["disk/file", "No space left", "free some"]),
        (PermissionError(errno.EACCES, "Permission denied", "disk/file"), 2, ["disk/file", "Permission denied"]),
    ],
)
def test_a_disk_that_refuses_is_named_without_a_traceback(refused, monkeypatch, error, status, words):
    def fail(config):
        raise error

    monkeypatch.setattr(train, "load", fail)
    refused("--config={configs}/tiny.py --workdir={new}", *words, status=status)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=lambda file: file.stem)
@pytest.mark.parametrize("variant", FORMULATIONS)
def test_the_configurations_that_come_along_are_accepted(file, variant):
    config = flags.load(f"{file}:{variant}")
    check(config)
    assert config.ddpm.variant == variant


# ---- settings that cannot be


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--config.ddpm.microbatches=3", ["ddpm.batch_size = 8", "devices (8)", "microbatches (3)", "such as 24"]),
        ("--config.vae.batch_size=12", ["vae.batch_size = 12", "devices (8)", "such as 16"]),
        ("--config.ddpm.batch_size=0", ["ddpm.batch_size = 0", "1 or more"]),
        ("--config.ddpm.steps=-5", ["ddpm.steps = -5", "0 or more"]),
        ("--config.vae.steps=0 --config.vae.epochs=0", ["vae.steps and vae.epochs"]),
        ("--config.vae.learning_rate=nan", ["vae.learning_rate = nan", "0.0 or more"]),
        ("--config.ddpm.dropout=2", ["ddpm.dropout = 2", "from 0.0 to 1.0"]),
        ("--config.ddpm.T=0", ["ddpm.T = 0", "1 or more"]),
        ("--config.ddpm.beta_1=0", ["ddpm.beta_1 = 0"]),
        ("--config.seed=-1", ["seed = -1"]),
        ("--config.ddpm.ema_schedule=linear", ["ddpm.ema_schedule = 'linear'", "constant, byol"]),
        ("--config.checkpoint.keep=0", ["checkpoint.keep = 0", "1 or more"]),
        ("--config.log.images=0", ["log.images = 0", "1 or more"]),
        ("--config.sample.n=0", ["sample.n = 0", "1 or more"]),
        ("--config.sample.sampler=euler", ["sample.sampler = 'euler'", "ddpm, ddim"]),
        ("--config.sample.steps=75 --config.sample.spacing=uniform", ["75 steps", "72 and 77", "'even'"]),
        ("--config.sample.steps=1001", ["1001 steps", "from 1 to 1000"]),
        ("--config.sample.start=warm --config.sample.t_start=1000", ["t_start = 1000", "999"]),
        ("--config.log.sample_steps=2000", ["log.sample_steps", "2000 steps", "1000"]),
        ("--config.data.image_size=32", ["block string", "16x16", "32x32"]),
        ("--config.vae.enc_block=16d4", ["block string '16d4'", "ends at 4x4"]),
        ("--config.data.image_size=12", ["data.image_size = 12", "multiple of 8"]),
        ("--config.ddpm.patch=3", ["data.image_size = 16", "multiple of 6"]),
        ("--config.ddpm.channels=33", ["width of 33"]),
        ("--config.data.category=Robots", ["Robots", "People & Body"]),
        ("--config.vae.batch_size=8000", ["too few", "vae.batch_size = 8000"]),
        ("--config.data.path={tmp}/none", ["{tmp}/none"]),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_made(refused, arguments, words):
    refused("--config={configs}/tiny.py --workdir={new} " + arguments, *words)


def test_the_unconditional_model_has_no_vae_stage(refused):
    refused("--config={configs}/tiny.py:uncond --workdir={new} --stage=vae", "--stage=vae", "form1 or form2")
    refused("--config={configs}/tiny.py:uncond --workdir={new} --config.sample.start=warm", "sample.start", "form1")


def test_a_folder_that_cannot_be_trained_on_is_refused_naming_the_file(refused, tmp_path):
    command = "--config={configs}/tiny.py --workdir={new} --config.data.category= --config.data.path={tmp}/images"
    folder = tmp_path / "images"
    folder.mkdir()
    refused(command, "{tmp}/images holds no images")
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.jpg")
    refused(command, "too few", "batch_size = 8")
    whole = (folder / "0.jpg").read_bytes()
    (folder / "0.jpg").write_bytes(whole[: len(whole) // 2])
    refused(command, "{tmp}/images/0.jpg", "truncated")
    (folder / "0.jpg").write_bytes(whole)
    (folder / "notes.png").write_text("no picture")
    refused(command, "{tmp}/images/notes.png", "repair or remove")


# ---- directories of runs


def test_a_vae_of_another_run_must_be_there_and_fit(refused, run):
    command = "--config={configs}/tiny.py --workdir={new} --config.vae.checkpoint="
    refused(command + "{tmp}/none", "{tmp}/none", "does not exist")
    refused(command + "{configs}", "{configs} holds no run")
    refused(command + "{run} --config.vae.channels=16:16,4:16,1:4", "{run}", "another architecture", "vae.channels")
    for file in sorted((run / "vae").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    refused(command + "{run}", "{run}", "no trained VAE")


@pytest.mark.parametrize("mode", ["train", "sample"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--config.ddpm.channels=64", "ddpm.channels was 32, is now 64"),
        ("--config.ddpm.multipliers=(1,2)", "ddpm.multipliers was (1, 1), is now (1, 2)"),
        ("--config.vae.channels=16:16,4:16,1:4", "vae.channels was '16:8,4:8,1:4', is now '16:16,4:16,1:4'"),
        ("--config.data.category=Objects", "data.category was 'Activities', is now 'Objects'"),
        ("--config.ddpm.T=500", "ddpm.T was 1000, is now 500"),
        ("--config.ddpm.variant=form2", "ddpm.variant was 'form1', is now 'form2'"),
        ("--config.seed=1", "seed was 0, is now 1"),
        ("--config.ddpm.ema_decay=0", "ddpm.ema_decay was 0.9999, is now 0.0"),
    ],
)
def test_a_directory_refuses_another_run_naming_the_settings(refused, run, mode, change, words):
    refused(f"--config={{configs}}/tiny.py --workdir={{run}} --mode={mode} {change}", "{run} holds another run", words)
    refused(f"--workdir={{run}} --mode={mode} {change}", "{run} holds another run", words)


def test_many_differences_are_counted(refused, run):
    changes = " ".join(f"--config.{name}=2" for name in ("seed", "ddpm.blocks", "ddpm.heads", "ddpm.patch", "ddpm.T"))
    refused("--workdir={run} --config.log.sample_steps=1 " + changes, "ddpm.T was 1000", "and 1 more")


def test_a_run_may_be_longer_and_logged_and_sampled_in_other_ways(run, configs, untrained, capsys):
    free = "--config.ddpm.steps=9 --config.log.every=1 --config.checkpoint.keep=3 --config.sample.sampler=ddim"
    tuned = "--config.ddpm.learning_rate=0.001 --config.ddpm.ema_decay=0.99"
    command = ["main", f"--config={configs}/tiny.py", f"--workdir={run}", *free.split(), *tuned.split()]
    assert main(command) == 0
    assert untrained == [("vae", 6), ("ddpm", 9)]
    noted = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert noted == [
        "note: ddpm.ema_decay was 0.9999, from here on it is 0.99",
        "note: ddpm.learning_rate was 0.0002, from here on it is 0.001",
    ]
    assert rundir.read_config(run).sample.sampler == "ddim"
    assert (run / "vae" / "checkpoints" / "kept").read_bytes() == b"precious"


def test_a_run_goes_on_by_its_own_configuration(run, untrained):
    assert main(["main", f"--workdir={run}", "--stage=vae"]) == 0
    assert untrained == [("vae", 6)]
    assert rundir.read_config(run) == tiny_config()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"ddpm": {"variant": "fo',
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b'{"ddpm": {"variant": "form9"}}',
        b'{"ddpm": {"variant": ["form1"]}}',
        b'{"ddpm": {"variant": "form1", "T": "many"}}',
        b'{"ddpm": {"variant": "form1", "unheard_of": 1}}',
    ],
)
def test_a_torn_or_foreign_config_json_is_refused_and_kept(refused, run, content):
    (run / "config.json").write_bytes(content)
    for mode in ("--config={configs}/tiny.py", "--mode=train", "--mode=sample"):
        refused("--workdir={run} " + mode, "{run}/config.json is not the configuration of a run")


def test_settings_newer_than_a_run_have_their_defaults(run):
    stored = json.loads((run / "config.json").read_text())
    del stored["ddpm"]["scale_shift"], stored["log"]
    (run / "config.json").write_text(json.dumps(stored))
    config = rundir.read_config(run)
    assert config.ddpm.scale_shift is False and config.log.every == 50 and config.ddpm.channels == 32


# ---- sampling


@pytest.mark.parametrize("folder", ["{new}", "{tmp}"])
@pytest.mark.parametrize("config", ["", "--config={configs}/tiny.py "])
def test_sampling_needs_a_run(refused, folder, config):
    refused(config + "--mode=sample --workdir=" + folder, folder, "--mode=train")


def test_sampling_a_run_that_is_not_trained_yet_is_refused(refused, run):
    for kept in (run / "vae" / "checkpoints").iterdir():
        kept.unlink()
    refused("--mode=sample --workdir={run}", "{run}", "no trained VAE", "--mode=train")


def test_weights_that_cannot_be_read_are_refused(refused, run):
    command = "--config={configs}/tiny.py --mode=sample --workdir={new} --config.sample.weights="
    refused(command + "{tmp}/none.safetensors", "none.safetensors", "no such file")
    refused(command + "nonesuch", "nonesuch", "no such file")
    refused(command + "{run}/config.json", "{run}/config.json", "VAEDM.save")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--config.sample.n=0", ["sample.n = 0"]),
        ("--config.sample.batch_size=0", ["sample.batch_size = 0"]),
        ("--config.sample.steps=-1", ["sample.steps = -1"]),
        ("--config.sample.steps=75 --config.sample.spacing=uniform", ["75 steps", "72 and 77"]),
        ("--config.sample.start=warm", ["sample.start", "form1"]),
    ],
)
def test_samples_that_cannot_be_are_refused(trained, capsys, arguments, words):
    before = files(trained)
    assert main(["main", f"--workdir={trained}", "--mode=sample", *arguments.split()]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and all(word in printed for word in words)
    assert files(trained) == before


def test_sampling_takes_the_configuration_of_the_run_and_overrides(trained):
    options = ["--config.sample.steps=3", "--config.sample.n=2", "--config.sample.seed=5"]
    assert main(["main", f"--workdir={trained}", "--mode=sample", *options]) == 0
    with np.load(trained / "samples" / "run_ddpm_noise_3_seed5.npz", allow_pickle=False) as arrays:
        assert arrays["images"].shape == (2, 16, 16, 3)
    assert rundir.read_config(trained).sample.steps == 2
