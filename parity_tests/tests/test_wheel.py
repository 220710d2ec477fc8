"""The comparison engine as others install it: from the wheel, without this project around it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from parity_tests.examples import vgg

ROOT = pathlib.Path(__file__).parents[2]
# Runs a file as a program that can import nothing of the project but netparity.
_ALONE = """
import runpy, sys
for name in ("jaxalex", "torch_ref", "parity_tests"):
    sys.modules[name] = None
import netparity
print(netparity.__file__)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_example_runs_elsewhere_with_only_the_wheel(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("jaxalex-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "netparity/report/html.css" in archive.namelist()
        assert {name.split("/")[0] for name in archive.namelist()} >= {"jaxalex", "netparity"}
        assert not [name for name in archive.namelist() if name.startswith(("parity_tests", "torch_ref", "tests"))]
        archive.extractall(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(vgg.__file__, elsewhere)
    run = subprocess.run(
        [sys.executable, "-c", _ALONE, "vgg.py", "out"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.splitlines()[0] == str(tmp_path / "site" / "netparity" / "__init__.py")
    assert "vgg: PASSED" in run.stdout
    assert json.loads((elsewhere / "out" / "report.json").read_text())["passed"] is True
    assert "--paper: #ffffff" in (elsewhere / "out" / "report.html").read_text()


def test_importing_it_imports_no_framework():
    code = (
        "import sys, netparity\n"
        "from netparity import ParityError, Same\n"
        "print(*{name.split('.')[0] for name in sys.modules})\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert "netparity" in run.stdout.split()
    assert not {"jax", "flax", "torch", "jaxalex", "torch_ref", "parity_tests"} & set(run.stdout.split())


def test_every_public_name_is_there():
    code = (
        "import netparity, netparity.comparison\n"
        "print(*sorted(name for name in netparity.__all__ if getattr(netparity, name).__doc__))\n"
        "print(callable(netparity.compare), 'compare' in dir(netparity))\n"
        "netparity.nonsense\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.splitlines() == [
        "AsIs ChannelsFirst Comparison Concatenated ConvKernel ConvTransposeKernel DenseKernel Entry Flattened "
        "JaxNetwork ParityError Part Regrouped Reshaped Result Same Stack Sum Transposed WeightPair "
        "WeightsComparison as_python assert_parity compare compare_weights equinox finish "
        "full_float32 function infer_table linen nnx",
        "True True",
    ]
    assert "module 'netparity' has no attribute 'nonsense'" in run.stderr
