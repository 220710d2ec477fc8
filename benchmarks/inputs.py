"""What both frameworks start from: parameters and a batch, made by NumPy from a seed, never zero."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping

import numpy as np

from jaxalex.networks.tables import NETWORKS

MEAN = STD = 0.5


def parameters(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Random float32 arrays by name: kernels of deviation 1/√fan-in, biases a hundredth of that of one.

    Args:
      shapes: by PyTorch's names, in PyTorch's layout (``[out, …in]``). An array depends on its name, shape and the
        seed alone.
    """
    arrays = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        deviation = 0.01 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))
        arrays[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
    return arrays


def batch(model: str, batch_size: int, seed: int, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A batch of random images and labels for a network.

    Returns:
      images, uint8 ``[batch, size, size, 3]``, and labels, int32 ``[batch]``.
    """
    rng = np.random.default_rng([seed, number])
    network = NETWORKS[model]
    size = network.image_size
    images = rng.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, network.num_classes, batch_size, dtype=np.int32)


def digest(arrays: Mapping[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> str:
    """A fingerprint of parameters (PyTorch's names and layout) and batch, to tell that two sides hold the same."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode())
        found.update(np.ascontiguousarray(arrays[name]).data)
    found.update(np.ascontiguousarray(images).data)
    found.update(np.ascontiguousarray(labels.astype(np.int32)).data)
    return found.hexdigest()[:16]
