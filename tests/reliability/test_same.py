"""The same every time: hash seeds, locales and threads change no bit; a run repeats from its config."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from jaxalex import config
from jaxalex.system import environment
from jaxalex.training import loop
from reliability.runs import SMALL, assert_same


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param(
            {"PYTHONHASHSEED": "1", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": "C"},
            marks=pytest.mark.slow,
        ),
        {"PYTHONHASHSEED": "4294967295", "LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu", "OMP_NUM_THREADS": "1"},
    ],
)
def test_nothing_around_it_matters(unbroken, tmp_path, variables: dict[str, str]) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-W", "error", "-m", "jaxalex.train", *SMALL, "--num-epochs", "3", "--workdir", str(run)]
    result = subprocess.run(command, env=os.environ | variables, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert_same(run, unbroken)
    assert (run / "config.json").read_bytes() == (unbroken / "config.json").read_bytes()
    for name in ("curves.png", "confusion.png", "predictions.png", "filters.png", "examples.png", "mistakes.png"):
        assert (run / name).read_bytes() == (unbroken / name).read_bytes()


def test_config_and_versions_are_enough_to_repeat_a_run(unbroken, tmp_path) -> None:
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["versions"] == environment.versions()
    values = json.loads((unbroken / "config.json").read_text())
    loop.train_and_evaluate(config.from_dict(values), tmp_path / "run")
    assert_same(tmp_path / "run", unbroken)
