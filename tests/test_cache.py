"""The cache of compiled programs finds a usable folder if there is one, also for a user without a home."""

import os
from pathlib import Path

import pytest

from vaedm_jax.storage import cache


@pytest.fixture(autouse=True, name="homeless")
def homeless_fixture(monkeypatch, tmp_path):
    """Simulate a container whose user id is unknown to the system."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))


def test_the_first_known_folder_is_used(monkeypatch, tmp_path):
    private = tmp_path / f"vaedm_jax-{os.getuid()}"
    assert cache.compiled_programs() == str(private)
    assert private.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    assert cache.compiled_programs() == "/home/somebody/.cache/vaedm_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.compiled_programs() == "/home/somebody/.cache/vaedm_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.compiled_programs() == "/xdg/vaedm_jax"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/cache")
    assert cache.compiled_programs() == "gs://bucket/cache"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert cache.compiled_programs() is None


def test_a_folder_that_others_can_write_to_is_not_trusted(monkeypatch, tmp_path):
    """The cached programs are executed, so nobody else may be able to write them."""
    private = tmp_path / f"vaedm_jax-{os.getuid()}"
    private.mkdir()
    private.chmod(0o777)
    assert cache.compiled_programs() is None
    private.rmdir()
    private.symlink_to(tmp_path)
    assert cache.compiled_programs() is None
    monkeypatch.setattr(cache.os, "makedirs", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    assert cache.compiled_programs() is None
