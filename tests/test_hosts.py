"""Several processes train, sample and evaluate as one does. If one ends, the others end too; a restart continues."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from tests.processes import PATIENCE, ROOT, ended, lines, start, wait_for, weights
from tests.tiny import random_params, tiny_config
from tests.toy import fitted
from tests.xla import quick_xla
from vaedm_jax import VAEDM
from vaedm_jax.errors import UserError
from vaedm_jax.main import main
from vaedm_jax.reporting import read_metrics
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import host_share
from vaedm_jax.training.stages import ddpm_stage

LONG = ("--config.vae.steps=4", "--config.ddpm.steps=20", "--config.log.every=2", "--config.log.pictures=10")
LONG += ("--config.checkpoint.every=6", "--config.mesh.fsdp=True", "--config.checkpoint.best=held_out_loss")


def place() -> str:
    """Return an address at which processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def pair(workdir: Path, *arguments: str) -> list:
    """Start one command in two processes."""
    where = place()
    return [start(workdir, *arguments, f"--distributed={k}/2@{where}") for k in range(2)]


@pytest.fixture(scope="module", name="whole")
def whole_fixture(tmp_path_factory):
    """Train in one process with two devices, and return the run directory."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    ended(start(workdir, *LONG, env=os.environ | quick_xla(2)))
    return workdir


@pytest.fixture(scope="module", name="shared")
def shared_fixture(tmp_path_factory):
    """Train in two processes until one is asked to stop, in two until one is killed, and then in one to the end."""
    workdir = tmp_path_factory.mktemp("runs") / "shared"
    first, second = pair(workdir, *LONG)
    wait_for(first, lambda: lines(workdir) >= 4)  # of 12
    second.send_signal(signal.SIGTERM)
    said = [ended(process, 143) for process in (first, second)]
    saved = [re.search(r"SIGTERM: saved ddpm at step (\d+)", s)[1] for s in said]
    assert saved[0] == saved[1]

    first, second = pair(workdir, *LONG)
    wait_for(first, lambda: lines(workdir) >= 8)
    second.kill()
    assert "another process has probably ended" in ended(first, os.EX_TEMPFAIL)
    ended(second, -signal.SIGKILL)

    ended(start(workdir, *LONG, env=os.environ | quick_xla(2)))
    return workdir


def test_stopped_killed_and_continued_processes_train_as_one_undisturbed_process(whole, shared):
    for a, b in zip(weights(whole), weights(shared), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
    for stage in ("vae", "ddpm"):
        ours, theirs = ({m["step"]: m for m in read_metrics(run / stage)} for run in (shared, whole))
        assert ours.keys() >= theirs.keys()
        for step, figures in theirs.items():
            np.testing.assert_allclose(ours[step]["loss"], figures["loss"], rtol=1e-4)


def test_only_one_process_writes_files_and_they_are_whole(whole, shared):
    names = [
        {str(p.relative_to(run)) for p in run.rglob("*") if p.suffix in (".json", ".png", ".txt", ".html", ".jsonl")}
        for run in (whole, shared)
    ]
    assert names[0] <= names[1]
    assert not list(shared.rglob("*.part")) and len(list((shared / "ddpm" / "tb").iterdir())) == 3  # one for each start


def test_a_checkpoint_of_two_processes_is_continued_by_four(tmp_path):
    for n, steps in ((2, 3), (4, 6)):
        where = place()
        command = [sys.executable, "-m", "tests.toy", str(tmp_path / "parts"), str(steps), "True"]
        environment = os.environ | quick_xla()
        processes = [subprocess.Popen([*command, f"{k}/{n}@{where}"], cwd=ROOT, env=environment) for k in range(n)]
        assert [process.wait(PATIENCE) for process in processes] == [0] * n
    ours, theirs = fitted(tmp_path / "parts", 6), fitted(tmp_path / "whole", 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
    losses = [[m["loss"] for m in read_metrics(tmp_path / run / "ddpm")] for run in ("parts", "whole")]
    np.testing.assert_allclose(losses[0][-1], losses[1][-1], rtol=1e-5)


def test_samples_and_scores_of_two_processes_are_those_of_one(shared, capsys):
    sampling = ("--mode=sample", "--config.sample.n=10", "--config.sample.steps=2")
    scoring = ("--mode=evaluate", "--config.eval.n=20", "--config.eval.steps=2", "--config.eval.features=random")
    for command in (sampling, scoring):
        for process in pair(shared, *command):
            ended(process)
    file = shared / "samples" / "run_ddpm_noise_2_seed0.npz"
    of_two = np.load(file)["images"].astype(int)
    file.unlink()
    assert main(["main", f"--workdir={shared}", *sampling]) == 0
    assert np.abs(np.load(file)["images"] - of_two).max() <= 1
    capsys.readouterr()
    assert main(["main", f"--workdir={shared}", *scoring]) == 0
    assert "1 to score, 1 of them done" in capsys.readouterr().out


def test_images_and_x_hat_of_a_condition_are_the_same_from_two_processes_and_one(tmp_path):
    config = tiny_config(**{"ddpm.condition": "mask0.5"})
    VAEDM(config, {}, random_params(ddpm_stage(config, {}))).save(file := tmp_path / "tiny.safetensors")
    sampling = ("--mode=sample", f"--config.sample.weights={file}", "--config.sample.n=10")
    for process in pair(tmp_path / "two", *sampling):
        ended(process)
    assert main(["main", f"--workdir={tmp_path / 'one'}", *sampling]) == 0
    found = [np.load(tmp_path / run / "samples" / "tiny_ddpm_noise_2_seed0.npz") for run in ("one", "two")]
    for name in ("images", "x_hat"):
        one, two = (arrays[name].astype(int) for arrays in found)
        assert one.shape == (10, 16, 16, 3) and np.abs(one - two).max() <= 1


def test_processes_that_see_different_data_are_refused_before_anything_is_compiled(tmp_path):
    processes, where = [], place()
    for k in range(2):
        (tmp_path / str(k) / "pictures").mkdir(parents=True)
        for i in range(9):
            pixels = np.random.default_rng(i + k).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / str(k) / "pictures" / f"{i}.png")
        command = ("--config.data.path=pictures", f"--distributed={k}/2@{where}")
        processes.append(start(tmp_path / "run", *command, cwd=tmp_path / str(k)))
    for process in processes:
        assert "vaedm: process 1 of 2 sees other data than process 0" in ended(process, 2)
    assert not (tmp_path / "run").exists()


def test_the_first_process_waits_until_the_others_have_disconnected():
    code = (
        "import sys, time; from vaedm_jax.runtime import hosts\n"
        "hosts.join(sys.argv[1]); k = hosts.jax.process_index()\n"
        "hosts.wait_for_all('begin'); time.sleep(3 * k); hosts.disconnect(); print('left'); hosts.exit_process(143)"
    )
    where = place()
    commands = [[sys.executable, "-c", code, f"{k}/2@{where}"] for k in range(2)]
    how = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    for process in [subprocess.Popen(command, **how) for command in commands]:
        assert "left" in process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 143


@pytest.mark.parametrize(
    "spec", ["2/2@127.0.0.1:1", "0/2", "0/2@host", "two", "-1/2@host:1", "0/2@host:65536", "0/2@host:0"]
)
def test_a_malformed_name_of_a_process_is_refused(spec):
    with pytest.raises(UserError, match=r"it must be 'auto', or K/N@HOST:PORT with K < N, such as 0/2@10.0.0.1:1234"):
        hosts.join(spec)


def test_processes_that_cannot_meet_end_with_the_reason(monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of localhost is taken"):
            hosts.join(f"0/2@localhost:{port}")
    monkeypatch.setattr(hosts, "PATIENCE", 0.5)
    with pytest.raises(hosts.PeersMissing, match=f"process 0 does not listen at localhost:{port}") as alone:
        hosts.join(f"1/2@localhost:{port}")
    assert alone.value.status == os.EX_TEMPFAIL


@pytest.mark.parametrize(
    ("processes", "local", "model", "shares"),
    [
        (2, 4, 1, [(0, 2), (1, 2)]),
        (2, 4, 2, [(0, 2), (1, 2)]),
        (2, 1, 2, [(0, 1), (0, 1)]),
        (4, 1, 2, [(0, 2)] * 2 + [(1, 2)] * 2),
    ],
)
def test_every_process_feeds_the_part_of_a_batch_that_its_devices_hold(monkeypatch, processes, local, model, shares):
    devices = [SimpleNamespace(process_index=k) for k in range(processes) for _ in range(local)]
    mesh = SimpleNamespace(devices=np.array(devices).reshape(-1, model))
    for k, share in enumerate(shares):
        monkeypatch.setattr("jax.process_index", lambda k=k: k)
        assert host_share(mesh) == share
