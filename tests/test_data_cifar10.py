"""CIFAR-10 has the pixels of its archive, whether it is given or downloaded, and needs no TensorFlow."""

import functools
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.loading import data_config, load_error
from vaedm_jax import data
from vaedm_jax.data import cifar10
from vaedm_jax.errors import UserError


def cifar_files(n: int = 3) -> dict[str, np.ndarray]:
    """Return the six files of the archive, with n random records each. A record is a label and three colour planes."""
    rng = np.random.default_rng(0)
    files = {}
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        files[name] = rng.integers(0, 256, (n, 3073), dtype=np.uint8)
        files[name][:, 0] %= 10
    return files


def cifar_archive(path: Path, files: dict[str, np.ndarray], compression: str = "gz") -> Path:
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, records in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            archive.addfile(member, io.BytesIO(records.tobytes()))
    return path


def cifar_config(root: Path, archive: Path | str) -> dict:
    return dict(source="cifar10", tfds_dir=str(root / "tfds"), archive=str(archive))


def assert_cifar(dataset: data.Dataset, files: dict[str, np.ndarray]) -> None:
    train = np.concatenate([files[f"data_batch_{i}.bin"] for i in range(1, 6)])
    for source, records in ((dataset.train, train), (dataset.test, files["test_batch.bin"])):
        assert len(source) == len(records)
        for i, record in enumerate(records):
            red, green, blue = record[1:].reshape(3, 32, 32)
            np.testing.assert_array_equal(source[i], np.dstack([red, green, blue]))


def test_cifar10_has_the_pixels_of_its_archive_and_needs_it_once(tmp_path):
    files = cifar_files()
    archive = cifar_archive(tmp_path / "c.tar.gz", files)
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, archive))), files)
    archive.unlink()
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, archive))), files)
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, ""))), files)


def damaged(path: Path, how: str) -> None:
    files = cifar_files()
    if how == "torn":
        path.write_bytes(cifar_archive(path, files).read_bytes()[:-2000])
    elif how == "no archive":
        path.write_text("<html>404</html>")
    elif how == "incomplete":
        cifar_archive(path, {name: files[name] for name in files if name != "data_batch_4.bin"})
    elif how == "short":
        cifar_archive(path, files | {"data_batch_2.bin": files["data_batch_2.bin"].ravel()[:-1]})
    elif how == "empty":
        cifar_archive(path, files | {"data_batch_2.bin": np.zeros((0, 3073), np.uint8)})
    elif how == "label":
        cifar_archive(path, files | {"test_batch.bin": np.full((2, 3073), 10, np.uint8)})


@pytest.mark.parametrize(
    "how, said",
    [
        ("missing", "not exist"),
        ("torn", "is damaged"),
        ("no archive", "is damaged"),
        ("incomplete", "data_batch_4.bin"),
        ("short", "data_batch_2.bin"),
        ("empty", "data_batch_2.bin"),
        ("label", "test_batch.bin"),
    ],
)
def test_a_wrong_cifar10_archive_is_an_error_and_a_right_one_mends_it(tmp_path, how, said):
    archive = tmp_path / "c.tar.gz"
    damaged(archive, how)
    message = load_error(**cifar_config(tmp_path, archive))
    assert str(archive) in message and said in message
    files = cifar_files()
    cifar_archive(archive, files)
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, archive))), files)


def test_an_archive_that_xz_compressed_may_be_damaged_too(tmp_path):
    content = bytearray(cifar_archive(tmp_path / "c", cifar_files(), "xz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path / 'c'} is damaged"):
        cifar10.read_archive(tmp_path / "c")


@pytest.fixture
def web_folder(tmp_path, monkeypatch):
    """Yield a folder and the address at which it is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    root = tmp_path / "web"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_cifar10_is_downloaded_if_no_archive_is_given(tmp_path, web_folder, monkeypatch):
    root, address = web_folder
    monkeypatch.setattr(cifar10, "URL", f"{address}/c.tar.gz")
    message = load_error(**cifar_config(tmp_path, ""))
    assert "404" in message and "data.archive" in message
    cifar_archive(root / "c.tar.gz", cifar_files())
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, ""))), cifar_files())


def test_a_tfds_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "tfds").write_text("a file, not a folder")
    archive = cifar_archive(tmp_path / "c.tar.gz", cifar_files())
    assert "cannot be prepared" in load_error(**cifar_config(tmp_path, archive))


LEAN_RUN = """
import json, multiprocessing, sys
import numpy as np
from ml_collections import ConfigDict
from vaedm_jax import data
config = ConfigDict(json.loads(sys.argv[1]))
dataset = data.load(config)
iterator = data.batches(dataset.train, 4, 0, True)
batches = [next(iterator) for _ in range(3)]
children = len(multiprocessing.active_children())
print(json.dumps({"tensorflow": "tensorflow" in sys.modules, "shape": batches[0].shape, "children": children}))
"""


@pytest.fixture(scope="module")
def lean_run(tmp_path_factory) -> dict:
    """Return the output of a program that reads CIFAR-10 and then just ends. A package `tensorflow` can be found."""
    root = tmp_path_factory.mktemp("lean")
    (root / "decoy" / "tensorflow").mkdir(parents=True)
    (root / "decoy" / "tensorflow" / "__init__.py").write_text("")
    config = data_config(**cifar_config(root, cifar_archive(root / "c.tar.gz", cifar_files())))
    path = os.pathsep.join([str(root / "decoy"), str(Path(data.__file__).parents[2])])
    command = [sys.executable, "-c", LEAN_RUN, config.to_json()]
    environment = os.environ | {"PYTHONPATH": path}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_cifar10_is_prepared_and_read_without_tensorflow_even_if_it_is_installed(lean_run):
    assert lean_run["tensorflow"] is False


def test_iteration_starts_no_process_and_does_not_delay_the_exit(lean_run):
    assert lean_run["children"] == 0 and lean_run["shape"] == [4, 32, 32, 3]
