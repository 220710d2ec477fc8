"""The page, made from a made-up report."""

from __future__ import annotations

import copy
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from netparity.report.charts import LogScale, Series, decades, dot_chart, line_chart
from netparity.report.html import write_html
from parity_tests.tests.synthetic import failing_report, synthetic_report


def _page(report: dict[str, Any], tmp_path: Any) -> ET.Element:
    path = tmp_path / "report.html"
    write_html(report, path)
    return ET.fromstring(path.read_text(encoding="utf-8"))  # well-formed, or it would raise


def _first(element: ET.Element, path: str) -> ET.Element:
    found = element.find(path)
    assert found is not None
    return found


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
    holds, fails = (_words(_first(_page(r, tmp_path), "body/section")) for r in (synthetic_report(), failing_report()))
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
    rows: list[tuple[str, bool, dict[str, float | None]]] = [
        ("small", True, {"float32": 1e-7}),
        ("large", False, {"float32": 1e-5}),
        ("none", True, {"float32": None}),
    ]
    svg = ET.fromstring(dot_chart("a chart", rows, (series,), (-8, -4)))
    marks = [e for e in svg.iter("path") if e.get("class") == "mark circle jax"]
    small, large = (float(mark.attrib["d"].removeprefix("M").split()[0]) for mark in marks)
    assert large - small == pytest.approx(376 / 2, abs=0.2)  # two of four decades
    assert [_words(mark) for mark in marks] == ["small: float32 1.0e-07", "large: float32 1.0e-05"]
    assert "✗ large" in _words(svg)


def test_a_line_has_a_point_for_every_step():
    series = Series("a <line>", "jax", "line")
    svg = ET.fromstring(line_chart("lines", [1, 2, 3], [(series, [0.0, 1e-9, 1e-7])]))
    line = _first(svg, "polyline")
    points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    assert len(points) == 3
    assert points[0][1] > points[1][1] > points[2][1]  # zero at the foot, the largest on top
    with pytest.raises(ValueError, match="zip"):
        line_chart("lines", [1, 2], [(series, [1.0])])
