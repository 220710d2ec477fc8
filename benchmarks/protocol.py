"""The worker's side of a measurement: answers requests, one JSON object a line, and waits idle in between.

Imports neither framework: each worker brings its own.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import os
import pathlib
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxalex.system.memory import return_freed_memory

_OUT_OF_MEMORY = (
    *("RESOURCE_EXHAUSTED", "out of memory", "not enough memory", "can't allocate memory", "bad_alloc"),
    "error return without exception set",  # CPython's SystemError where a C function could not even make a MemoryError
)


@dataclasses.dataclass
class Program:
    """Something that can be timed.

    Attributes:
      call: does the work once, perhaps asynchronously.
      wait: returns when everything that was called is done, parameters and loss included.
      images: how many images one call takes.
      compile_seconds: how long it took to build; 0 where nothing is compiled.
      loss: the last loss or the sum of losses, as a number; None where there is none.
    """

    call: Callable[[], object]
    wait: Callable[[], object]
    images: int
    compile_seconds: float = 0.0
    loss: Callable[[], float] | None = None

    def seconds(self, calls: int) -> float:
        """Wall time of so many calls, waited for."""
        start = time.perf_counter()
        for _ in range(calls):
            self.call()
        self.wait()
        return time.perf_counter() - start


def serve(operations: Mapping[str, Callable[..., Any]]) -> int:
    """Answers requests from stdin until it ends.

    A request is ``{"op": name, …arguments}``; the answer ``{"ok": result}`` or
    ``{"error": {"kind": "out_of_memory" or "failed", "message": one line}}``.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": operations[request.pop("op")](**request)}
        except Exception as error:  # told to the parent, which decides
            kind = "out_of_memory" if is_out_of_memory(error) else "failed"
            answer = {"error": {"kind": kind, "message": one_line(f"{type(error).__name__}: {error}")}}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of either framework, or Python's own, says that memory ran out.

    >>> is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes."))
    True
    >>> is_out_of_memory(RuntimeError("shapes do not match"))
    False
    """
    return isinstance(error, MemoryError) or any(part.lower() in str(error).lower() for part in _OUT_OF_MEMORY)


def one_line(text: str) -> str:
    """The first line with something on it, of at most 200 characters, without the folders of absolute paths.

    >>> one_line("OSError: no such file: /usr/lib/python3/x.py\\n  more")
    'OSError: no such file: x.py'
    """
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return re.sub(r"(?<![\w./])/(?:[^\s/:'\"]+/)+", "", first)[:200]


def rss() -> int:
    """Bytes of memory that this process has in use."""
    return _status("VmRSS") or peak_rss()


def peak_rss() -> int:
    """The largest number of bytes this process had in use, since its start or the last `reset_peak_rss`."""
    return _status("VmHWM") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak_rss() -> None:
    """Starts `peak_rss` afresh, where the system can do that."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def limit_memory(more_bytes: int) -> None:
    """Lets this process take so many bytes of address space more than it has now, and no more."""
    size = _status("VmSize")
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + more_bytes, size + more_bytes))


def _status(field: str) -> int:
    try:
        text = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        return 0
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(match.group(1)) if match else 0


class Worker(abc.ABC):
    """What both frameworks' workers share: programs by name, and how they are timed."""

    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}
        self.base_rss = 0

    def operations(self) -> dict[str, Callable[..., Any]]:
        """The requests that every worker answers."""
        return {
            "first": self.first,
            "sample": self.sample,
            "loss": self.loss,
            "memory": self.memory,
            "reset_memory": self.reset_memory,
        }

    @abc.abstractmethod
    def make(self, program: str) -> Program:
        """Builds (compiles) a program of the network that was built before."""

    @abc.abstractmethod
    def device_peak(self) -> int | None:
        """Peak bytes on the device; None on the CPU."""

    def first(self, program: str, spawned: float) -> dict[str, Any]:
        """Builds a program and calls it once.

        Args:
          program: its name.
          spawned: when the parent started this process, in seconds since the epoch.

        Returns:
          ``compile_seconds``, ``images`` a call, and ``first_step_seconds`` since ``spawned``.
        """
        built = self.programs[program] = self.make(program)
        return_freed_memory()  # as training does; both sides
        first = built.seconds(1)
        done = time.time() - spawned
        if built.compile_seconds < 0:  # compiled by its first call: what that took above a usual one
            built.compile_seconds = max(0.0, first - built.seconds(1))
        return {"compile_seconds": built.compile_seconds, "images": built.images, "first_step_seconds": done}

    def sample(self, program: str, calls: int) -> dict[str, float]:
        """Wall ``seconds`` of so many calls, and the processor's ``cpu_seconds`` that this process took for them."""
        before = time.process_time()
        seconds = self.programs[program].seconds(calls)
        return {"seconds": seconds, "cpu_seconds": time.process_time() - before}

    def loss(self, program: str) -> float | None:
        """The program's last loss."""
        loss = self.programs[program].loss
        return None if loss is None else loss()

    def reset_memory(self) -> None:
        """Starts the measurement of peak memory on the CPU afresh."""
        reset_peak_rss()

    def memory(self) -> int:
        """Peak bytes: of the device's memory, or on the CPU of this process's memory beyond what imports took."""
        device = self.device_peak()
        return max(0, peak_rss() - self.base_rss) if device is None else device
