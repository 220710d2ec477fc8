"""Natural ports of well-known networks pass as they are, and what a right port says of running statistics."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch import nn

from netparity import Comparison, compare, linen
from netparity.results import Check
from parity_tests.ports.cases import FULL, SMALL, Case

pytestmark = pytest.mark.users_programs

BIASED = "biased running variance"
# At the published size two of them; python -m parity_tests.ports --full compares all.
CASES = {**SMALL, "resnet18": FULL["resnet18"], "lstm, full": FULL["lstm"]}
FAST = ("lenet5", "lstm")


def _compared(case: Case) -> Comparison:
    rng = np.random.default_rng(1)
    inputs = case.inputs(rng)
    labels = rng.integers(0, case.num_classes, len(inputs[0]))
    allow = [BIASED] if case.allow_biased_variance else []
    return compare(linen(*case.jax()), case.torch(), inputs, labels=labels, name=case.name, allow=allow)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_natural_port_passes_as_it_is(name):
    case = CASES[name]
    result = _compared(case)
    assert result.passed, result.failures
    assert result.conventions == []
    assert {row.mode for row in result.layers if row.quantity == "output"} >= {"training"}
    state = {one.name for one in result.checks if one.level == "state"}
    _, variables = case.jax()
    assert bool(state) == ("batch_stats" in variables)
    assert any(one.note.startswith(f"JAX keeps the {BIASED}") for one in result.checks) == case.allow_biased_variance


class _KeepsBiased(fnn.Module):
    """A dense layer and a normalisation whose running statistics move by ``1 - momentum``."""

    momentum: float

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = fnn.Dense(6, name="dense")(x)
        return fnn.BatchNorm(not train, momentum=self.momentum, epsilon=1e-5, name="norm")(x)


def _normalised(momentum: float, allow: Sequence[str]) -> Comparison:
    """A port beside a PyTorch network whose running statistics move by 0.1."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((7, 4)).astype(np.float32)
    port = _KeepsBiased(momentum)
    module = nn.Sequential(OrderedDict(dense=nn.Linear(4, 6), norm=nn.BatchNorm1d(6, momentum=0.1)))
    variables = port.init(jax.random.key(0), jnp.asarray(x), train=False)
    return compare(linen(port, variables), module, x, labels=rng.integers(0, 6, 7), dtypes=["float64"], allow=allow)


def test_a_biased_running_variance_is_told_unless_it_is_allowed():
    result = _normalised(0.9, [])
    (failure,) = result.failures
    assert isinstance(failure, Check)
    assert (failure.level, failure.stage, failure.name) == ("state", "norm", "norm.var after a step")
    assert failure.note == f"JAX keeps the {BIASED}, PyTorch the unbiased one: if that is meant, allow=['{BIASED}']"
    allowed = _normalised(0.9, [BIASED])
    assert allowed.passed, allowed.failures
    assert [one.note for one in allowed.checks if one.name == "norm.var after a step"] == [
        f"JAX keeps the {BIASED}, PyTorch the unbiased one (n = 7): allowed"
    ]


def test_a_momentum_that_is_not_complemented_is_told():
    result = _normalised(0.1, [BIASED])
    assert [(one.level, one.name) for one in result.failures if isinstance(one, Check)] == [
        ("state", "norm.mean after a step"),
        ("state", "norm.var after a step"),
    ]
    assert len(result.failures) == 2
    mean, var = (one.note for one in result.failures if isinstance(one, Check))
    meant = "PyTorch by its momentum of 0.1: a Flax momentum is 1 - PyTorch's, 0.9 here"
    assert mean == f"JAX moves by 0.9 of the difference, {meant}"
    assert var == f"JAX moves by 0.9 of the difference, of the {BIASED}, {meant}"
