"""The catalogue of known mistakes, and the page that is made of it and of what was found."""

from __future__ import annotations

import json
import re

import pytest

from netparity.diagnosis.mistakes import MISTAKES
from parity_tests.mistakes.catalogue import MISTAKES as PLANTED
from parity_tests.pages import mistakes


def _row(kind, verdict="right", located=True, passes=(True, False, False), side="jax"):
    return {
        "name": f"a {kind}", "kind": kind, "network": "lenet5", "library": "linen", "side": side, "stage": "conv1",
        "found": "conv1" if located else "conv2", "caught": True, "located": located, "verdict": verdict,
        "diagnosis": f"first diverging stage: conv1 (output); {kind}, {verdict}", "says": [], "seconds": 0.1,
        "allclose": dict(zip(("1e-05", "0.001", "0.1"), passes, strict=True)),
    }  # fmt: skip


@pytest.fixture
def found():
    rows = [_row("gelu-tanh", "none"), _row("gelu-tanh", passes=(False, True, True)), _row("bias", side="torch")]
    return {
        "totals": {
            "planted": 3, "caught": 3, "located": 3, "right": 2, "wrong": 0, "none": 1,
            "allclose_passes": {"1e-05": 2, "0.001": 1, "0.1": 1},
        },
        "environment": {"cpu": "A processor", "cores": 2, "versions": {"jax": "1", "flax": "2", "torch": "3"}},
        "right": {"networks": 4, "refused": []},
        "harmless": [{"name": "a bias before it", "network": "vgg", "why": "it is taken off", "passed": True,
                      "diagnosis": None}],
        "mistakes": rows,
    }  # fmt: skip


def test_every_known_mistake_says_why_how_to_mend_it_and_where_it_was_reported():
    assert len(MISTAKES) >= 60
    for key, one in MISTAKES.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key)
        assert len(one.why) > 20
        assert one.mend
        assert one.source.startswith("https://")
    assert len({one.title for one in MISTAKES.values()}) == len(MISTAKES)


def test_every_mistake_that_is_planted_is_known():
    assert {one.kind for one in PLANTED} <= set(MISTAKES)


def test_the_page_has_a_line_of_a_mistake_that_was_named(found):
    page = mistakes.page(found)
    assert "    first diverging stage: conv1 (output); gelu-tanh, right" in page
    assert "gelu-tanh, none" not in page
    assert "a bias, in lenet5 (PyTorch):" in page
    assert "https://github.com/goodfire-ai/spd/issues/624" in page
    assert "`jax.nn.gelu(x, approximate=False)`" in page


def test_the_table_counts_and_its_links_lead_to_headings(found):
    page = mistakes.page(found)
    assert "| [GELU by tanh for GELU by erf](#gelu-by-tanh-for-gelu-by-erf) | 2 | 2 | 2 | 1 | 1 | 1 | 1 |" in page
    assert (
        "| mistake | planted | caught | located | named | passes at 1e-05 | passes at 0.001 | passes at 0.1 |" in page
    )
    headings = {mistakes._anchor(line[4:]) for line in page.splitlines() if line.startswith("### ")}
    assert set(re.findall(r"\(#([^)]*)\)", page)) == headings


def test_networks_are_counted_and_what_changes_nothing_is_told(found):
    page = mistakes.page(found)
    assert "| lenet5 | Linen | 3 | 3 | 3 | 2 |" in page
    assert page.endswith("\n- a bias before it, in vgg: it is taken off.\n")
    found["harmless"][0] |= {"passed": False, "diagnosis": "first diverging stage: conv1"}
    assert "**Refused:** first diverging stage: conv1" in mistakes.page(found)


def test_the_totals_in_two_sentences(found):
    assert mistakes.summary(found) == (
        "3 mistakes of 2 kinds planted: 3 caught, 3 located at their stage, 2 named, none named wrongly; 0 of 4 right "
        "networks refused. `assert_allclose` on the logits would have passed 2 at 1e-05, 1 at 0.001, 1 at 0.1. "
        "A processor, 2 cores; jax 1, flax 2, torch 3."
    )


def test_the_command_writes_the_page_and_between_the_readme_s_markers(found, tmp_path, capsys):
    data, page, readme = tmp_path / "m.json", tmp_path / "m.md", tmp_path / "README.md"
    data.write_text(json.dumps(found))
    readme.write_text("# A\n\n<!-- mistakes:begin -->\nold\n<!-- mistakes:end -->\n\nB\n")
    command = ["--json", str(data), "--page", str(page), "--readme", str(readme)]
    assert mistakes.main([*command, "--check"]) == 1
    assert not page.exists()
    assert mistakes.main(command) == 0
    assert mistakes.main([*command, "--check"]) == 0
    assert page.read_text() == mistakes.page(found)
    assert mistakes.summary(found) in readme.read_text()
    assert "old" not in readme.read_text()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "not what was planted"),
        ('{"mistakes": [{"kind": "sabotage"}]}', "netparity/diagnosis/mistakes.py does not know sabotage"),
    ],
)
def test_what_is_no_result_is_one_line(text, message, tmp_path, capsys):
    data = tmp_path / "m.json"
    data.write_text(text)
    assert mistakes.main(["--json", str(data), "--page", str(tmp_path / "m.md")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
