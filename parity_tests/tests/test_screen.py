"""What a comparison says on the screen: what differs and why before any number, and no more rows than are read."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import netparity
from netparity.report import document, screen
from netparity.results import NEVER_REACHED, Check, Convention, Result, StageResult, check

STAGES = ("conv", "bn", "relu", "fc")


def _row(stage: str, error: float = 1e-16, quantity: str = "output") -> StageResult:
    return StageResult(stage, quantity, (4, 6, 5, 8), 9, 1e-6, float64_error=error)


def _passing(rows: int = 4) -> Result:
    result = Result(4, (6, 5, 3), parents={s: (b,) for b, s in zip(("input", *STAGES), STAGES, strict=False)})
    result.layers = [_row(STAGES[i % 4], 1e-16 * (1 + i), f"vjp_p{i}" if i > 3 else "output") for i in range(rows)]
    result.checks = [check("forward", stage, stage, 1e-16, 1e-12) for stage in STAGES]
    return result


def _failing() -> Result:
    """Its batch normalisation is wrong, and what follows is fed wrong numbers."""
    result = _passing(60)
    result.layers[1] = _row("bn", 0.25)
    result.layers[5] = _row("bn", 0.5, "vjp_input")
    result.checks[1:] = [check("forward", stage, stage, 0.125, 1e-12) for stage in STAGES[1:]]
    result.checks.append(check("gradients", "conv", "d loss / d conv", 0.1, 1e-12))
    result.checks.append(check("state", "fc", "fc.mean after a step", 0.1, 1e-12))  # of what it was fed
    result.diagnosis = "first diverging stage: bn (output); JAX has epsilon 1e-06 where PyTorch has 1e-05"
    result.conventions = [Convention("bn", "epsilon", "1e-06", "1e-05")]
    return result


def test_few_rows_that_pass_are_all_shown():
    lines = screen.summary("net", _passing()).splitlines()
    assert [line.split()[0] for line in lines[2:6]] == list(STAGES)
    assert lines[-1].startswith("net: PASSED   float64 4.0e-16")


def test_of_many_rows_that_pass_the_nearest_to_their_limits_are_shown():
    text = screen.summary("net", _passing(60))
    shown = [line.split()[1] for line in text.splitlines() if " vjp_p" in line]
    assert shown == [f"vjp_p{i}" for i in range(59, 49, -1)]
    assert "… and 50 more, each farther from its limits" in text


def test_what_fails_begins_with_what_differs_and_why_and_hides_what_passed():
    lines = screen.summary("net", _failing()).splitlines()
    assert lines[:4] == [
        "first diverging stage: bn (output); JAX has epsilon 1e-06 where PyTorch has 1e-05",
        "computed from: conv (agrees)",
        "",
        "conventions: bn epsilon: JAX 1e-06, PyTorch 1e-05",
    ]
    rows = [line.split()[:2] for line in lines if line.endswith("FAILED")]
    assert rows == [["bn", "output"], ["bn", "vjp_input"]]
    assert "isolated      58 of 60 passed" in lines
    assert "forward       1 of 4 passed; worst float64 1.2e-01" in lines
    assert lines[-1].startswith("net: FAILED   float64 5.0e-01")
    assert len(lines) < 25


def test_how_to_mend_it_follows_what_is_wrong():
    result = dataclasses.replace(_failing(), advice="Set epsilon=1e-5.")
    assert screen.summary("net", result).splitlines()[1] == "to mend it: Set epsilon=1e-5."


def test_of_many_rows_that_fail_the_first_are_shown():
    result = _failing()
    result.layers = [dataclasses.replace(row, float64_error=0.5) for row in result.layers]
    text = screen.summary("net", result)
    assert text.count("FAILED\n") == 10
    assert "… and 50 more that fail" in text


def test_one_difference_of_many_stages_is_one_line():
    result = _passing()
    result.conventions = [Convention(f"bn{i}", "epsilon", "1e-06", "1e-05", "set it") for i in range(9)]
    result.conventions.append(Convention("drop", "rate", "0.1", "0.5"))
    lines = [line for line in screen.summary("net", result).splitlines() if line.startswith("conventions")]
    assert lines == [
        "conventions: bn0, bn1, bn2 and 6 more epsilon: JAX 1e-06, PyTorch 1e-05 (set it)",
        "conventions: drop rate: JAX 0.1, PyTorch 0.5",
    ]


def test_what_differs_without_a_diagnosis_is_named_too():
    result = _passing()
    result.checks.append(check("weights", "fc.kernel", "fc.kernel, converted", 1.0, 1e-7))
    assert screen.summary("net", result).splitlines()[0] == "first diverging stage: fc.kernel (fc.kernel, converted)"


def test_verdicts_tell_what_differs_itself_from_what_is_fed_what_differs():
    assert _failing().verdicts == {"conv": "passed", "bn": "failed", "relu": "inherited", "fc": "inherited"}
    assert document.model(_failing())["verdicts"]["relu"] == "inherited"
    assert document.model(_failing())["first_divergence"] == ["bn", "output"]
    state = check("state", "bn", "bn.mean after a step", 0.1, 1e-12)
    assert dataclasses.replace(_passing(), checks=[*_passing().checks, state]).verdicts["bn"] == "failed"
    ended = _passing()
    ended.layers = []
    ended.checks = [
        Check("shapes", "conv", "conv", True),
        Check("shapes", "bn", "bn", False, note="JAX [4], PyTorch [5]"),
        Check("shapes", "relu", "relu", False, note=NEVER_REACHED),
    ]
    assert ended.verdicts == {"conv": "not reached", "bn": "failed", "relu": "not reached", "fc": "not reached"}


def _dense(scale: float) -> netparity.JaxNetwork:
    rng = np.random.default_rng(0)
    names = ("hidden", "logits")
    sizes = {"hidden": (5, 7), "logits": (7, 3)}
    params = {name: {"kernel": rng.standard_normal(sizes[name]).astype(np.float32)} for name in names}

    def forward(params, x):
        from jax.ad_checkpoint import checkpoint_name

        hidden = checkpoint_name(jnp.tanh(x @ params["hidden"]["kernel"] * scale), "hidden")
        return checkpoint_name(hidden @ params["logits"]["kernel"], "logits")

    return netparity.function(forward, params)


class _Dense(nn.Module):
    def __init__(self, skip: float = 0.0) -> None:
        super().__init__()
        self.skip = skip
        self.hidden = nn.Sequential(nn.Linear(5, 7, bias=False), nn.Tanh())
        self.logits = nn.Linear(7, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(x)
        return self.logits(hidden + x.mean(1, keepdim=True) * self.skip if self.skip else hidden)


def test_a_comparison_knows_who_feeds_whom_and_how_its_float32_errors_are_spread(tmp_path):
    x = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    stages = {"hidden": "hidden", "logits": "logits"}
    result = netparity.compare(_dense(1.0), _Dense(), x, stages=stages)
    assert result.passed, f"\n{result}"
    assert result.parents == {"hidden": ("input",), "logits": ("hidden",)}
    counts = {row.stage: row.histogram for row in result.layers if row.histogram is not None}
    assert {stage: (sum(one.jax), sum(one.torch)) for stage, one in counts.items()} == {
        "hidden": (28, 28),
        "logits": (12, 12),
    }
    with pytest.raises(AssertionError) as caught:
        netparity.assert_parity(_dense(1.5), _Dense(), x, stages=stages, dtypes=["float64"])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("first diverging stage: hidden (output); ")
    assert "computed from: input (an input)" in lines[1:3]


def test_a_connection_that_one_side_lacks_is_named():
    x = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    stages = {"hidden": "hidden", "logits": "logits"}
    result = netparity.compare(_dense(1.0), _Dense(skip=0.5), x, stages=stages, dtypes=["float64"])
    assert result.torch_parents == {"logits": ("input", "hidden")}
    lines = str(result).splitlines()
    place = lines.index("computed from: hidden (agrees)")
    assert place < 4
    assert lines[place : place + 2] == [
        "computed from: hidden (agrees)",
        "in PyTorch, as far as gradients go, computed from: input, hidden",
    ]
