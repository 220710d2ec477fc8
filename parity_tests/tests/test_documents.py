"""The documents say what the code does."""

from __future__ import annotations

import pathlib
import re

import pytest

from netparity import bounds
from netparity.levels import DTYPES
from parity_tests.examples import vgg
from parity_tests.pages.bounds_table import table

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("model", ["cifar10", "paper"])
def test_the_table_of_bounds_is_the_computed_one(model):
    assert table(model) in (DOCS / "parity.md").read_text()


def test_the_limits_are_the_real_ones():
    text = (DOCS / "parity.md").read_text()
    assert bounds.C == 4
    assert bounds.U == 2.0**-24
    for said in ("C = 4", "u = 2⁻²⁴", f"{bounds.FLOAT64_LIMIT:g}", f"{bounds.TRAJECTORY_LIMIT:g}"):
        assert said in text
    assert len(DTYPES) == 2


def test_the_example_in_the_guide_is_the_tested_one():
    guide = (DOCS / "port-your-own.md").read_text()
    code = pathlib.Path(vgg.__file__).read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        assert block.strip() in code, block
