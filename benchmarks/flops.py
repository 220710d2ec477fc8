"""What a step costs at least: floating-point operations, and bytes of optimizer state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FLOAT32 = 4


def model_flops(summary: Mapping[str, Any], mode: str) -> int:
    """Floating-point operations for one image, a multiply-add counting as two.

    Training is forward, and for each layer the gradients of its kernel and of its input, each as costly as forward;
    the first layer needs no gradient of its input. Biases, activations and pooling are not counted.

    Args:
      summary: what `jaxalex.summary.summarize` gives.
      mode: ``"train"`` or ``"infer"``.
    """
    forward = 2 * sum(layer["macs"] for layer in summary["layers"])
    if mode == "infer":
        return forward
    return 3 * forward - 2 * summary["layers"][0]["macs"]


def floor_bytes(parameters: int, mode: str) -> int:
    """Bytes that a step moves at least, whatever the batch size.

    Training reads float32 parameters, gradients and velocities and writes parameters and velocities (20 bytes a
    parameter); inference reads the parameters once.

    >>> floor_bytes(62_378_344, "train") / 1e9
    1.24756688
    """
    return parameters * _FLOAT32 * (5 if mode == "train" else 1)
