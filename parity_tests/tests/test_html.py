"""The page, from a made-up report: nothing in here was measured."""

from __future__ import annotations

import copy
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from netparity.report.charts import LogScale, Series, decades, dot_chart, line_chart
from netparity.report.html import write_html

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
    model["checks"][3] |= {"passed": False, "error": float("nan")}
    model["trajectory"] |= {"passed": False, "ratio": 31.0}
    model["faults"] |= {"caught": 41, "located": 40, "false_alarms": 1}
    model["faults"]["table"][30] |= {"caught": False, "located": False, "found_stage": None}
    model["faults"]["table"][31] |= {"located": False, "found_stage": "fc3"}
    return report


def _page(report: dict[str, Any], tmp_path: Any) -> ET.Element:
    path = tmp_path / "report.html"
    write_html(report, path)
    return ET.fromstring(path.read_text(encoding="utf-8"))  # well-formed, or it would raise


def _words(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _tables(page: ET.Element, first_heading: str) -> list[list[list[str]]]:
    tables = []
    for table in page.iter("table"):
        rows = [[_words(cell) for cell in row] for row in table.iter("tr")]
        if rows[0][1] == first_heading:
            tables.append(rows[1:])
    return tables


def test_the_page_needs_nothing_from_outside(tmp_path):
    write_html(synthetic_report(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|url\(|@import|<script|<link|javascript:", text)
    assert "default-src 'none'" in text


def test_the_verdict_comes_first(tmp_path):
    holds, fails = (_words(_page(r, tmp_path).find("body/section")) for r in (synthetic_report(), failing_report()))
    assert holds.startswith("Parity holds")
    assert fails.startswith("Parity fails")
    for reason in (
        "cifar10: relu1 output is out of bounds",
        "forward: forward of everything (float64) fails",
        "trajectories part faster",
        "planted fault not caught: synthetic fault 30",
        "false alarms on right programs: 1",
    ):
        assert reason in fails
    assert "paper" not in fails


def test_every_row_of_the_report_is_on_the_page(tmp_path):
    report = synthetic_report()
    page = _page(report, tmp_path)
    model = report["models"]["paper"]
    layers = _tables(page, "quantity")[1]
    assert [row[:2] for row in layers] == [[layer["stage"], layer["quantity"]] for layer in model["layers"]]
    conv1 = model["layers"][0]
    figures = [f"{conv1[key]:.1e}" for key in ("float32_jax_max", "float32_torch_max", "float32_jax_rms")]
    assert layers[0][5:8] == figures
    assert len(_tables(page, "fault")[1]) == 42
    assert sum(len(rows) for rows in _tables(page, "check")) == 2 * len(model["checks"])
    words = _words(page)
    for text in ("synthetic change", "made up: it commutes", "24,576", "a made-up processor", "TF32 off", "1.37×"):
        assert text in words


def test_faults_that_slipped_through_come_first_and_are_marked(tmp_path):
    rows = _tables(_page(failing_report(), tmp_path), "fault")[0]
    assert [row[:2] for row in rows[:3]] == [
        ["✗ not caught", "synthetic fault 30"],
        ["caught, elsewhere", "synthetic fault 31"],
        ["✓ caught", "synthetic fault 0"],
    ]


def test_all_text_is_escaped(tmp_path):
    evil = "<b onclick='x()'>&\"</b>"

    def poison(value: Any) -> Any:
        if isinstance(value, str):
            return value + evil
        if isinstance(value, dict):
            kept = ("level", "quantity", "dtype")
            return {k + evil if k == "paper" else k: v if k in kept else poison(v) for k, v in value.items()}
        return [poison(v) for v in value] if isinstance(value, list) else value

    page = _page(poison(failing_report()), tmp_path)
    assert not [element for element in page.iter() if "onclick" in element.attrib]
    assert _words(page).count(evil) > 400


@pytest.mark.parametrize("left_out", ["trajectory", "faults", "flips", "checks", "layers"])
def test_a_part_that_was_not_run_is_not_shown(left_out, tmp_path):
    report = synthetic_report()
    for model in report["models"].values():
        model[left_out] = None
    headings = {
        "trajectory": "Training, step",
        "faults": "Planted",
        "flips": "Flips",
        "checks": "Checks by",
        "layers": "Layer by",
    }
    words = _words(_page(report, tmp_path))
    assert headings.pop(left_out) not in words
    assert all(heading in words for heading in headings.values())


def test_float64_alone_is_a_report_too(tmp_path):
    report = copy.deepcopy(synthetic_report())
    for model in report["models"].values():
        model["float32_error_ratio_jax_over_torch"] = None
        model["trajectory"] |= {"float32_difference": [], "controls": [], "ratio": None}
        for layer in model["layers"]:
            for key in ("float32_jax_max", "float32_torch_max", "float32_jax_rms", "float32_torch_rms", "bound"):
                layer[key] = None
    page = _page(report, tmp_path)
    assert _tables(page, "quantity")[0][0][5] == "–"
    assert "Training, step" in _words(page)
    assert "last place" not in _words(page)
    assert not [e for e in page.iter("path") if e.get("class") == "mark circle jax" and len(e)]


def test_the_axis_is_logarithmic_and_zero_is_no_small_number():
    scale = LogScale(-16, -6, start=100, end=300, zero=80)
    assert [scale(10.0**p) for p in (-16, -11, -6)] == pytest.approx([100, 200, 300])
    assert scale(0.0) == 80
    assert scale(math.nan) == scale(math.inf) == 300
    assert decades([]) == (-16, 0)
    assert decades([1e-3]) == (-3, -2)


def test_marks_lie_where_their_values_are():
    series = Series("float32", "jax")
    rows = [("small", True, {"float32": 1e-7}), ("large", False, {"float32": 1e-5}), ("none", True, {"float32": None})]
    svg = ET.fromstring(dot_chart("a chart", rows, (series,), (-8, -4)))
    marks = [e for e in svg.iter("path") if e.get("class") == "mark circle jax"]
    small, large = (float(re.match(r"M([\d.]+)", mark.get("d")).group(1)) for mark in marks)
    assert large - small == pytest.approx(376 / 2, abs=0.2)  # two of four decades
    assert [_words(mark) for mark in marks] == ["small: float32 1.0e-07", "large: float32 1.0e-05"]
    assert "✗ large" in _words(svg)


def test_a_line_has_a_point_for_every_step():
    series = Series("a <line>", "jax", "line")
    svg = ET.fromstring(line_chart("lines", [1, 2, 3], [(series, [0.0, 1e-9, 1e-7])]))
    line = svg.find("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
    assert len(points) == 3
    assert points[0][1] > points[1][1] > points[2][1]  # zero at the foot, the largest on top
    with pytest.raises(ValueError, match="zip"):
        line_chart("lines", [1, 2], [(series, [1.0])])
