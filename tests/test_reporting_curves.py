"""The curves of the report show their values, and take little space even for a long run."""

import re

import numpy as np

from vaedm_jax.reporting.curves import curve_svg


def curve_heights(values):
    """Return the y coordinate of each vertex of the curve."""
    svg = curve_svg({"loss": (range(len(values)), values)}, "p")
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: #3b7dd8', svg)
    return np.array(re.findall(r"[ML] \S+ (\S+)", path), float)


def test_a_loss_over_decades_is_drawn_on_a_logarithmic_axis():
    assert np.ptp(np.diff(curve_heights([1000, 100, 10, 1]))) < 0.01, "equal factors are equal distances"
    assert np.ptp(np.diff(curve_heights([4, 3, 2, 1]))) < 0.01, "equal differences are, otherwise"
    assert np.ptp(np.diff(curve_heights([3, 1, -1, -3]))) < 0.01


def test_a_curve_leaves_out_values_that_are_not_finite():
    assert len(curve_heights([4, np.nan, 3, 1, np.inf])) == 3
    assert curve_svg({"loss": ([1, 2], [np.nan, np.inf])}, "p") == ""


def test_a_long_run_makes_a_short_curve():
    values = np.random.default_rng(0).uniform(1, 2, 100_000)
    assert len(curve_svg({"loss": (range(len(values)), values)}, "p")) < 50_000
