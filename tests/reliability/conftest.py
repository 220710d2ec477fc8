"""A small real run without interruptions, and copies of it."""

from __future__ import annotations

import gc
import pathlib
import shutil
from collections.abc import Callable, Iterator

import pytest

from jaxalex import train
from reliability.runs import SMALL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings about what Orbax leaves behind after a failed save or read do not fail these tests."""
    here = pathlib.Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_for_later_tests() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def _own_cache_for_processes(_cache: pathlib.Path) -> Iterator[None]:
    """A process that is killed here may leave half a compiled program, which no other test should find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(_cache))
        yield


@pytest.fixture(scope="module", autouse=True)
def _small_pictures(unbroken: pathlib.Path, small_pictures: None) -> None:
    """Those of `unbroken` are the only real ones."""


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of three epochs without interruptions."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert train.main([*SMALL, "--num-epochs", "3", "--workdir", str(run)]) == 0
    return run


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory, unbroken: pathlib.Path) -> Callable[[], pathlib.Path]:
    """Makes copies of the unbroken run."""
    return lambda: pathlib.Path(shutil.copytree(unbroken, tmp_path_factory.mktemp("copy") / "run"))
