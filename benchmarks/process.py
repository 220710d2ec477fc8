"""The parent's side of a measurement: worker processes, asked one at a time, idle in between."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.protocol import one_line

ROOT = pathlib.Path(__file__).parents[1]
MODULES = {"jax": "benchmarks.jax_worker", "torch": "benchmarks.torch_worker"}


class WorkerError(Exception):
    """A worker could not do what it was asked to."""


class OutOfMemory(WorkerError):
    """Memory ran out in a worker."""


class Tether:
    """Kills a process and all that it started if this process ends without doing so itself, however it ends.

    A shell waits for the end of a pipe that only this process holds: the kernel closes it, after SIGKILL, too.

    Args:
      process: the leader of a session of its own.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._group = process.pid
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -9 "-$1"', "sh", str(self._group)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that no signal to our own group ends it
        )

    def kill(self) -> None:
        """Ends the process, everything it started, and the tether itself."""
        self._shell.kill()
        self._shell.wait()
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, signal.SIGKILL)


class Worker:
    """A process of one framework; a context manager.

    Args:
      framework: ``"jax"`` or ``"torch"``.
      scratch: folder for caches of compiled programs; one that is empty makes compilation cold.
    """

    def __init__(self, framework: str, scratch: pathlib.Path) -> None:
        self.spawned = time.time()
        self._stderr = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULES[framework]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,  # so that its end is that of the compilers that PyTorch starts, too
            env=environment(scratch),
        )
        self._tether = Tether(self._process)

    def ask(self, op: str, **arguments: Any) -> Any:
        """Sends a request and waits for its result.

        Raises:
          OutOfMemory: if memory ran out, or the worker was killed as if it had.
          WorkerError: if the worker could not do it, with its reason in one line.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "error" not in answer:
            return answer["ok"]
        error = answer["error"]
        raise (OutOfMemory if error["kind"] == "out_of_memory" else WorkerError)(error["message"])

    def _died(self) -> WorkerError:
        code = self._process.wait()
        self._stderr.seek(0)
        text = self._stderr.read()
        last = one_line("\n".join(reversed(text.splitlines()[-20:])))
        # The kernel kills with SIGKILL; a C++ allocation that fails in a thread ends in abort().
        aborted = code == -signal.SIGABRT and any(
            word in text for word in ("bad_alloc", "RESOURCE_EXHAUSTED", "out of memory", "Cannot allocate", "allocate")
        )
        if code == -signal.SIGKILL or aborted:
            return OutOfMemory(f"the worker ended with signal {-code}")
        return WorkerError(f"the worker ended with exit code {code}: {last}")

    def close(self) -> None:
        """Ends the process and everything it started."""
        self._tether.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(scratch: pathlib.Path) -> dict[str, str]:
    """The environment of a worker: this process's, with its caches in ``scratch`` and memory taken as needed."""
    unwanted = {"JAX_COMPILATION_CACHE_DIR", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"}
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in unwanted}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several workers share the device's memory
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
    }
