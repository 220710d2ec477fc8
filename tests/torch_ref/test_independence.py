"""The reference stands alone, and its commands answer without loading a framework."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torch_ref

FORBIDDEN = {"jax", "jaxlib", "flax", "optax", "orbax", "jaxalex", "parity_tests"}
FILES = sorted(Path(torch_ref.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_imports_the_other_side(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert not imported & FORBIDDEN


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return result.stdout


def test_nothing_loads_the_other_side():
    modules = ", ".join("torch_ref." + path.stem for path in FILES if path.stem != "__init__")
    loaded = run(
        f"import sys, {modules}; from torch_ref import data; data.load('digits'); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    ).split()
    assert "torchvision" in loaded
    assert not set(loaded) & FORBIDDEN


def test_help_is_grouped_and_loads_no_framework():
    out = run(
        "import sys\n"
        "from torch_ref import export, train\n"
        "for command in (train, export):\n"
        "    try:\n"
        "        command.main(['--help'])\n"
        "    except SystemExit as stop:\n"
        "        print('code', stop.code)\n"
        "print('loaded', *{name.split('.')[0] for name in sys.modules})\n"
    )
    assert out.count("code 0") == 2
    assert not {"torch", "torchvision", "numpy", "sklearn"} & set(out.split("loaded ")[1].split())
    for flag in [
        *("--model", "--width", "--softmax-in-network", "--dataset", "--data-dir", "--limit-train"),
        *("--limit-eval", "--batch-size", "--num-epochs", "--learning-rate", "--momentum"),
        *("--weight-decay", "--seed", "--device", "--workdir"),
    ]:
        assert f"\n  {flag}" in out, flag
    for group in ("network", "data", "optimization", "run"):
        assert f"\n{group}:\n" in out
