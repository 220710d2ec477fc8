"""The README's figures: the command on a made-up report, and the committed one."""

from __future__ import annotations

import copy
import json
import pathlib

import pytest

from jaxalex.networks.tables import NETWORKS
from parity_tests.pages import readme_tables
from parity_tests.tests.synthetic import failing_report, synthetic_report

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    report, readme = tmp_path / "report.json", tmp_path / "README.md"
    report.write_text(json.dumps(synthetic_report()))
    readme.write_text("# A page\n\n<!-- parity:begin -->\nold\n<!-- parity:end -->\n\nThe end.\n")
    return report, readme


def _run(*args: object) -> int:
    return readme_tables.main([str(arg) for arg in args])


def test_a_row_for_each_layer_of_each_network():
    text = readme_tables.tables(synthetic_report())
    for layer in (*(f"conv{i}" for i in range(1, 6)), "fc1", "fc2", "fc3"):
        assert text.count(f"| `{layer}` |") == 2
    assert text.count("Exact on both sides: `relu1`, `pool1`, `relu2`") == 2
    assert text.count("kernel gradient, worst: `") == 2
    assert "**cifar10**, images 32×32×3, batch size 8, width 1" in text


def test_the_figures_are_the_report_s():
    report = synthetic_report()
    layer = next(x for x in report["models"]["paper"]["layers"] if (x["stage"], x["quantity"]) == ("fc2", "output"))
    layer |= {"float64_error": 1.2e-15, "float32_jax_rms": 3.4e-8, "float32_torch_rms": 5.6e-8, "bound": 7.8e-6}
    assert "| `fc2` | 1.2e-15 | 3.4e-08 | 5.6e-08 | 7.8e-06 |" in readme_tables.tables(report).split("**paper**")[1]


def test_a_report_of_four_networks_has_a_table_and_a_line_for_each():
    report = synthetic_report()
    models = {name: copy.deepcopy(report["models"]["paper"]) for name in NETWORKS}
    norm = {"stage": "norm1", "quantity": "output", "float64_error": 2.5e-16, "float32_jax_rms": 3.5e-8}
    models["original"]["layers"].insert(2, {**models["original"]["layers"][4], **norm})
    text, brief = (write({**report, "models": models}) for write in (readme_tables.tables, readme_tables.evidence))
    assert [text.count(f"**{name}**, images") for name in NETWORKS] == [1, 1, 1, 1]
    assert text.count("| `norm1` | 2.5e-16 | 3.5e-08 |") == 1
    assert [line.split(" | ")[0] for line in brief.splitlines()[2:6]] == [f"| {name}" for name in NETWORKS]
    assert text.count(" of 42 caught") == brief.count(" of 42 caught") == 4


def test_the_worst_gradient_is_the_one_nearest_to_its_bound():
    report = synthetic_report()
    for layer in report["models"]["cifar10"]["layers"]:
        if (layer["stage"], layer["quantity"]) == ("conv4", "vjp_bias"):
            layer["float32_jax_max"] = 0.9 * layer["bound"]
    assert "| bias gradient, worst: `conv4` |" in readme_tables.tables(report)


def test_the_score_names_machine_and_versions():
    last = readme_tables.tables(synthetic_report()).splitlines()[-1]
    assert last.startswith("Parity holds. Planted faults: cifar10 42 of 42 caught")
    assert readme_tables.tables(failing_report()).splitlines()[-1].startswith("**Parity fails.**")
    assert "cifar10 42 of 42 caught, 42 located, 0 false alarms on 20 right programs; paper 42 of 42" in last
    assert "a made-up processor, 2 cores; jax 0.0.0, torch 0.0.0" in last


def test_what_was_written_passes_the_check_and_the_rest_stays(files, capsys):
    report, readme = files
    assert _run(report, readme, "--check") == 1
    assert "disagrees" in capsys.readouterr().err
    assert "old" in readme.read_text()
    assert _run(report, readme) == 0
    assert _run(report, readme, "--check") == 0
    text = readme.read_text()
    assert text.startswith("# A page\n\n<!-- parity:begin -->\n\n**cifar10**")
    assert text.endswith("<!-- parity:end -->\n\nThe end.\n")
    readme.write_text(text.replace("42 of 42", "43 of 43"))
    assert _run(report, readme, "--check") == 1


@pytest.mark.parametrize(
    ("report", "readme", "message"),
    [
        (None, None, "cannot be read"),
        ("{", None, "not JSON"),
        ("[]", None, "not a parity report"),
        ('{"models": {}}', None, "not a parity report"),
        ("good", "no markers", "needs markers: <!-- parity:begin -->"),
        ("good", "<!-- parity:end --> <!-- parity:begin -->", "needs one line"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(files, capsys, report, readme, message):
    if report is None:
        files[0].unlink()
    elif report != "good":
        files[0].write_text(report)
    if readme is not None:
        files[1].write_text(readme)
    before = files[1].read_text()
    assert _run(*files) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert files[1].read_text() == before


def test_unknown_flags_are_misuse(capsys):
    assert _run("--nonsense") == 2
    assert "--help" in capsys.readouterr().err


def test_the_brief_table_holds_the_largest_of_each_layer(tmp_path):
    report = synthetic_report()
    for layer in report["models"]["cifar10"]["layers"]:
        if layer["stage"] == "conv2":
            layer["float64_error"] = {"output": 1e-15, "vjp_input": 3e-15}.get(layer["quantity"], 2e-15)
    report["models"]["cifar10"]["float64_max_relative_error"] = 4.5e-14
    page = tmp_path / "page.md"
    (tmp_path / "report.json").write_text(json.dumps(report))
    page.write_text("<!-- evidence:begin -->\n<!-- evidence:end -->\n")
    assert _run(tmp_path / "report.json", page) == 0
    lines = page.read_text().splitlines()
    head = next(line for line in lines if line.startswith("| float64"))
    assert head.split(" | ")[1:] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3", "worst of all |"]
    cells = next(line for line in lines if line.startswith("| cifar10")).split(" | ")
    assert (cells[2], cells[-1]) == ("3.0e-15", "4.5e-14 |")
    assert "42 of 42 caught" in page.read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/parity.md"])
def test_the_pages_show_the_committed_report(page):
    assert _run(ROOT / "docs" / "parity-report.json", ROOT / page, "--check") == 0


def test_the_committed_report_is_of_the_whole_networks():
    report = json.loads((ROOT / "docs" / "parity-report.json").read_text())
    assert report["passed"]
    assert {"cifar10", "paper"} <= set(report["models"]) <= set(NETWORKS)
    assert {model["width"] for model in report["models"].values()} == {1}
