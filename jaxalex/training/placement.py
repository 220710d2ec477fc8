"""Where a run's arrays lie: one sharding, made here and handed to everything that puts arrays somewhere.

Who makes and who uses what:

- The command makes the sharding once, with `on_device`. It puts the run's random key there, and the state follows the
  key. A mesh of devices would have a function of its own beside `on_device`, and this file would say which arrays are
  split over the mesh and which are repeated on every device.
- `place` puts a whole image set there. The result, a `Placed`, carries its sharding, and `jaxalex.training.epochs`
  compiles and runs for the two of them.
- `Placed.dispatches` gives each dispatch of an epoch its images and the indices into them. Of a set that is decoded
  while it is trained on, `place` makes a `Streaming`, whose ``dispatches`` bring only the images of one batch each: to
  the compiled steps that is a small image set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from jaxalex.data import Images, ImageSet, pictures
from jaxalex.data.photographs.streamed import StreamedSet
from jaxalex.system import memory
from jaxalex.training.steps import Batch


def on_device(device: jax.Device) -> jax.sharding.Sharding:
    """Everything on one device."""
    return jax.sharding.SingleDeviceSharding(device)


def devices(sharding: jax.sharding.Sharding) -> list[jax.Device]:
    """The devices behind a sharding, all of one kind, in the order of their numbers; at least one.

    >>> [device.id for device in devices(on_device(jax.devices("cpu")[0]))]
    [0]
    """
    return sorted(sharding.device_set, key=lambda device: device.id)


def free_bytes(sharding: jax.sharding.Sharding) -> int | None:
    """Bytes that a program may still take on the fullest of the devices; None where the system does not tell."""
    found = [memory.free_bytes(device) for device in devices(sharding)]
    return min((free for free in found if free is not None), default=None)


class Dispatch(NamedTuple):
    """What one dispatch is given, and what is known of it on the host.

    Attributes:
      data: ``image`` and ``label``, and ``index`` where they are not the whole set.
      rows: int32 ``[steps, batch]``: indices into these, -1 for samples that don't count.
      labels: int32 ``[steps, batch]``, -1 for samples that don't count.
      problems: what is wrong with the pictures that could not be decoded, and so don't count.
      waited: seconds in which the device had nothing to do because these images were not ready.
    """

    data: Batch
    rows: jax.Array
    labels: np.ndarray
    problems: list[str]
    waited: float


def room_for_images(keep_decoded: str, sharding: jax.sharding.Sharding) -> int | None:
    """Bytes that decoded photographs may take in main memory and on the devices; None: as many as are free.

    Args:
      keep_decoded: as in `jaxalex.config.TrainConfig`.
      sharding: where they would go.
    """
    if keep_decoded != "auto":
        return None if keep_decoded == "always" else 0
    free = [amount for amount in (memory.free_host_bytes(), free_bytes(sharding)) if amount is not None]
    return min(free) // 2 if free else None


@dataclasses.dataclass(frozen=True)
class Placed:
    """A whole image set on the device.

    Attributes:
      data: ``image`` (uint8 ``[n, height, width, channel]``) and ``label`` (int32 ``[n]``).
      labels: the same labels on the host.
      sharding: where the data lie, and where the indices into them go.
    """

    data: Batch
    labels: np.ndarray
    sharding: jax.sharding.Sharding

    def __len__(self) -> int:
        return len(self.labels)

    def at_once(self, most: int) -> int:
        """How many steps a dispatch may take: ``most``."""
        return most

    def like(self, batch_size: int) -> Batch:
        """Arrays, or shapes, as each dispatch is given them."""
        del batch_size
        return self.data

    def dispatches(
        self, indices: np.ndarray, at_once: int, first: int = 0, settle: Callable[[], None] = lambda: None
    ) -> Generator[Dispatch, None, None]:
        """What each dispatch is given.

        Args:
          indices: int32 ``[steps, batch]``, -1 for padding; copied to the device once, before the first dispatch.
          at_once: steps in a dispatch; the last one may be shorter.
          first: the step to begin with.
          settle: waits until the device has done what it was given; called where the next images are not ready.
        """
        del settle
        rows = jax.device_put(indices, self.sharding)
        for step in range(first, len(indices), at_once):
            some = indices[step : step + at_once]
            yield Dispatch(self.data, rows[step : step + at_once], np.where(some < 0, -1, self.labels[some]), [], 0.0)


@dataclasses.dataclass(frozen=True)
class Streaming:
    """An image set that is decoded batch by batch; with the methods of `Placed`.

    Attributes:
      images: the set.
      sharding: where each batch goes.
    """

    images: StreamedSet
    sharding: jax.sharding.Sharding

    def __len__(self) -> int:
        return len(self.images)

    def at_once(self, most: int) -> int:
        """How many steps a dispatch may take: 1. A step on photographs takes longer than its dispatch."""
        return min(most, 1)

    def like(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes as each dispatch is given them."""

        def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=self.sharding)

        return {"image": array(np.uint8, *self.images.image_shape), "label": array(np.int32), "index": array(np.int32)}

    def dispatches(
        self, indices: np.ndarray, at_once: int, first: int = 0, settle: Callable[[], None] = lambda: None
    ) -> Generator[Dispatch, None, None]:
        """As `Placed.dispatches`, one step each.

        Raises:
          RunError: as `StreamedSet.batches`.
        """
        del at_once
        rows = indices[first:]
        with (
            pictures.strict(),
            contextlib.closing(self.images.batches(rows)) as batches,
            ThreadPoolExecutor(1) as ahead,
        ):

            def fetch(row: np.ndarray) -> Dispatch:
                images, labels, problems = next(batches)
                found = {"image": images, "label": np.maximum(labels, 0), "index": np.maximum(row, 0)}
                place = np.where(labels < 0, -1, np.arange(len(row), dtype=np.int32))[None]
                data, placed = jax.device_put((found, place), self.sharding)
                return Dispatch(data, placed, labels[None], problems, 0.0)

            coming = ahead.submit(fetch, rows[0])
            for step in range(len(rows)):
                if not coming.done():
                    settle()
                began = time.perf_counter()
                dispatch = coming.result()
                waited = time.perf_counter() - began
                if step + 1 < len(rows):
                    coming = ahead.submit(fetch, rows[step + 1])
                yield dispatch._replace(waited=waited)


def place(images: Images, sharding: jax.sharding.Sharding) -> Placed | Streaming:
    """Copies a whole image set to where a sharding says, or as much of it as is decoded at a time."""
    if isinstance(images, StreamedSet):
        return Streaming(images, sharding)
    assert isinstance(images, ImageSet)
    return Placed(jax.device_put({"image": images.images, "label": images.labels}, sharding), images.labels, sharding)
