"""Natural ports of well-known networks pass as they are; with a mistake planted, the stage that it is in is named."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch import nn

from netparity import Comparison, DenseKernel, Part, Transposed, compare, infer_table, linen
from netparity.results import Check, StageResult
from parity_tests.mistakes.planting import ported
from parity_tests.ports.cases import FULL, SMALL, Case

BIASED = "biased running variance"
FAST = ("lenet5", "lstm")


def _tiered(names: Any) -> list[Any]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


def _inputs(case: Case) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    rng = np.random.default_rng(1)
    inputs = case.inputs(rng)
    return inputs, rng.integers(0, case.num_classes, len(inputs[0]))


def _compared(case: Case, port: fnn.Module | None = None, **keywords: Any) -> Comparison:
    """The comparison of a case with its own port, or with another of the same variables."""
    own, variables = case.jax()
    inputs, labels = _inputs(case)
    keywords.setdefault("allow", [BIASED] if case.allow_biased_variance else [])
    return compare(linen(port or own, variables), case.torch(), inputs, labels=labels, name=case.name, **keywords)


def _with_mistake(case: Case, right: str, wrong: str) -> fnn.Module:
    """The case's port, in whose source ``wrong`` stands for the first ``right``."""
    port, _ = case.jax()
    names = ported(case.source, [(right, wrong)])
    fields = {f.name: getattr(port, f.name) for f in dataclasses.fields(port) if f.name not in ("parent", "name")}
    return names[type(port).__name__](**fields)


def _levels(result: Comparison) -> set[str]:
    """Where the failures are: ``"layers"``, or the level of a check."""
    return {one.level if isinstance(one, Check) else "layers" for one in result.failures}


def _first(result: Comparison) -> tuple[str, str]:
    """Stage and quantity of the first stage in isolation that does not pass."""
    (first, *_) = result.failures
    assert isinstance(first, StageResult), first
    return first.stage, first.quantity


@pytest.mark.parametrize("name", _tiered(SMALL))
def test_a_natural_port_passes_as_it_is(name):
    case = SMALL[name]
    result = _compared(case)
    assert result.passed, result.failures
    assert {row.mode for row in result.layers if row.quantity == "output"} >= {"training"}
    state = {one.name for one in result.checks if one.level == "state"}
    _, variables = case.jax()
    assert bool(state) == ("batch_stats" in variables)
    assert any(one.note.startswith(f"JAX keeps the {BIASED}") for one in result.checks) == case.allow_biased_variance


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FULL if name not in ("vgg11", "vgg11_bn")])  # several GB each
def test_a_port_of_the_published_size_passes_as_it_is(name):
    result = _compared(FULL[name])
    assert result.passed, result.failures


# Network, what its source says, what a wrong port says, and the stage that it shows in first.
MISTAKES = [
    ("lenet5", "nn.Conv(6, (5, 5), padding=2)", "nn.Conv(6, (5, 5), padding=((4, 0), (2, 2)))", "conv1"),
    ("lenet5", "nn.tanh(self.conv1(x))", "self.conv1(x)", "conv2"),
    ("lenet5", "nn.avg_pool(nn.tanh(self.conv2(x))", "nn.max_pool(nn.tanh(self.conv2(x))", "fc1"),
    ("lenet5", "x.reshape(x.shape[0], -1)", "x.swapaxes(1, 2).reshape(x.shape[0], -1)", "fc1"),
    ("lenet5", "nn.tanh(self.fc2(x))", "nn.relu(self.fc2(x))", "fc3"),
    ("lstm", "OptimizedLSTMCell(self.hidden)", "OptimizedLSTMCell(self.hidden, activation_fn=nn.relu)", "RNN_0"),
    ("lstm", "OptimizedLSTMCell(self.hidden))", "OptimizedLSTMCell(self.hidden), reverse=True)", "RNN_0"),
    ("lstm", "outputs[:, -1]", "outputs[:, 0]", "head"),
    ("resnet18", "epsilon=1e-5)\n        residual", "epsilon=1e-3)\n        residual", "layer1_0.bn1"),
    ("resnet18", "conv((3, 3), strides=self.stride, padding=1,", "conv((3, 3), strides=self.stride,", "layer2_0.conv1"),
    ("resnet18", "padding=((1, 1), (1, 1))", 'padding="SAME"', "layer1_0.conv1"),
    ("resnet18", "        x = nn.relu(x)\n        x = conv(", "        x = conv(", "layer1_0.conv2"),
    ("resnet18", "nn.relu(x + residual)", "x + residual", "layer1_0"),
]


@pytest.mark.parametrize(
    ("name", "right", "wrong", "stage"),
    [
        pytest.param(*row, id=f"{i}-{row[0]}-{row[3]}", marks=() if row[0] in FAST else pytest.mark.slow)
        for i, row in enumerate(MISTAKES)
    ],
)
def test_a_wrong_port_fails_at_its_stage(name, right, wrong, stage):
    case = SMALL[name]
    result = _compared(case, _with_mistake(case, right, wrong), dtypes=["float64"])
    assert _first(result) == (stage, "output")
    assert result.diagnosis is not None
    assert result.diagnosis.startswith(f"first diverging stage: {stage} (output)")
    wrong_alone = {one.stage for one in result.failures if isinstance(one, StageResult)}
    if name != "resnet18":  # whose blocks all have the mistake
        assert wrong_alone == {stage}


@pytest.mark.parametrize(
    ("name", "wrong", "stage"),
    [
        # Height and width of the kernel exchanged; the order that the map is flattened in; two gates exchanged.
        ("lenet5", {"conv2.kernel": Transposed("conv2.weight", (3, 2, 1, 0))}, "conv2"),
        ("lenet5", {"fc1.kernel": DenseKernel("fc1.weight")}, "fc1"),
        (
            "lstm",
            {
                "OptimizedLSTMCell_0.hi.kernel": Part(DenseKernel("lstm.weight_hh_l0"), 1, 4),
                "OptimizedLSTMCell_0.hf.kernel": Part(DenseKernel("lstm.weight_hh_l0"), 0, 4),
            },
            "RNN_0",
        ),
    ],
)
def test_a_wrong_table_fails_at_its_stage(name, wrong, stage):
    case = SMALL[name]
    table = infer_table(linen(*case.jax()), case.torch(), _inputs(case)[0])
    assert wrong.keys() <= table.keys()
    result = _compared(case, table={**table, **wrong}, dtypes=["float64"])
    assert _first(result) == (stage, "output")
    assert {one.stage for one in result.failures if isinstance(one, StageResult)} == {stage}


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


@pytest.mark.slow
def test_resnets_state_is_told_where_it_is_wrong():
    case = SMALL["resnet18"]
    right, wrong = 'momentum=0.9, epsilon=1e-5, name="bn1"', 'momentum=0.1, epsilon=1e-5, name="bn1"'
    result = _compared(case, _with_mistake(case, right, wrong), dtypes=["float64"])
    assert [one.name for one in result.failures if isinstance(one, Check)] == [
        "bn1.mean after a step",
        "bn1.var after a step",
    ]
    assert _levels(result) == {"state"}
    assert all("a Flax momentum is 1 - PyTorch's, 0.9 here" in one.note for one in result.failures)  # type: ignore[union-attr]
    biased = _compared(case, allow=[], dtypes=["float64"])
    assert _levels(biased) == {"state"}
    assert {one.name.rpartition(".")[2] for one in biased.failures if isinstance(one, Check)} == {"var after a step"}
    assert len(biased.failures) == sum("after a step" in one.name and ".var" in one.name for one in biased.checks)
