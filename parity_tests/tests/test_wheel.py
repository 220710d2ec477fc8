"""The comparison engine as others install it: from the wheel, without this project around it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of an installation of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("jaxalex-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "netparity/report/html.css" in archive.namelist()
        assert {name.split("/")[0] for name in archive.namelist()} >= {"jaxalex", "netparity"}
        assert not [name for name in archive.namelist() if name.startswith(("parity_tests", "torch_ref", "tests"))]
        archive.extractall(folder / "site")
    return folder / "site"


def _run(site, elsewhere, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=elsewhere, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_the_example_runs_elsewhere_with_only_the_wheel(site, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(vgg.__file__, elsewhere)
    run = _run(site, elsewhere, "-c", _ALONE, "vgg.py", "out")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == str(site / "netparity" / "__init__.py")
    assert "vgg: PASSED" in run.stdout
    assert json.loads((elsewhere / "out" / "report.json").read_text())["passed"] is True
    assert "--paper: #ffffff" in (elsewhere / "out" / "report.html").read_text()


@pytest.mark.slow
def test_both_commands_run_in_a_folder_with_nothing_but_what_they_are_given(site, tmp_path):
    shutil.copy(vgg.__file__, tmp_path)
    with (tmp_path / "vgg.py").open("a") as file:
        file.write("\n\ndef wrong():\n    return compared({**TABLE, 'hidden.kernel': DenseKernel('dense1.weight')})\n")
    run = _run(site, tmp_path, "-m", "netparity", "check", "vgg.py:wrong", "--out", "out")
    assert run.returncode == 1, run.stderr
    assert "first diverging stage: hidden (output)" in run.stdout
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"] is False
    np.savez(tmp_path / "a.npz", kernel=np.eye(3, 5))
    np.savez(tmp_path / "b.npz", weight=np.eye(5, 3))
    run = _run(site, tmp_path, "-m", "netparity", "weights", "a.npz", "b.npz")
    assert run.returncode == 0, run.stderr
    assert "equal (transposed)" in run.stdout


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
