"""Paths between arrays keep what they promise."""

import numpy as np

from vaedm_jax.sampling.inputs import path_between


def test_a_spherical_path_keeps_the_norm_and_a_linear_one_is_straight():
    a, b = np.array([[3.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 3.0], [0.0, 0.0]])
    circle, line = (path_between(a, b, 7, path) for path in ("spherical", "linear"))
    np.testing.assert_allclose(np.linalg.norm(circle, axis=(1, 2)), 3, rtol=1e-6)
    np.testing.assert_allclose(circle[2], [[3 * np.cos(np.pi / 6), 3 * np.sin(np.pi / 6)], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(line[3], (a + b) / 2)
    np.testing.assert_array_equal(path_between(a, a, 3, "spherical"), np.float32([a, a, a]))
