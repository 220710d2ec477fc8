"""Compares a port with its original, as its author would."""

from __future__ import annotations

from typing import Any

import numpy as np

import netparity
from parity_tests.ports import cases, cases_others
from parity_tests.ports.cases import Case

SMALL = {**cases.SMALL, **cases_others.SMALL}
FULL = cases.FULL


def network(case: Case) -> netparity.JaxNetwork:
    """The port, as netparity takes it."""
    made = case.jax()
    if case.library == "linen":
        return netparity.linen(*made)
    if case.library == "nnx":
        return netparity.nnx(made)
    return netparity.equinox(*made) if isinstance(made, tuple) else netparity.equinox(made)


def compared(case: Case, seed: int = 0, **keywords: Any) -> netparity.Comparison:
    """The comparison of a port, with a batch and labels drawn from a seed."""
    rng = np.random.default_rng(seed)
    inputs = case.inputs(rng)
    labels = rng.integers(0, case.num_classes, len(inputs[0]))
    allow = ["biased running variance"] if case.allow_biased_variance else []
    return netparity.compare(
        network(case), case.torch(), inputs, labels=labels, allow=allow, seed=seed, name=case.name, **keywords
    )
