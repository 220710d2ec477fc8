"""Made-up reports of the agreed form: nothing in here was measured."""

from __future__ import annotations

import itertools
import math
from typing import Any

_STAGES = (
    *("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4", "relu4", "conv5", "relu5"),
    *("pool3", "fc1", "relu6", "drop1", "fc2", "relu7", "drop2", "fc3"),
)
_U = 2.0**-24


def _layer(stage: str, quantity: str, n: int) -> dict[str, Any]:
    exact = n == 1
    scale = 0.0 if exact else math.sqrt(n) * _U
    return {
        "stage": stage,
        "quantity": quantity,
        "shape": [8, 8, 8, 256],
        "float64_error": scale * 1e-9 / 3,
        "float64_cumulative_error": scale * 1e-9 if quantity == "output" else None,
        "float32_jax_max": 0.31 * scale,
        "float32_torch_max": 0.22 * scale,
        "float32_jax_rms": 0.031 * scale,
        "float32_torch_rms": 0.027 * scale,
        "contraction_length": n,
        "bound": 4 * math.sqrt(n) * _U,
        "passed": True,
        "histogram": _histogram(exact) if quantity == "output" else None,
    }


def _histogram(exact: bool) -> dict[str, list[int]]:
    """Counts of 1000 numbers in 19 bins: none errs at all, or half of them err by about an eighth of a unit."""
    if exact:
        return {side: [1000] + [0] * 18 for side in ("jax", "torch")}
    return {
        "jax": [500, 0, 0, 0, 50, 100, 200, 100, 40, 10, *[0] * 9],
        "torch": [510, 0, 0, 0, 60, 100, 190, 100, 40, 0, *[0] * 9],
    }


def _model() -> dict[str, Any]:
    layers = []
    for i, stage in enumerate(_STAGES):
        affine = stage[:2] in ("co", "fc")
        n = 27 * (i + 1) ** 2 if affine else 1
        layers += [_layer(stage, "output", n), _layer(stage, "vjp_input", n + 9 if affine else 1)]
        if affine:
            layers += [_layer(stage, "vjp_kernel", 2048), _layer(stage, "vjp_bias", 512)]
    steps = list(range(1, 101))
    table = [
        {
            "name": f"synthetic fault {i}",
            "trap": "a trap made up for this page",
            "side": "jax" if i % 2 else "torch",
            "expected_stage": _STAGES[i % 20],
            "found_stage": _STAGES[i % 20],
            "caught": True,
            "located": True,
            "diagnosis": "kernel transposed" if i % 3 else None,
        }
        for i in range(42)
    ]
    checks = [
        {
            "level": level,
            "name": f"{level} of everything",
            "dtype": dtype,
            "error": 3e-16 if dtype == "float64" else 0.02,
            "limit": 1e-12 if dtype == "float64" else None,
            "judged": dtype != "float32",
            "passed": True,
            "note": "made up",
        }
        for level in ("shapes", "forward", "gradients", "optimizer", "training", "data", "initialisers")
        for dtype in ("float64", "float32", None)
    ]
    return {
        "passed": True,
        "width": 1.0,
        "batch_size": 8,
        "image_shape": [32, 32, 3],
        "steps": 100,
        "float64_max_relative_error": 4.1e-15,
        "float32_error_ratio_jax_over_torch": 1.37,
        "trajectory_float64_max_relative_error": 3.2e-15,
        "layers": layers,
        "checks": checks,
        "parents": {stage: [before] for before, stage in itertools.pairwise(("input", *_STAGES))},
        "torch_parents": {},
        "verdicts": dict.fromkeys(_STAGES, "passed"),
        "first_divergence": None,
        "diagnosis": None,
        "conventions": [
            {"stage": "drop1", "what": "rate", "jax": "0.5", "torch": "0.50", "note": "made up: written otherwise"}
        ],
        "ulp_edges": [2.0**power for power in range(-8, 9)],
        "flips": [{"stage": "relu3", "side": "jax", "count": 2, "of": 24576}],
        "trajectory": {
            "steps": steps,
            "float64_difference": [0.0, *(2e-16 * s**0.6 for s in steps[1:])],
            "float32_difference": [1e-7 * s**1.5 for s in steps],
            "controls": [[f * 1e-7 * s**1.5 for s in steps] for f in (0.6, 0.8, 1.3)],
            "ratio": 0.77,
            "limit": 10.0,
            "passed": True,
        },
        "faults": {
            "planted": 42,
            "caught": 42,
            "located": 42,
            "false_alarms": 0,
            "right_programs": 20,
            "table": table,
            "changes_nothing": [{"name": "synthetic change", "reason": "made up: it commutes"}],
        },
    }


def synthetic_report() -> dict[str, Any]:
    """A made-up report of the agreed form, in which all holds."""
    models = {"cifar10": _model(), "paper": _model()}
    models["paper"] |= {"image_shape": [224, 224, 3], "batch_size": 2}
    return {
        "passed": True,
        "environment": {
            "versions": {"python": "3.11.2", "jax": "0.0.0", "torch": "0.0.0"},
            "devices": {"jax": "cpu: made up", "torch": "cpu (2 threads)"},
            "cpu": "a made-up processor",
            "cores": 2,
            "precision": {"jax": "highest", "torch": "TF32 off"},
            "arguments": {"model": "all", "steps": 100},
            "seconds": 1234.5,
        },
        "models": models,
    }


def failing_report() -> dict[str, Any]:
    """The same with one failure of each kind, all in the first network."""
    report = synthetic_report()
    model = report["models"]["cifar10"]
    report["passed"] = model["passed"] = False
    model["layers"][4] |= {"passed": False, "float32_jax_max": 0.004}
    model |= {
        "first_divergence": ["relu1", "output"],
        "diagnosis": "first diverging stage: relu1 (output); JAX: a made-up mistake\npattern: a made-up pattern",
    }
    model["verdicts"] |= {"relu1": "failed", **dict.fromkeys(_STAGES[2:], "inherited"), "fc3": "not reached"}
    model["checks"][3] |= {"passed": False, "error": float("nan")}
    model["trajectory"] |= {"passed": False, "ratio": 31.0}
    model["faults"] |= {"caught": 41, "located": 40, "false_alarms": 1}
    model["faults"]["table"][30] |= {"caught": False, "located": False, "found_stage": None}
    model["faults"]["table"][31] |= {"located": False, "found_stage": "fc3"}
    return report
