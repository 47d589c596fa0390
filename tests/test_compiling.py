"""A long compilation is announced; a short one is not."""

import time

import jax
import pytest

from vaedm_jax.runtime import compiling


@pytest.mark.parametrize("patience, announced", [(0.0, True), (60.0, False)])
def test_a_compilation_that_takes_longer_than_the_patience_is_announced(patience, announced, monkeypatch, capfd):
    monkeypatch.setattr(compiling, "PATIENCE", patience)
    compiling.announce_compilation()
    compiling.announce_compilation()

    @jax.jit
    def program(x):
        for _ in range(40):
            x = jax.numpy.sin(x @ x) + patience
        return x

    program(jax.numpy.ones((16, 16))).block_until_ready()
    time.sleep(0.2)
    assert ("compiling, once for this shape ..." in capfd.readouterr().err) == announced
