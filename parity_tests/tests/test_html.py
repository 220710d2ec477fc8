"""The page, made from a made-up report."""

from __future__ import annotations

import copy
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from netparity.report.charts import LogScale, Series, decades, dot_chart, line_chart
from netparity.report.graph_chart import graph_chart
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
    holds, fails = (
        _words(_first(_page(r, tmp_path), "body/main/section")) for r in (synthetic_report(), failing_report())
    )
    assert holds.startswith("Parity holds")
    assert fails.startswith("Parity fails")
    for reason in (
        "cifar10",
        "relu1 output is out of bounds",
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


def test_what_differs_first_and_why_stands_in_a_box_in_the_verdict(tmp_path):
    (box,) = (e for e in _page(failing_report(), tmp_path).iter("div") if e.get("class") == "diagnosis")
    said = [_words(paragraph) for paragraph in box.iter("p")]
    assert said == [
        "relu1 (output) is the first that differs.",
        "JAX: a made-up mistake.",
        "Pattern: a made-up pattern.",
        "It is computed from conv1 (agrees).",
    ]
    around = [_words(text) for text in box.iter("text")]
    assert around == ["input", "✓ conv1", "✗ relu1 — first difference", "≈ pool1"]


@pytest.mark.parametrize(
    ("said", "sentences"),
    [
        (
            "(output, in evaluation); the difference vanishes under: JAX has epsilon 1e-06 where PyTorch has 1e-05",
            ["JAX has epsilon 1e-06 where PyTorch has 1e-05.", "Changed in that alone, both sides agree."],
        ),
        (
            "(output); no known mistake explains it: JAX's output is -2 times PyTorch's; relative error 3.0e+00",
            ["No known mistake explains it.", "JAX's output is -2 times PyTorch's.", "Relative error 3.0e+00."],
        ),
    ],
)
def test_the_box_says_the_diagnosis_in_sentences(said, sentences, tmp_path):
    report = failing_report()
    report["models"]["cifar10"]["diagnosis"] = f"first diverging stage: relu1 {said}"
    (box,) = (e for e in _page(report, tmp_path).iter("div") if e.get("class") == "diagnosis")
    assert [_words(paragraph) for paragraph in box.iter("p")][1:-1] == sentences


def test_the_box_says_how_to_mend_it(tmp_path):
    report = failing_report()
    report["models"]["cifar10"]["advice"] = "Set <epsilon>."
    assert "To mend it: Set <epsilon>." in _words(_page(report, tmp_path))


def test_the_graph_shows_every_stage_with_its_verdict_in_shape_and_text(tmp_path):
    page = _page(failing_report(), tmp_path)
    charts = [e for e in page.iter("svg") if str(e.get("aria-label")).startswith("The graph of 20 stages")]
    assert len(charts) == 2  # one for each network
    boxes = {_words(_first(e, "text")): e.attrib["class"] for e in charts[0].iter("g")}
    assert len(boxes) == 21  # twenty stages and the input
    assert boxes["input"] == "stage input"
    assert boxes["✓ conv1"] == "stage passed"
    assert boxes["✗ relu1 — first difference"] == "stage failed first"
    assert boxes["≈ pool1"] == "stage inherited"
    assert boxes["… fc3"] == "stage not-reached"
    (target,) = (e.attrib["href"] for e in page.iter("a") if _words(e) == "to the first difference")
    (led_to,) = (e for e in page.iter("g") if e.get("id") == target[1:])
    assert _words(_first(led_to, "text")) == "✗ relu1 — first difference"
    rows = _tables(page, "stage")[0]
    assert ["✗ differs, fed the same", "relu1", "conv1"] in [row[:3] for row in rows]
    words = _words(page)
    assert "✓ agrees: 1" in words
    assert "≈ agrees by itself, is fed what differs: 17" in words


def test_a_line_that_one_side_has_alone_is_marked_and_named(tmp_path):
    report = failing_report()
    report["models"]["cifar10"]["torch_parents"] = {"relu1": ["input", "conv1"], "pool1": ["conv1"]}
    page = _page(report, tmp_path)
    words = _words(page)
    assert "In PyTorch, as far as gradients go, it is computed from input (an input) and conv1 (agrees)." in words
    chart = next(e for e in page.iter("svg") if str(e.get("aria-label")).startswith("The graph of 20 stages"))
    lines = [e.attrib["class"] for e in chart.iter("path")]
    assert lines.count("edge only-torch") == 2  # from input to relu1, from conv1 to pool1
    assert lines.count("edge only-jax") == 1  # from relu1 to pool1
    assert "in PyTorch alone" in words
    assert "in JAX alone" in words


def test_a_line_that_would_close_a_circle_is_left_out():
    parents = {"a": ["input"], "b": ["a"]}
    chart = graph_chart(parents, {"a": ["input", "b"]}, dict.fromkeys(parents, "failed"), "a", "a graph")
    assert len(list(ET.fromstring(chart).iter("path"))) == 2


def test_a_line_that_skips_stages_runs_beside_them():
    parents = {"conv": ["input"], "bn": ["conv"], "relu": ["bn"], "sum": ["relu", "input"]}
    svg = ET.fromstring(graph_chart(parents, {}, dict.fromkeys(parents, "passed"), None, "a graph"))
    boxes = {}
    for group in svg.iter("g"):
        rect = {key: float(_first(group, "rect").attrib[key]) for key in ("x", "y", "width", "height")}
        boxes[_words(_first(group, "text")).removeprefix("✓ ")] = rect
    tops = [boxes[name]["y"] for name in ("input", "conv", "bn", "relu", "sum")]
    assert tops == sorted(set(tops))
    longest = max((path.attrib["d"] for path in svg.iter("path")), key=len)
    points = [tuple(map(float, p.split())) for p in re.findall(r"[\d.]+ [\d.]+", longest)]
    lane = max(x for x, _ in points)
    for name in ("conv", "bn", "relu"):
        assert lane > boxes[name]["x"] + boxes[name]["width"]
    assert lane < float(svg.attrib["width"])


def test_what_the_attributes_show_is_a_table(tmp_path):
    rows = _tables(_page(synthetic_report(), tmp_path), "what")
    assert rows[0] == [["drop1", "rate", "0.5", "0.50", "made up: written otherwise"]]


def test_histograms_stand_beside_one_another_and_exact_stages_are_only_named(tmp_path):
    page = _page(synthetic_report(), tmp_path)
    figures = list(page.iter("figure"))
    assert [_words(_first(e, "figcaption")) for e in figures[:3]] == ["conv1", "conv2", "conv3"]
    bars = {side: _first(figures[0], f"svg/path[@class='bar {side}']").attrib["d"] for side in ("jax", "torch")}
    # 200 of 1000 numbers are the most of either side; JAX's bars go up, PyTorch's down, on the same scale.
    heights = {side: [float(h) for h in re.findall(r"v(-?[\d.]+)", d)] for side, d in bars.items()}
    assert heights["jax"] == [-8.5, -17, -34, -17, -6.8, -1.7]
    assert heights["torch"] == [10.2, 17, 32.3, 17, 6.8]
    # The tenth bin is [1/2, 1) of a unit: 2 ** -8 is the second bin's lower edge.
    assert _words(_first(figures[0], "p")) == "▲ JAX 50 % exact, 1.0 % > ½▼ PyTorch 51 % exact, 0 % > ½"
    assert "Exact on both sides: relu1, pool1, relu2" in _words(page)


def test_what_scrolls_can_be_reached_by_the_keyboard_and_has_a_name(tmp_path):
    page = _page(failing_report(), tmp_path)
    boxes = [e for e in page.iter("div") if e.get("class") in ("scroll", "wide", "graph-box")]
    assert len(boxes) > 20
    assert all((e.get("tabindex"), e.get("role")) == ("0", "group") and e.get("aria-label") for e in boxes)
    assert all(e.get("aria-label") or e.get("aria-hidden") for e in page.iter("svg"))


def test_many_rows_are_folded_away_but_for_the_worst(tmp_path):
    report = failing_report()
    model = report["models"]["cifar10"]
    model["layers"] *= 3
    page = _page(report, tmp_path)
    section = page.findall("body/main/section")[3]
    charts = [e for e in section.iter("div") if e.get("class") == "wide"]
    assert charts[0].attrib["aria-label"] == "Nearest to their limits, or beyond"
    labels = [_words(e) for e in charts[0].iter("text") if "label" in e.attrib["class"]]
    assert labels[0] == "✗ relu1, output"
    assert len(labels) == 16
    assert not [e for e in section.iter("details") if "Output" in _words(_first(e, "summary")) and e.get("open") == ""]


def test_a_report_of_before_has_no_graph_and_no_histograms(tmp_path):
    report = failing_report()
    for model in report["models"].values():
        for key in ("parents", "verdicts", "first_divergence", "conventions", "ulp_edges"):
            del model[key]
        for row in model["layers"]:
            del row["histogram"]
    page = _page(report, tmp_path)
    assert not [e for e in page.iter("svg") if e.get("class") == "graph"]
    assert "How float32 errs" not in _words(page)
    assert "Layer by layer" in _words(page)


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
            kept = ("level", "quantity", "dtype", "verdicts")
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
            layer["histogram"] = None
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
