"""Photographs that are decoded anew whenever they are wanted, because decoded they would not fit into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxalex.data import pictures
from jaxalex.data.photographs.decoding import BAD, decode, decode_into
from jaxalex.data.photographs.encoded import Part
from jaxalex.data.splits import ImageSet
from jaxalex.errors import RunError, UsageError
from jaxalex.system import environment

_SAMPLE = 2000  # pictures that stand for the whole set in statistics
_READY = 2  # batches kept decoded beside those that are being decoded


class Decoded(NamedTuple):
    """A batch of decoded pictures.

    Attributes:
      images: uint8 ``[batch, size, size, 3]``; black where there is none.
      labels: int32 ``[batch]``; -1 where there is none: for padding, and for a picture that cannot be decoded.
      problems: what is wrong with those that cannot be decoded.
    """

    images: np.ndarray
    labels: np.ndarray
    problems: list[str]


@dataclasses.dataclass(frozen=True)
class StreamedSet:
    """Encoded pictures, in a fixed order; the form of `jaxalex.data.splits.Images`.

    Attributes:
      part: where they are.
      indices: int64 ``[n]``: which of the part's pictures.
      image_size: height and width, in pixels, of a decoded one.
      skip_bad: leave out pictures that cannot be decoded.
      workers: processes that decode; 0 decodes in threads of this one.
    """

    part: Part
    indices: np.ndarray
    image_size: int
    skip_bad: bool
    workers: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, 3

    @property
    def nbytes(self) -> int:
        return 0

    def take(self, indices: np.ndarray) -> ImageSet:
        """The samples at ``indices`` (int ``[m]``), decoded, without those that are left out.

        Raises:
          UsageError: as `jaxalex.data.photographs.decoding.decode`.
        """
        return decode(self.part, self.indices[indices], self.image_size, self.skip_bad, "decoding")[0]

    def sample(self) -> np.ndarray:
        """The first 2,000 images, or all of fewer: uint8 ``[m, size, size, 3]``."""
        return self.take(np.arange(min(len(self), _SAMPLE))).images

    def content(self) -> Iterable[np.ndarray]:
        return (self.indices,)

    def batches(self, rows: np.ndarray) -> Generator[Decoded, None, None]:
        """Decodes batch after batch, ahead of what is asked for, on all cores.

        Use it inside `jaxalex.data.pictures.strict`, and close it when done.

        The order and the pictures are the same for any number of threads, processes and cores.

        Args:
          rows: int32 ``[steps, batch]``: positions in this set, -1 for padding.

        Raises:
          RunError: a picture cannot be decoded, unless such are left out; or a file cannot be read.
        """
        import grain

        task = _Decode(self.part, self.image_size)
        rows = np.where(rows < 0, -1, self.indices[rows])
        threads = max(1, environment.cpu_count() // max(1, self.workers))
        batches = grain.MapDataset.source(_Rows(rows)).map(task).to_iter_dataset(_options(threads))
        if self.workers:
            from absl import flags

            if not flags.FLAGS.is_parsed():  # grain's own, which nothing else here sets, must be
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=_READY)
            batches = batches.mp_prefetch(options, worker_init_fn=_begin_worker)
        iterator = iter(batches)
        with contextlib.closing(iterator):
            while True:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except UsageError as error:  # of the run's input, but found long after the run has begun
                    raise RunError(str(error)) from error
                if batch.problems and not self.skip_bad:
                    raise RunError(f"{batch.problems[0]}: use --on-bad-image skip to go on without it")
                yield batch


class _Rows(Sequence[np.ndarray]):
    """Rows of an array, as grain wants a source to be."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self._rows[index]

    def __repr__(self) -> str:
        return f"rows of {self._rows.shape}"


@dataclasses.dataclass(frozen=True)
class _Decode:
    """Decodes the pictures of one batch; a class, so that other processes can be given it."""

    part: Part
    image_size: int

    def __call__(self, row: np.ndarray) -> Decoded:
        images = np.zeros((len(row), self.image_size, self.image_size, 3), np.uint8)
        labels = np.full(len(row), BAD, np.int32)
        problems = []
        for at, index in enumerate(row.tolist()):
            if index >= 0:
                labels[at], problem = decode_into(images[at], self.part, index, skip_bad=True)
                problems += [problem] if problem else []
        return Decoded(images, labels, problems)


def _options(threads: int) -> object:
    import grain

    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + _READY)


def _begin_worker(number: int, count: int) -> None:
    """In a worker process: leaves signals of the terminal to its parent, and ends when that has ended."""
    del number, count
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    contextlib.ExitStack().enter_context(pictures.strict())
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
