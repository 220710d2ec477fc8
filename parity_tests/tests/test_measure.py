"""The measures themselves: relative, without cancellation, and never silent about what is not finite."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from netparity import bounds, measure
from netparity.measure import ParityError, error
from netparity.results import StageResult
from parity_tests.alexnet.trajectory import chaos_ratio, distance


def test_error_is_relative_to_the_scale():
    truth = np.array([1e-6, -2e-6])
    assert error(truth * 1.5, truth).max == pytest.approx(0.5)
    assert error(truth * 1.5, truth).rms == pytest.approx(0.5)


def test_differences_of_both_signs_do_not_cancel():
    truth = np.array([1.0, 1.0])
    found = error(truth + np.array([0.25, -0.25]), truth)
    assert found.max == found.rms == 0.25


def test_one_unit_in_the_last_place_is_one_ulp():
    truth = np.array([1.5, 1.0], np.float32)
    assert error(np.nextafter(truth, np.float32(2)), truth).ulps == 1


def test_tiny_errors_do_not_underflow():
    truth = np.array([1e-200, 2e-200])
    assert error(truth * (1 + 1e-9), truth).rms == pytest.approx(1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_fails_on_either_side_and_on_both(bad):
    good, spoilt = np.array([1.0, 2.0]), np.array([1.0, bad])
    for a, b in ((good, spoilt), (spoilt, good), (spoilt, spoilt)):
        assert error(a, b).max == error(a, b).rms == math.inf
        assert distance({"x": a}, {"x": b}) == math.inf


def test_a_difference_from_zeros_is_infinite():
    assert error(np.array([1e-30]), np.array([0.0])).max == math.inf
    assert error(np.array([0.0]), np.array([0.0])).max == 0


def test_shapes_that_broadcast_are_refused():
    with pytest.raises(ParityError, match=r"shapes \(1,\) and \(3,\) differ"):
        error(np.zeros(1), np.zeros(3))


def test_names_must_match_and_all_that_do_not_are_listed():
    with pytest.raises(ParityError, match="conv2: only on the JAX side; conv3: only on the PyTorch side"):
        measure.max_error({"conv1": np.ones(1), "conv2": np.ones(1)}, {"conv1": np.ones(1), "conv3": np.ones(1)})


def test_contraction_lengths():
    shapes = ((2, 55, 55, 96), (2, 27, 27, 256))
    assert bounds.contraction_length("output", (2, 224, 224, 3), (2, 55, 55, 96), (11, 11, 3, 96)) == 363
    assert bounds.contraction_length("vjp_input", (2, 224, 224, 3), (2, 55, 55, 96), (11, 11, 3, 96)) == 9 * 96
    assert bounds.contraction_length("vjp_kernel", (2, 224, 224, 3), (2, 55, 55, 96), (11, 11, 3, 96)) == 2 * 55 * 55
    assert bounds.contraction_length("vjp_bias", (2, 9216), (2, 4096), (9216, 4096)) == 2
    assert bounds.contraction_length("output", *shapes, None, (3, 2)) == 1
    assert bounds.contraction_length("vjp_input", *shapes, None, (3, 2)) == 4


def test_chaos_ratio_is_a_median_over_the_largest_control():
    assert chaos_ratio([1.0, 5.0, 90.0], [[1.0, 0.5, 1.0], [0.5, 1.0, 2.0]]) == 5
    assert chaos_ratio([math.nan, 1.0], [[1.0, 0.0]]) == math.inf


def test_a_histogram_counts_in_units_of_the_largest_value_s_last_place():
    truth = np.array([3.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    unit = 2.0**-22  # float32 has 23 bits after the leading one; the largest value lies between 2 and 4
    errors = np.array([0.0, unit, unit / 2, unit / 2**10, 400 * unit, 2 * unit])
    # The edges are 2**-8 … 2**8: bin 0 is exact, 1 below them all, 2 + i from edge i on, 18 from the last on.
    expected = dict.fromkeys(range(19), 0) | {0: 1, 10: 1, 9: 1, 1: 1, 18: 1, 11: 1}
    assert measure.ulp_histogram(truth + errors, truth) == tuple(expected.values())


def test_a_histogram_without_a_unit_or_a_number_is_not_exact():
    assert measure.ulp_histogram(np.array([0.0, 1e-30]), np.zeros(2))[-1] == 1
    assert measure.ulp_histogram(np.array([1.0, np.nan]), np.array([1.0, 1.0]))[-1] == 1
    assert sum(measure.ulp_histogram(np.zeros((0, 3)), np.zeros((0, 3)))) == 0


@pytest.mark.parametrize("n", [64, 2304])
def test_a_plain_sum_errs_as_is_said(n):
    """NumPy's running sum adds up one number after the other."""
    terms = np.random.default_rng(0).standard_normal((4000, n)).astype(np.float32)
    plain = np.cumsum(terms, axis=1, dtype=np.float32)[:, -1]
    found = error(plain, terms.astype(np.float64).sum(axis=1)).rms
    assert found == pytest.approx(bounds.plain_sum_rms(n), rel=0.15)


@pytest.mark.parametrize(("jax_rms", "passed"), [(7.6e-7, True), (1.2e-6, True), (1.4e-6, False)])
def test_a_sum_may_err_more_than_pytorchs_if_it_errs_as_a_plain_one(jax_rms, passed):
    """A plain sum of 2,304 errs by 0.30 · 48 · 2⁻²⁴ = 8.6e-7; half as much again is let through."""
    row = StageResult("conv", "vjp_input", (2, 56, 56, 128), 2304, bounds.bound(2304), 3e-15)
    row = dataclasses.replace(row, float32_jax_max=2e-6, float32_torch_max=3e-7, float32_torch_rms=1.8e-7)
    assert dataclasses.replace(row, float32_jax_rms=jax_rms).passed is passed
    assert dataclasses.replace(row, float32_jax_rms=jax_rms, float32_torch_rms=jax_rms / 3).passed
