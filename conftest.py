"""Strict numerics, programs that are compiled once, cores that are shared out, and no network, for every test."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import pathlib
import shutil
import socket
import sys
from collections.abc import Iterator
from typing import BinaryIO

import pytest

# The same arithmetic, compiled in a sixth of the time. Tests that judge numbers closely get the programs of users.
QUICK_PROGRAMS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
if _JAXLIB < (0, 11):  # later ones do not know it, and would end the process
    QUICK_PROGRAMS += " --xla_cpu_use_fusion_emitters=false"
COMPILED = pathlib.Path(__file__).parent / ".pytest_cache" / "compiled"


def pytest_configure(config: pytest.Config) -> None:
    """Settings that JAX and PyTorch read when they are imported."""
    assert not {"jax", "torch"} & set(sys.modules), "imported before their settings could be made"
    _take_cores(os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _discard_broken_cache()
        _marker().touch()
    # Tests, and the commands that they start, leave the user's own cache alone. This one outlives the run.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2 * 2**30)  # also has JAX lock it against other processes
    if config.option.markexpr in ("not slow", "slow and not users_programs"):
        os.environ["XLA_FLAGS"] = QUICK_PROGRAMS


def pytest_unconfigure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _marker().unlink(missing_ok=True)


def _marker() -> pathlib.Path:
    """A file that stands beside the compiled programs while this process may write some."""
    return COMPILED.with_name(f"running-{os.getpid()}")


def _discard_broken_cache() -> None:
    """A process that was killed may have left half a program, which JAX would complain of in every later test."""
    COMPILED.mkdir(parents=True, exist_ok=True)
    for marker in COMPILED.parent.glob("running-*"):
        try:
            os.kill(int(marker.name.removeprefix("running-")), 0)
        except OSError:
            shutil.rmtree(COMPILED, ignore_errors=True)
            marker.unlink(missing_ok=True)


def _take_cores(worker: str, count: int) -> None:
    """Each of several processes that test side by side gets cores of its own: threads that spin for one another while
    another process has their core are slower than one thread alone."""
    if not worker or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    mine = cores[int(worker.removeprefix("gw")) % len(cores) :: count]
    os.sched_setaffinity(0, mine)
    os.environ["OMP_NUM_THREADS"] = str(len(mine))


@pytest.fixture(autouse=True, scope="session")
def _strict_numerics() -> Iterator[None]:
    import jax

    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)


@pytest.fixture(scope="session")
def quick_programs() -> str:
    """``XLA_FLAGS`` for a process in which only the programs' work, and not the programs, is tested."""
    return QUICK_PROGRAMS


@pytest.fixture(autouse=True, scope="session")
def _known_flags() -> Iterator[None]:
    """Commands in this process need not try `QUICK_PROGRAMS` in a process of its own, each time anew."""
    from jaxalex.system import settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "_check_xla_flags", lambda: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def _memory_given_back() -> Iterator[None]:
    """Compiled programs and freed memory of one file of tests do not pile up on those of the next."""
    yield
    import jax

    from jaxalex.system.memory import return_freed_memory

    jax.clear_caches()
    gc.collect()
    return_freed_memory()


@pytest.fixture(scope="module")
def small_pictures() -> Iterator[None]:
    """Pictures take longer to draw than small networks to train: in their place, nearly nothing is drawn."""
    from matplotlib.figure import Figure
    from PIL import Image

    def savefig(self: Figure, file: BinaryIO, format: str) -> None:
        Image.new("RGB", (50, 40), "white").save(file, format)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def only_loopback(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        assert host in {"127.0.0.1", "::1", "local"}, f"a test reached for the network: {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
