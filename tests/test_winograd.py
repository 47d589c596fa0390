"""Convolutions with fewer products are those of XLA, with their gradients, and are used on CPUs alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.tiny import in_float64
from vaedm_jax.models import winograd
from vaedm_jax.models.layers import conv
from vaedm_jax.models.winograd import convolve, convolve_3x3, direct
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training.flops import count_flops


def drawn(B: int, H: int, W: int, C: int, F: int):
    """Return x, a kernel, and a gradient of the output."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (B, H, W, C), (3, 3, C, F), (B, H, W, F)
    dtype = jnp.zeros(()).dtype
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def with_gradients(function, x, kernel, dy):
    y, gradients = jax.vjp(function, x, kernel)
    return y, *gradients(dy)


@pytest.mark.parametrize("shape", [(2, 8, 6, 128, 130), (3, 2, 2, 64, 64), (1, 4, 12, 65, 64)])
def test_results_and_gradients_are_those_of_a_direct_convolution(shape):
    with in_float64():
        arrays = drawn(*shape)
        for ours, theirs in zip(with_gradients(convolve_3x3, *arrays), with_gradients(direct, *arrays), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


def test_in_float32_the_error_is_that_of_rounding():
    arrays = drawn(2, 8, 8, 128, 128)
    with in_float64():
        exact = [np.asarray(a) for a in with_gradients(direct, *(np.asarray(a, np.float64) for a in arrays))]
    for ours, theirs, true in zip(
        with_gradients(convolve_3x3, *arrays), with_gradients(direct, *arrays), exact, strict=True
    ):
        error, usual = (np.sqrt(np.mean((np.asarray(a) - true) ** 2)) for a in (ours, theirs))
        assert error < 4 * usual + 1e-7 * np.abs(true).max()


@pytest.mark.parametrize("case", ["odd", "stride", "narrow", "bfloat16", "kernel", "padding"])
def test_other_convolutions_are_left_to_xla(case, monkeypatch):
    monkeypatch.setattr(winograd, "convolve_3x3", lambda *_: pytest.fail("this should be a direct convolution"))
    x, kernel, _ = drawn(2, 7 if case == "odd" else 8, 8, 32 if case == "narrow" else 64, 64)
    if case == "bfloat16":
        x, kernel = x.astype(case), kernel.astype(case)
    kernel = kernel[:1, :1] if case == "kernel" else kernel
    strides = (2, 2) if case == "stride" else (1, 1)
    padding = "VALID" if case == "padding" else ((1, 1), (1, 1))
    how = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
    expected = jax.lax.conv_general_dilated(x, kernel, strides, padding, **how)
    np.testing.assert_array_equal(convolve(x, kernel, strides, padding, **how), expected)


def test_a_layer_uses_it_on_a_cpu_alone_and_counts_the_same_operations():
    layer = conv(64, "layer")
    x = jnp.zeros((2, 8, 8, 64))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    traced = jax.jit(layer.apply).trace(params, x)
    on = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu", "cuda")}
    assert "stablehlo.convolution" not in on["cpu"] and "stablehlo.dot_general" in on["cpu"]
    for platform in ("tpu", "cuda"):
        assert "stablehlo.convolution" in on[platform] and "stablehlo.dot_general" not in on[platform]
    kernel = params["params"]["kernel"]
    assert count_flops(traced.jaxpr) == count_flops(jax.make_jaxpr(direct)(x, kernel))


def test_devices_share_a_batch_without_exchanging_images():
    mesh, (x, kernel, _) = make_mesh(), drawn(16, 4, 4, 64, 64)
    shared = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(convolve_3x3).lower(shared, kernel).compile()
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-to-all", "collective-permute"))
    np.testing.assert_allclose(compiled(shared, kernel), direct(x, kernel), atol=1e-4)


def test_the_gradient_of_narrow_kernels_is_left_to_xla(monkeypatch):
    monkeypatch.setattr(winograd, "of_kernel", lambda *_: pytest.fail("the channels are too few"))
    x, kernel, dy = drawn(1, 4, 4, 64, 64)
    found = jax.jit(partial(with_gradients, convolve_3x3))(x, kernel, dy)
    np.testing.assert_allclose(found[2], with_gradients(direct, x, kernel, dy)[2], atol=1e-4)
