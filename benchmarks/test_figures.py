"""Costs, ratios, statistics and plans: small numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import inputs, settings, suite
from benchmarks.figures import pairwise, spread
from benchmarks.flops import floor_bytes, model_flops
from benchmarks.process import ROOT
from benchmarks.settings import Setting
from jaxalex.errors import UsageError


@pytest.mark.parametrize(
    ("model", "size", "first_layer", "forward", "training", "state"),
    [
        # GFLOP for an image, as worked out by hand for docs and papers; GB of optimizer state a step
        ("cifar10", 32, 3 * 3 * 3 * 64 * 32 * 32, 0.448, 1.341, 0.72),
        ("paper", 224, 11 * 11 * 3 * 96 * 55 * 55, 2.27, 6.60, 1.25),
    ],
)
def test_model_flops(model: str, size: int, first_layer: int, forward: float, training: float, state: float) -> None:
    from jaxalex import models
    from jaxalex.summary import summarize

    summary = summarize(models.build(model), model, size)
    assert model_flops(summary, "infer") / 1e9 == pytest.approx(forward, abs=0.005 if model == "paper" else 0.0005)
    assert model_flops(summary, "train") / 1e9 == pytest.approx(training, abs=0.005 if model == "paper" else 0.0005)
    assert model_flops(summary, "train") == 3 * model_flops(summary, "infer") - 2 * first_layer
    assert floor_bytes(summary["parameters"], "train") / 1e9 == pytest.approx(state, abs=0.005)


def test_flops_by_hand() -> None:
    layers = [{"macs": 10}, {"macs": 0}, {"macs": 5}]
    assert model_flops({"layers": layers}, "infer") == 30
    assert model_flops({"layers": layers}, "train") == 90 - 20  # the first layer's input has no gradient


def _row(framework: str, **changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "model": "paper",
        "mode": "train",
        "batch_size": 8,
        "precision": "float32",
        "device": "cpu",
        "width": 1.0,
        "inputs": "abc",
        "framework": framework,
        "variant": f"{framework} variant",
        "best": True,
        "images_per_second": 10.0,
        "ratio": 1.25 if framework == "jax" else 1.0,
    }
    return row | changes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "cifar10"),
        ("mode", "infer"),
        ("batch_size", 4),
        ("precision", "bfloat16"),
        ("device", "gpu"),
        ("width", 0.5),
        ("inputs", "def"),
    ],
)
def test_no_ratio_between_rows_that_differ(name: str, value: object) -> None:
    settings.check_comparable(_row("jax"), _row("torch"))
    with pytest.raises(UsageError, match=f"no ratio between rows that differ: {name} "):
        settings.check_comparable(_row("jax"), _row("torch", **{name: value}))


def test_one_ratio_for_each_setting() -> None:
    rows = [
        _row("jax"),
        _row("jax", variant="slower", best=False, images_per_second=9.0),
        _row("torch", images_per_second=8.0),
        _row("jax", batch_size=16, ratio=None),  # PyTorch could not be measured there
    ]
    assert suite.ratios(rows) == [
        {
            "model": "paper",
            "mode": "train",
            "batch_size": 8,
            "precision": "float32",
            "device": "cpu",
            "jax_images_per_second": 10.0,
            "torch_images_per_second": 8.0,
            "torch_variant": "torch variant",
            "ratio": 1.25,
        }
    ]


def test_a_disturbance_of_one_round_disturbs_both() -> None:
    # Round 1 ran at half speed: the ratios do not see it, while the medians' ratio would be off.
    assert pairwise({0: 12.0, 1: 6.0, 2: 12.0}, {0: 10.0, 1: 5.0, 2: 10.0}) == pytest.approx([1.2, 1.2, 1.2])
    assert pairwise({0: 1.0}, {1: 1.0}) == []
    assert spread([1.0]) is None


def test_the_plan() -> None:
    plan = settings.plan(["cifar10", "paper"], ["train"], [32, 1, 32], ["float32"], "cpu", 1.0)
    assert plan == [Setting(m, "train", b, "float32", "cpu") for m in ("cifar10", "paper") for b in (1, 32)]
    with pytest.raises(UsageError, match="a CPU has no TF32"):
        settings.plan(["paper"], ["train"], [1], ["float32", "tf32"], "cpu", 1.0)


def test_inputs_depend_on_name_and_seed_and_are_never_zero() -> None:
    arrays = inputs.parameters({"a.weight": (64, 3, 3, 3), "b.weight": (64, 3, 3, 3), "b.bias": (64,)}, 0)
    assert not np.array_equal(arrays["a.weight"], arrays["b.weight"])
    assert np.array_equal(inputs.parameters({"b.weight": (64, 3, 3, 3)}, 0)["b.weight"], arrays["b.weight"])
    assert arrays["a.weight"].std() == pytest.approx(27**-0.5, rel=0.05)
    assert all((array != 0).all() for array in arrays.values())
    images, labels = inputs.batch("cifar10", 8, 0)
    assert (images.dtype, images.shape, labels.dtype) == (np.uint8, (8, 32, 32, 3), np.int32)
    before = inputs.digest(arrays, images, labels)
    arrays["b.bias"][3] += 1e-6
    assert inputs.digest(arrays, images, labels) != before


@pytest.mark.parametrize("module", ["benchmarks.__main__", "benchmarks.end_to_end", "benchmarks.start_up"])
def test_the_parent_imports_neither_framework(module: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\nimport benchmarks.suite\nprint(*sorted(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"jax", "torch", "numpy"} & set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(("module", "banned"), [("jax_worker", "torch"), ("torch_worker", "jax")])
def test_each_worker_imports_its_own_framework_only(module: str, banned: str) -> None:
    code = (
        f"import sys; sys.modules['{banned}'] = None; sys.modules['{banned}_ref'] = None\n"
        f"from benchmarks import {module} as m\n"
        "w = m.JaxWorker() if hasattr(m, 'JaxWorker') else m.TorchWorker()\n"
        "s = dict(model='cifar10', mode='infer', batch_size=1, precision='float32', device='cpu', width=0.01)\n"
        "w.hello('cpu', 'float32'); w.build(s, 'eval_step' if hasattr(m, 'JaxWorker') else 'eager', 0)\n"
        "w.first('step', 0.0); print(w.loss('step') > 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "True\n"


def test_misuse_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.__main__ import main

    for argv, message in (
        (["--batch-size", "4,0"], "must be whole numbers from 1 on"),
        (["--precision", "float16"], "unknown float16: known are float32, tf32, bfloat16"),
        (["--precision", "tf32"], "a CPU has no TF32"),
        (["--repeats", "1"], "--repeats must be at least 3"),
        (["--warmup", "0"], "--warmup must be at least 3"),
        (["--resume"], "--resume needs --json FILE"),
        (["--json", "no/such/folder/x.json"], "there is no folder no/such/folder"),
        (["--variants", "fast"], "unknown fast"),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
