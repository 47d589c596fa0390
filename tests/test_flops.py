"""The operations of a program are counted as by hand, and as by XLA for the programs that XLA can count."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vaedm_jax import models
from vaedm_jax.config import base_config
from vaedm_jax.models.layers import Heads, UpConv
from vaedm_jax.models.unet import Attention
from vaedm_jax.models.winograd import convolve_3x3
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training.flops import count_flops

Shape = jax.ShapeDtypeStruct


def counted(function, *shapes) -> int:
    return count_flops(jax.jit(function).trace(*(Shape(s, jnp.float32) for s in shapes)).jaxpr)


def conv(x, kernel, **how):
    how = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | how
    return jax.lax.conv_general_dilated(x, kernel, **how)


def test_a_product_of_matrices_takes_2_m_n_k():
    assert counted(jnp.matmul, (5, 7), (7, 3)) == 2 * 5 * 7 * 3
    assert counted(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (4, 5, 7), (4, 3, 7)) == 4 * 2 * 5 * 7 * 3


def test_each_of_the_two_gradients_of_a_product_takes_what_the_product_takes():
    def loss(w, x):
        return jnp.sum((x @ w) ** 2)

    assert counted(loss, (7, 3), (5, 7)) == 2 * 5 * 7 * 3
    assert counted(jax.grad(loss, argnums=(0, 1)), (7, 3), (5, 7)) == 3 * 2 * 5 * 7 * 3


def test_a_convolution_counts_the_pixels_that_each_weight_meets():
    # On a line of 4 pixels, a kernel of 3 meets 2 + 3 + 3 + 2 pixels. With a stride of 2 and padding on both sides, it
    # meets 2 + 3.
    assert counted(conv, (2, 4, 4, 5), (3, 3, 5, 7)) == 2 * 2 * 10 * 10 * 5 * 7
    strided = {"window_strides": (2, 2), "padding": ((1, 1), (1, 1))}
    assert counted(lambda x, k: conv(x, k, **strided), (2, 4, 4, 5), (3, 3, 5, 7)) == 2 * 2 * 5 * 5 * 5 * 7


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_each_of_the_two_gradients_of_a_convolution_takes_what_the_convolution_takes(stride, groups):
    """Each gradient multiplies the same pairs of pixels and weights. Padding and dilation add none."""
    how = {"window_strides": (stride, stride), "padding": ((1, 1), (1, 1)), "feature_group_count": groups}

    def loss(x, kernel):
        return jnp.sum(conv(x, kernel, **how) ** 2)

    shapes = (2, 9, 9, 4), (3, 3, 4 // groups, 6)
    assert counted(jax.grad(loss, argnums=(0, 1)), *shapes) == 3 * counted(loss, *shapes)


def test_the_convolutions_of_the_networks_count_as_direct_ones():
    """On a CPU they are computed with fewer products. Their gradients do not compute the convolution again."""

    def loss(x, kernel):
        return jnp.sum(convolve_3x3(x, kernel) ** 2)

    shapes = (2, 8, 8, 64), (3, 3, 64, 128)
    assert counted(loss, *shapes) == counted(conv, *shapes)
    assert counted(jax.grad(loss, argnums=(0, 1)), *shapes) == 3 * counted(conv, *shapes)


def test_xla_counts_the_same_for_a_convolution():
    shapes = [Shape(s, jnp.float32) for s in ((2, 9, 8, 4), (3, 3, 4, 6))]
    pads = {"padding": ((1, 2), (1, 0))}
    for how in ({}, {"window_strides": (2, 2)}, {"lhs_dilation": (2, 2)} | pads, {"rhs_dilation": (2, 1)} | pads):
        traced = jax.jit(lambda x, k: conv(x, k, **how)).trace(*shapes)  # noqa: B023
        assert count_flops(traced.jaxpr) == traced.lower().cost_analysis()["flops"]


def test_a_loop_counts_each_iteration_and_a_conditional_its_dearest_branch():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=6)[0]

    assert counted(loop, (5, 7), (7, 7)) == 6 * 2 * 5 * 7 * 7

    def choice(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x, lambda: x @ w)

    assert counted(choice, (5, 7), (7, 7)) == 2 * 5 * 7 * 7


def test_the_work_of_all_devices_is_counted():
    mesh, split = make_mesh(), PartitionSpec("data")
    product = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split)
    assert counted(product, (16, 7), (7, 3)) == 2 * 16 * 7 * 3


def test_the_network_of_cifar_10_takes_the_sum_of_its_layers():
    """By hand: each weight of a layer meets each pixel of the result, except for padding."""
    network, total = models.build_unet(base_config("uncond")), []

    def pixels(size: int, kernel: int, stride: int) -> int:
        pad = (kernel - 1) // 2
        return sum(0 <= i - pad + k < size for i in range(0, size, stride) for k in range(kernel))

    def note(call, args, kwargs, context):
        module, (x, *_) = context.module, args
        out = call(*args, **kwargs)
        if isinstance(module, nn.Conv):
            kernel, stride = module.kernel_size[0], np.ravel(module.strides)[0]
            total.append(2 * out.shape[0] * pixels(x.shape[1], kernel, stride) ** 2 * x.shape[-1] * out.shape[-1])
        elif isinstance(module, nn.Dense):
            total.append(2 * math.prod(out.shape) * x.shape[-1])
        elif isinstance(module, UpConv):  # four kernels of 2 x 2; each loses a row and a column at an edge
            n = x.shape[1]
            total.append(2 * x.shape[0] * 4 * (2 * n - 1) ** 2 * x.shape[-1] * out.shape[-1])
        elif isinstance(module, Heads):
            total.append(2 * math.prod(x.shape) * 3 * x.shape[-1])
        elif isinstance(module, Attention):
            B, H, W, C = x.shape
            total.append(2 * 2 * B * (H * W) ** 2 * C)
        return out

    shapes = Shape((2, 32, 32, 3), jnp.float32), Shape((2,), jnp.int32)
    with nn.intercept_methods(note):
        params = jax.eval_shape(network.init, jax.random.key(0), *shapes)["params"]
    traced = jax.jit(lambda p, *inputs: models.apply(network, p, *inputs)).trace(params, *shapes)
    assert count_flops(traced.jaxpr) == sum(total)
    assert sum(total) / 2 == pytest.approx(10.77e9, rel=1e-3)
