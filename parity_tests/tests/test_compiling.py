"""Compile options that a version of XLA does not know are left out."""

from __future__ import annotations

import jax
import numpy as np

from netparity import compiling


def test_an_option_that_is_not_known_is_left_out(monkeypatch):
    own = compiling.quick_options.__wrapped__
    monkeypatch.setattr(compiling, "_QUICK", {"xla_no_such_option": True, "xla_backend_optimization_level": 0})
    assert own() == {"xla_backend_optimization_level": 0}
    double = jax.jit(lambda x: 2 * x, compiler_options=own())
    np.testing.assert_array_equal(double(np.arange(3.0, dtype=np.float32)), [0, 2, 4])
