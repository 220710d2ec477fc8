"""Strict numerics, programs that are compiled once, cores that are shared out, and no network, for every test."""

from __future__ import annotations

import gc
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Settings that JAX and PyTorch read when they are imported."""
    assert not {"jax", "torch"} & set(sys.modules), "imported before their settings could be made"
    _take_cores(os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    # Tests, and the commands that they start, leave the user's own cache alone. This one outlives the run.
    cache = ROOT / ".pytest_cache" / "compiled"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**30)


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


@pytest.fixture(autouse=True, scope="module")
def _memory_given_back() -> Iterator[None]:
    """Compiled programs and freed memory of one file of tests do not pile up on those of the next."""
    yield
    import jax

    from jaxalex.system.memory import return_freed_memory

    jax.clear_caches()
    gc.collect()
    return_freed_memory()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def only_loopback(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        assert host in {"127.0.0.1", "::1", "local"}, f"a test reached for the network: {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
