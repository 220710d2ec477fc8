"""Simulated rounding: what moves, by how much, and what does not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from netparity import rounding

X = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32).astype(np.float64)


def _moved(function):
    with jax.enable_x64(True):
        jaxpr = jax.make_jaxpr(function)(X)
        (found,) = rounding.simulate(jaxpr, [X])
        return np.asarray(found) - np.asarray(function(jnp.asarray(X)))


def test_what_float32_holds_is_not_moved():
    assert (_moved(lambda x: jnp.maximum(x, 0).T.reshape(-1)) == 0).all()
    assert (_moved(lambda x: 2 * x) == 0).all()


def test_cancellation_costs_its_digits():
    # x + 4096 keeps 11 bits of x's fraction: an error of about 4096 * 2**-24.
    rms = float(np.sqrt(np.mean(_moved(lambda x: (x + 4096) - 4096) ** 2)))
    assert rms == pytest.approx(4096 * 2.0**-24, rel=0.1)


def test_a_function_inside_a_compiled_one_is_looked_into():
    relative = _moved(jax.jit(jnp.exp)) / np.exp(X)
    assert float(np.std(relative)) == pytest.approx(4 * 2.0**-24, rel=0.1)
