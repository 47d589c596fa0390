"""Many images are drawn in parts. A stored part is not drawn again, and the parts are the images of the model."""

import numpy as np
import pytest
from PIL import Image

from tests.tiny import random_params, tiny_config
from vaedm_jax.api import VAEDM
from vaedm_jax.config import make_chain
from vaedm_jax.modes.shared.drawing import must_write, stored, write_npz, write_pngs
from vaedm_jax.reporting import to_uint8
from vaedm_jax.sampling.engine import Engine
from vaedm_jax.training.stages import ddpm_stage, vae_stage

CONFIG = tiny_config(**{"sample.steps": 3})
VAE = random_params(vae_stage(CONFIG), 1)
MODEL = VAEDM(CONFIG, VAE, random_params(ddpm_stage(CONFIG, VAE), 2))
CHAIN = make_chain(CONFIG.sample)


@pytest.fixture
def drawn(monkeypatch):
    """Return a list that records the first index of each call that draws images."""
    begun, batches = [], Engine.sample_batches

    def noted(self, n, seed, first, *how):
        begun.append(first)
        return batches(self, n, seed, first, *how)

    monkeypatch.setattr(Engine, "sample_batches", noted)
    return begun


def parts(folder, n=20, seed=5, chain=CHAIN, batch_size=8):
    return lambda: stored(MODEL, n, seed, chain, batch_size, folder)


def images(parts):
    return np.concatenate([part.images for part in parts()])


def test_parts_are_the_images_of_the_seed(tmp_path):
    want = MODEL.sample(20, 5, batch_size=8)
    np.testing.assert_array_equal(images(parts(tmp_path)), to_uint8(want.images))
    x_hat = np.concatenate([part.x_hat for part in parts(tmp_path)()])
    np.testing.assert_array_equal(x_hat, to_uint8(want.x_hat))


def test_a_stopped_run_later_draws_only_the_missing_parts(tmp_path, drawn):
    begun = parts(tmp_path)()
    next(begun), next(begun)
    begun.close()
    assert drawn == [0, 8]
    images(parts(tmp_path))
    assert drawn == [0, 8, 16]
    assert len(images(parts(tmp_path, n=11))) == 11 and len(images(parts(tmp_path, n=24, batch_size=16))) == 24
    assert drawn == [0, 8, 16]


def test_damaged_parts_and_parts_of_other_images_are_drawn_anew(tmp_path, drawn):
    want = images(parts(tmp_path))
    (tmp_path / "00000008.npz").write_bytes((tmp_path / "00000008.npz").read_bytes()[:-100])
    np.testing.assert_array_equal(images(parts(tmp_path)), want)
    assert drawn == [0, 8, 16, 8]
    for other in ({"seed": 6}, {"chain": make_chain(CHAIN, steps=2)}):
        assert not np.array_equal(images(parts(tmp_path, **other)), want)
    assert drawn == [0, 8, 16, 8] + 2 * [0, 8, 16]


def test_an_npz_file_and_png_files_hold_the_same_images(tmp_path):
    some = parts(tmp_path / "parts")
    write_npz(tmp_path / "out" / "all.npz", 20, some)
    with np.load(tmp_path / "out" / "all.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["images", "x_hat"]
        np.testing.assert_array_equal(arrays["images"], images(some))
    write_pngs(tmp_path / "out" / "all", some)
    files = sorted((tmp_path / "out" / "all").iterdir())
    assert [f.name for f in files] == [f"{i:06d}.png" for i in range(20)]
    np.testing.assert_array_equal([np.asarray(Image.open(f)) for f in files], images(some))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["all", "all.npz"]


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_earlier_images_are_never_lost(tmp_path, kind, capsys):
    """Fewer of the same images leave the file as it is, more replace it, and other images rename it."""
    target, grid = tmp_path / ("all.npz" if kind == "npz" else "all"), tmp_path / "all.png"

    def write(n, seed=5):
        some = parts(tmp_path / f"parts{seed}", n, seed)
        if new := must_write(target, grid, n, some):
            write_npz(target, n, some) if kind == "npz" else write_pngs(target, some)
            grid.write_text(str(n))
        return new

    def read(path):
        if kind == "npz":
            with np.load(path, allow_pickle=False) as arrays:
                return arrays["images"]
        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.iterdir())])

    many = images(parts(tmp_path / "parts5"))
    assert [write(n) for n in (9, 20, 3, 20)] == [True, True, False, False]
    np.testing.assert_array_equal(read(target), many)
    assert capsys.readouterr().out == ""
    assert write(3, seed=6)
    assert len(read(target)) == 3 and grid.read_text() == "3"
    aside = target.with_name(target.name.replace("all", "all_1"))
    np.testing.assert_array_equal(read(aside), many)
    assert (tmp_path / "all_1.png").read_text() == "20" and str(aside) in capsys.readouterr().out
    if kind == "png":
        (target / "mine.txt").write_text("precious")
    else:
        target.write_bytes(b"precious")
    assert write(3, seed=6)
    kept = target.with_name(target.name.replace("all", "all_2"))
    assert (kept / "mine.txt" if kind == "png" else kept).read_text() == "precious"
