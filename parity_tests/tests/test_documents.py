"""The documents say what the code does."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np
import pytest

import netparity
from jaxalex.networks.tables import NETWORKS
from netparity import bounds
from netparity.pairs import DTYPES
from parity_tests.examples import vgg
from parity_tests.pages.bounds_table import table

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("model", NETWORKS)
def test_the_table_of_bounds_is_the_computed_one(model):
    assert table(model) in (DOCS / "bounds.md").read_text()


def test_the_limits_are_the_real_ones():
    text = (DOCS / "bounds.md").read_text() + (DOCS / "parity.md").read_text()
    assert bounds.C == 4
    assert bounds.U == 2.0**-24
    for said in ("C = 4", "u = 2⁻²⁴", f"{bounds.FLOAT64_LIMIT:g}", f"{bounds.TRAJECTORY_LIMIT:g}"):
        assert said in text
    assert len(DTYPES) == 2


def test_the_guide_s_first_example_is_short_and_passes_and_its_table_is_the_printed_one(capsys):
    first, check, table, by_hand = _blocks()
    assert len([line for line in first.splitlines() if line.strip()]) <= 15
    known: dict[str, Any] = {}
    exec(first, known)
    printed = capsys.readouterr().out
    assert "network: PASSED" in printed
    guide = (DOCS / "port-your-own.md").read_text()
    for line in printed.splitlines()[2:4]:  # the errors after stage, quantity and n depend on the machine
        assert re.search(r"^    " + r"\s+".join(line.split()[:3]) + r"\s+\S+e-16\s+\S+e-07", guide, re.MULTILINE)
    known["labels"] = np.array([0, 3, 9, 3])
    exec(check, known)
    assert known["check"]().passed
    ours = netparity.linen(known["Net"](), known["variables"])
    inferred = netparity.infer_table(ours, known["module"], known["images"])
    printed_table: dict[str, Any] = {}
    stated: dict[str, Any] = {name: getattr(netparity, name) for name in netparity.__all__}
    exec(netparity.as_python(inferred), printed_table)
    exec(table, stated)
    assert stated["TABLE"] == printed_table["TABLE"]
    code = pathlib.Path(vgg.__file__).read_text()
    assert all(line.strip() in code for line in by_hand.splitlines())


def _blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / "port-your-own.md").read_text(), flags=re.DOTALL)
