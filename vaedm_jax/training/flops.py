"""Counting the floating-point operations of a traced program: its matrix products and convolutions.

A compiler's own count depends on the backend: on a GPU it does not include calls of cuDNN. The traced program is the
same everywhere. Its other operations (sums, norms, the optimiser) are few in comparison.
"""

import math
from typing import Any

import numpy as np


def count_flops(jaxpr: Any) -> int:
    """Return the number of operations of a program. A multiplication and an addition count as two.

    The body of a `scan` counts once for each iteration, the body of a `while` loop once, and of branches the most
    expensive one. Under `shard_map` the operations of all devices are counted.

    Args:
      jaxpr: the result of `jax.make_jaxpr`, or the attribute `jaxpr` of `jax.jit(...).trace(...)`.
    """
    eqns = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return sum(of_equation(eqn) for eqn in eqns)


def of_equation(eqn: Any) -> int:
    """Return the operations of one equation of a program."""
    if eqn.primitive.name == "dot_general":
        return of_product(eqn)
    if eqn.primitive.name == "conv_general_dilated":
        return of_convolution(eqn)
    inner = [count_flops(program) for value in eqn.params.values() for program in programs(value)]
    if eqn.primitive.name == "cond":
        return max(inner, default=0)
    turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    if eqn.primitive.name == "shard_map":
        mesh = eqn.params["mesh"]
        turns = math.prod(mesh.shape[axis] for axis in eqn.params.get("manual_axes", mesh.shape))
    return turns * sum(inner)


def programs(value: Any) -> list[Any]:
    """Return the programs in a parameter of an equation."""
    if isinstance(value, tuple | list):
        return [program for item in value for program in programs(item)]
    return [value] if hasattr(getattr(value, "jaxpr", value), "eqns") else []


def of_product(eqn: Any) -> int:
    """Return the operations of a matrix product: 2 x size of the result x size of the contracted axes."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def of_convolution(eqn: Any) -> int:
    """Return the operations of a convolution: 2 x images x channels x input channels x pairs of pixels and weights.

    Padding does not count, nor do the zeros between the pixels of a dilated input (the gradient of a stride).
    """
    params, (image, kernel) = eqn.params, (v.aval.shape for v in eqn.invars)
    numbers, out = params["dimension_numbers"], eqn.outvars[0].aval.shape
    rates = zip(
        params["window_strides"], params["padding"], params["lhs_dilation"], params["rhs_dilation"], strict=True
    )
    meetings = [
        pairs(image[i], kernel[k], out[o], *rate)
        for i, k, o, rate in zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], rates, strict=True)
    ]
    n, features = (out[axis] for axis in numbers.out_spec[:2])
    return 2 * n * features * kernel[numbers.rhs_spec[1]] * math.prod(meetings)


def pairs(
    size: int, kernel: int, out: int, stride: int, padding: tuple[int, int], dilation: int, kernel_dilation: int
) -> int:
    """Return the number of products of a weight and a pixel along one axis, for all `out` positions of the kernel."""
    place = np.arange(out)[:, None] * stride - padding[0] + np.arange(kernel)[None] * kernel_dilation
    return int(np.sum((place >= 0) & (place <= (size - 1) * dilation) & (place % dilation == 0)))
