"""Where a run's arrays lie: one sharding, made here and handed to everything that puts arrays somewhere.

Who makes and who uses what:

- The command makes the sharding once, with `on_device`. It puts the run's random key there, and the state follows the
  key. A mesh of devices would have a function of its own beside `on_device`, and this file would say which arrays are
  split over the mesh and which are repeated on every device.
- `place` puts a whole image set there. The result, a `Placed`, carries its sharding, and `jaxalex.training.epochs`
  compiles and runs for the two of them.
- `Placed.dispatches` gives each dispatch of an epoch its images and the indices into them. A data set too large for the
  device would have a class of its own with the same ``dispatches``, ``len`` and ``sharding``, which gives each dispatch
  only the images of its own batches: to the compiled steps that is a small image set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from jaxalex.data import ImageSet
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


@dataclasses.dataclass(frozen=True)
class Placed:
    """A whole image set on the device.

    Attributes:
      data: ``image`` (uint8 ``[n, height, width, channel]``) and ``label`` (int32 ``[n]``).
      sharding: where these lie, and where the indices into them go.
    """

    data: Batch
    sharding: jax.sharding.Sharding

    def __len__(self) -> int:
        return len(self.data["label"])

    def dispatches(self, indices: np.ndarray, at_once: int, first: int = 0) -> Iterator[tuple[Batch, jax.Array]]:
        """What each dispatch is given.

        Args:
          indices: int32 ``[steps, batch]``, -1 for padding; copied to the device once, before the first dispatch.
          at_once: steps in a dispatch; the last one may be shorter.
          first: the step to begin with.

        Yields:
          images and labels, and the indices into them: int32 ``[at most at_once, batch]``.
        """
        rows = jax.device_put(indices, self.sharding)
        for step in range(first, len(indices), at_once):
            yield self.data, rows[step : step + at_once]


def place(images: ImageSet, sharding: jax.sharding.Sharding) -> Placed:
    """Copies a whole image set to where a sharding says."""
    return Placed(jax.device_put({"image": images.images, "label": images.labels}, sharding), sharding)
