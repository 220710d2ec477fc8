"""A small real run that nothing interrupted, and copies of it."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

import pytest

from jaxalex import train
from reliability.runs import SMALL


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of three epochs that nothing interrupted."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert train.main([*SMALL, "--num-epochs", "3", "--workdir", str(run)]) == 0
    return run


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory, unbroken: pathlib.Path) -> Callable[[], pathlib.Path]:
    """Makes copies of the unbroken run."""
    return lambda: pathlib.Path(shutil.copytree(unbroken, tmp_path_factory.mktemp("copy") / "run"))
