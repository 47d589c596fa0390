"""Checkpoints are restored exactly, damaged ones are skipped, and a failed write keeps the existing ones."""

import errno
import json
import logging
import os
import resource
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli_fixtures import ROOT
from tests.tiny import tiny_config
from vaedm_jax.errors import RunError, UserError
from vaedm_jax.runtime.mesh import make_mesh, replicated
from vaedm_jax.training.checkpoints import Checkpoints
from vaedm_jax.training.state import create_state


def state_at(step: int, width: int = 64):
    """Return a train state whose arrays are noise. The step is the seed."""
    params = {"w": jnp.zeros((width, 64)), "b": jnp.zeros(64)}
    state = create_state(params, tiny_config().ddpm)
    rng = np.random.default_rng(step)
    noisy = jax.tree.map(lambda a: np.asarray(rng.normal(size=a.shape), a.dtype), state)
    return jax.device_put(noisy.replace(step=np.int32(step)), replicated(make_mesh()))


def assert_same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def written(folder: Path, *steps: int) -> Path:
    with closing(Checkpoints(folder, keep=5)) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step))
    return folder


def restored(folder: Path):
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore(state_at(0))


def arrays_of(step: Path) -> list[Path]:
    """Return the files that hold a checkpoint's arrays. Orbax may write an array more than once."""
    return [p for p in step.rglob("*") if p.is_file() and p.stat().st_size > 10_000]


def test_the_newest_state_is_restored_exactly_and_only_the_newest_are_kept(tmp_path):
    with closing(Checkpoints(tmp_path / "c", keep=2)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step))
    with closing(Checkpoints(tmp_path / "c")) as checkpoints:
        assert checkpoints.steps() == [3, 2]
        assert_same(checkpoints.restore(state_at(0)), state_at(3))


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
    assert restored(tmp_path / "c") is None


def test_a_state_saved_on_eight_devices_comes_back_on_one(tmp_path):
    written(tmp_path / "c", 1)
    one = jax.tree.map(lambda a: jax.device_put(np.asarray(a), jax.devices()[0]), state_at(0))
    with closing(Checkpoints(tmp_path / "c")) as checkpoints:
        state = checkpoints.restore(one)
    assert_same(state, state_at(1))
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(state))


def cut(step: Path) -> None:
    for file in arrays_of(step):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(step: Path) -> None:
    for file in arrays_of(step):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


def empty_all(step: Path) -> None:
    for file in step.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def lose_the_arrays(step: Path) -> None:
    for file in arrays_of(step):
        file.unlink()


def lose_the_proof(step: Path) -> None:
    for file in (step / "proof").rglob("*"):
        file.unlink()


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty_all, lose_the_arrays, lose_the_proof])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, damage):
    folder = written(tmp_path / "c", 1, 2)
    damage(folder / "2")
    with caplog.at_level(logging.WARNING), closing(Checkpoints(folder)) as checkpoints:
        assert_same(checkpoints.restore(state_at(0)), state_at(1))
        assert f"{folder}/2 is damaged" in caplog.text
        checkpoints.save(state_at(2))  # the run reaches that step again
    assert_same(restored(folder), state_at(2))


def test_a_checkpoint_of_an_older_version_has_neither_metrics_nor_a_digest(tmp_path):
    folder = written(tmp_path / "c", 1)
    proof = folder / "1" / "proof" / "metadata"
    found = json.loads(proof.read_text())
    proof.write_text(json.dumps({name: found[name] for name in ("shapes", "checksums")}))
    assert_same(restored(folder), state_at(1))


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path):
    folder = written(tmp_path / "c", 1, 2)
    flip_a_bit(folder / "1")
    cut(folder / "2")
    with pytest.raises(UserError, match=r"none of the checkpoints in .* can be read"):
        restored(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


def test_a_checkpoint_of_another_architecture_is_refused_naming_the_array(tmp_path):
    folder = written(tmp_path / "c", 1)
    with closing(Checkpoints(folder)) as checkpoints, pytest.raises(UserError) as refused:
        checkpoints.restore(state_at(0, width=32))
    assert "another architecture" in str(refused.value) and "[64, 64]" in str(refused.value)
    assert "[32, 64]" in str(refused.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from Orbax's threads
def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(tmp_path):
    folder = written(tmp_path / "c", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(folder)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # simulates a full disk
        with pytest.raises(RunError) as failed:
            checkpoints.save(state_at(2))
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = str(failed.value)
    assert (
        "could not be written" in said and "the checkpoint of step 1 is complete" in said and "Free some space" in said
    )
    assert_same(restored(folder), state_at(1))


BROKEN_OFF = """
import shutil, sys
from pathlib import Path
from tests.test_checkpoints import state_at
from vaedm_jax.runtime import hosts
from vaedm_jax.errors import RunError
from vaedm_jax.training.checkpoints import Checkpoints
folder = Path(sys.argv[1])
checkpoints = Checkpoints(folder)
shutil.rmtree(folder)
folder.write_bytes(b"in its place")
try:
    checkpoints.save(state_at(1))
    checkpoints.close()
except RunError as error:
    print(error)
    hosts.exit_process(error.status)
"""


def test_a_process_whose_write_fails_exits_with_status_1_and_gives_advice(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", BROKEN_OFF, str(tmp_path / "c")]
    done = subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True)
    assert done.returncode == 1 and "Move away what is in its place" in done.stdout
    assert "Free some space" not in done.stdout


@pytest.mark.parametrize(
    "error, advice",
    [
        (OSError(errno.EROFS, "Read-only file system", "x"), "Make that folder writable"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "Make that folder writable"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "Leave the folder in place"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x"), "Free some space"),
        (ValueError("INTERNAL: error writing local file: No space left on device"), "Free some space"),
        (RuntimeError("of another kind"), "Fix this"),
    ],
)
def test_the_advice_fits_the_reason_for_which_a_write_fails(tmp_path, monkeypatch, error, advice):
    def fail(*_, **__):
        raise error

    checkpoints = Checkpoints(tmp_path / "c")
    monkeypatch.setattr(checkpoints.manager, "save", fail)
    with pytest.raises(RunError, match=advice), closing(checkpoints):
        checkpoints.save(state_at(1))


def test_a_file_or_a_link_in_place_of_the_checkpoint_folder_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place, folder in (("file", "file"), ("file", "file/checkpoints"), ("link", "link/checkpoints")):
        with pytest.raises(UserError, match=f"{tmp_path / place} is a "):
            Checkpoints(tmp_path / folder)
    assert (tmp_path / "file").read_bytes() == b"mine"


SPOILT = """
import sys
from pathlib import Path
from tests.test_checkpoints import restored, written
from vaedm_jax.errors import UserError

folder = written(Path(sys.argv[1]), 1)
for file in (folder / "1" / "state" / "d").iterdir():
    file.write_bytes(file.read_bytes()[:100])
for _ in range(5):
    try:
        restored(folder)
    except UserError as error:
        print(error)


class Raises:
    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error


Raises(RuntimeError("Event loop is closed"))
print("of another kind follows", file=sys.stderr, flush=True)
Raises(ValueError("of another kind"))
"""


def test_a_corrupt_checkpoint_prints_no_traceback(tmp_path):
    """Reads that fail after the first one print nothing. Other errors that nobody can catch are still printed."""
    command = [sys.executable, "-c", SPOILT, str(tmp_path / "c")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("none of the checkpoints") == 5 and not done.returncode
    before, after = done.stderr.split("of another kind follows")
    assert "Traceback" not in before and "Traceback" in after and "ValueError: of another kind" in after


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "state/d/0123", "proof/metadata"])
def test_a_pipe_in_a_checkpoint_is_named_and_never_waited_for(tmp_path, name):
    file = tmp_path / "6" / name
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    with pytest.raises(UserError, match=f"{file} does not belong in a checkpoint; move {tmp_path / '6'} away"):
        Checkpoints(tmp_path)


def test_a_metadata_file_that_is_nested_too_deeply_to_read_is_named(tmp_path):
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "_CHECKPOINT_METADATA").write_bytes(b"[" * 100_000)
    with pytest.raises(UserError, match="_CHECKPOINT_METADATA does not belong in a checkpoint; move"):
        Checkpoints(tmp_path)
