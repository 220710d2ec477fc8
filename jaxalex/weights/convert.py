"""Parameters to and from PyTorch's ``state_dict`` arrays: one explicit table, NumPy only.

This is the one place where the layouts meet. A convolution's kernel ``[h, w, in, out]`` is PyTorch's
``[out, in, h, w]``; a dense kernel ``[in, out]`` is ``[out, in]``. The rows of fc1's kernel are permuted as well,
because PyTorch flattens its feature map channel by channel and the network here flattens height by width by channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxalex.errors import UsageError
from jaxalex.networks.rows import Conv
from jaxalex.networks.tables import NETWORKS

Params = dict[str, dict[str, Any]]

# Our layer, and the module of PyTorch's nn.Sequential blocks that holds its weight and bias (fc1.0 is the Flatten).
_IN_BLOCKS = {
    "conv1": "conv1.0",
    "conv2": "conv2.0",
    "conv3": "conv3.0",
    "conv4": "conv4.0",
    "conv5": "conv5.0",
    "fc1": "fc1.1",
    "fc2": "fc2.0",
    "fc3": "fc3.0",
}
# The same in torchvision's alexnet, whose published weights have these names.
_IN_TORCHVISION = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc1": "classifier.1",
    "fc2": "classifier.4",
    "fc3": "classifier.6",
}


def torch_names(model_name: str) -> dict[str, str]:
    """Of each layer with parameters, in the network's order, the PyTorch module that holds its weight and bias.

    Raises:
      UsageError: an unknown network.

    >>> torch_names("torchvision")["fc3"], torch_names("paper")["fc3"]
    ('classifier.6', 'fc3.0')
    """
    if model_name not in NETWORKS:
        raise UsageError(f"unknown model {model_name!r}: known are {', '.join(NETWORKS)}")
    return _IN_TORCHVISION if model_name == "torchvision" else _IN_BLOCKS


def to_torch(
    params: Mapping[str, Any], model_name: str, feature_hw: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch ``state_dict``, by its names.

    Args:
      params: ``{"conv1": {"kernel", "bias"}, …, "fc3": …}``.
      model_name: a key of `jaxalex.networks.tables.NETWORKS`.
      feature_hw: height and width of the feature map that fc1 sees; None means that it is square.

    Returns:
      ``{"conv1.0.weight": …, …, "fc3.0.bias": …}``, contiguous, each of its parameter's dtype; for ``"torchvision"``
      torchvision's names, ``features.0.weight`` to ``classifier.6.bias``.

    Raises:
      UsageError: listing every layer that is missing, unknown or of another network's shape.
    """
    names = torch_names(model_name)
    found = {f"{layer}.{part}" for layer in params for part in params[layer]}
    problems = _name_problems(found, {f"{layer}.{part}" for layer in names for part in ("kernel", "bias")})
    if problems:
        raise UsageError(f"these are not the parameters of {model_name!r}: " + "; ".join(problems))
    arrays = {}
    for name, torch_name in names.items():
        kernel, bias = np.asarray(params[name]["kernel"]), np.asarray(params[name]["bias"])
        if kernel.ndim == 4:
            weight = kernel.transpose(3, 2, 0, 1)
        elif name == "fc1":
            h, w, c = _feature_map(kernel.shape[0], len(params["conv5"]["bias"]), feature_hw)
            weight = kernel.reshape(h, w, c, -1).transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)
        else:
            weight = kernel.T
        arrays[f"{torch_name}.weight"] = np.ascontiguousarray(weight)
        arrays[f"{torch_name}.bias"] = np.ascontiguousarray(bias)
    _check_shapes(arrays, model_name)
    return arrays


def from_torch(arrays: Mapping[str, np.ndarray], model_name: str, feature_hw: tuple[int, int] | None = None) -> Params:
    """Parameters from the arrays of a PyTorch ``state_dict``: the exact inverse of `to_torch`.

    Raises:
      UsageError: listing *all* names and shapes that do not fit the network, expected and found; where all names are
        those of other networks, these.
    """
    names = torch_names(model_name)
    others = [name for name in NETWORKS if set(arrays) == _torch_arrays(torch_names(name))]
    if others and model_name not in others:
        raise UsageError(f"these weights are not of the network {model_name!r}: their names are of {', '.join(others)}")
    problems = _name_problems(set(arrays), _torch_arrays(names))
    if problems:
        raise UsageError(f"these weights are not of the network {model_name!r}: " + "; ".join(problems))
    _check_shapes(arrays, model_name)
    params: Params = {}
    for name, torch_name in names.items():
        weight, bias = np.asarray(arrays[f"{torch_name}.weight"]), np.asarray(arrays[f"{torch_name}.bias"])
        if weight.ndim == 4:
            kernel = weight.transpose(2, 3, 1, 0)
        elif name == "fc1":
            channels = len(arrays[f"{names['conv5']}.bias"])
            h, w, c = _feature_map(weight.shape[1], channels, feature_hw)
            kernel = weight.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(weight.shape[1], -1)
        else:
            kernel = weight.T
        params[name] = {"kernel": np.ascontiguousarray(kernel), "bias": np.ascontiguousarray(bias)}
    return params


def torch_shapes(params: Mapping[str, Any], model_name: str) -> dict[str, tuple[int, ...]]:
    """The shapes that `to_torch` gives, from parameters of which only the shapes are known.

    Args:
      params: as in `to_torch`; the leaves need a ``shape`` only.
      model_name: as in `to_torch`.
    """
    shapes = {}
    for name, torch_name in torch_names(model_name).items():
        kernel = params[name]["kernel"].shape
        shapes[f"{torch_name}.weight"] = (kernel[3], kernel[2], *kernel[:2]) if len(kernel) == 4 else kernel[::-1]
        shapes[f"{torch_name}.bias"] = params[name]["bias"].shape
    return shapes


def compare_shapes(found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One line for each name or shape in which ``found`` differs from ``expected``; empty if none does."""
    problems = _name_problems(set(found), set(expected))
    for name in expected:
        if name in found and tuple(found[name].shape) != tuple(expected[name]):
            problems.append(f"{name}: expected {tuple(expected[name])}, found {tuple(found[name].shape)}")
    return problems


def _torch_arrays(names: Mapping[str, str]) -> set[str]:
    return {f"{name}.{part}" for name in names.values() for part in ("weight", "bias")}


def _name_problems(found: set[str], expected: set[str]) -> list[str]:
    return [f"{name}: missing" for name in sorted(expected - found)] + [
        f"{name}: unknown" for name in sorted(found - expected)
    ]


def _check_shapes(arrays: Mapping[str, np.ndarray], model_name: str) -> None:
    """Refuses shapes that do not chain from layer to layer in the network's kernel sizes, whatever its width."""
    names = torch_names(model_name)
    convolutions = {layer.name: layer for layer in NETWORKS[model_name].layers if isinstance(layer, Conv)}
    expected: dict[str, tuple[int, ...]] = {}
    features = 0
    for name, torch_name in names.items():
        weight = arrays[f"{torch_name}.weight"].shape
        out = weight[0] if weight else 0
        if name in convolutions:
            size, groups = convolutions[name].kernel, convolutions[name].groups
            inputs = features // groups or (weight[1] if len(weight) > 1 else 0)
            expected[f"{torch_name}.weight"] = (out, inputs, size, size)
        elif name == "fc1":  # its inputs depend on the image size: a multiple of the channels
            inputs = weight[1] if len(weight) == 2 and weight[1] and weight[1] % features == 0 else features
            expected[f"{torch_name}.weight"] = (out, inputs)
        else:
            expected[f"{torch_name}.weight"] = (out, features)
        expected[f"{torch_name}.bias"] = (out,)
        features = max(out, 1)
    problems = compare_shapes(arrays, expected)
    if problems:
        raise UsageError(f"these weights are not of the network {model_name!r}: " + "; ".join(problems))


def _feature_map(inputs: int, channels: int, feature_hw: tuple[int, int] | None) -> tuple[int, int, int]:
    """Height, width and channels of the feature map that is flattened to ``inputs`` values."""
    if feature_hw is None:
        side = math.isqrt(inputs // channels)
        feature_hw = (side, side)
    height, width = feature_hw
    if height * width * channels != inputs:
        raise UsageError(f"fc1 takes {inputs} values, which are no {height}x{width} feature map of {channels} channels")
    return height, width, channels
