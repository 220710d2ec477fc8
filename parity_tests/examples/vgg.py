"""A small VGG in Flax Linen and in PyTorch, compared: ``python -m parity_tests.examples.vgg``."""

from __future__ import annotations

import pathlib
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
from torch import nn

from netparity import Comparison, ConvKernel, DenseKernel, Entry, Same, compare, finish, function


class FlaxVGG(fnn.Module):
    """Four convolutions and two dense layers; returns its logits and what it computed on the way, by name."""

    @fnn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        seen: dict[str, jax.Array] = {}
        for i, features in enumerate((8, 8, 16, 16), start=1):
            conv = fnn.Conv(features, (3, 3), padding=1, precision="highest", name=f"conv{i}")
            x = seen[f"conv{i}"] = conv(x)
            x = seen[f"relu{i}"] = fnn.relu(x)
            if i in (2, 4):
                x = seen[f"pool{i}"] = fnn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = seen["hidden"] = fnn.Dense(32, precision="highest", name="hidden")(x)
        x = seen["relu5"] = fnn.relu(x)
        x = seen["drop"] = fnn.Dropout(0.5, deterministic=not train)(x)
        x = seen["logits"] = fnn.Dense(10, precision="highest", name="logits")(x)
        return x, seen


def torch_vgg() -> nn.Sequential:
    """The same network in PyTorch, for images of 12x16."""
    layers: list[tuple[str, nn.Module]] = []
    channels = 3
    for i, features in enumerate((8, 8, 16, 16), start=1):
        layers += [(f"conv{i}", nn.Conv2d(channels, features, 3, padding=1)), (f"act{i}", nn.ReLU())]
        if i in (2, 4):
            layers += [(f"down{i}", nn.MaxPool2d(2))]
        channels = features
    layers += [("flatten", nn.Flatten()), ("dense1", nn.Linear(3 * 4 * 16, 32)), ("act5", nn.ReLU())]
    layers += [("drop", nn.Dropout(0.5)), ("dense2", nn.Linear(32, 10))]
    return nn.Sequential(OrderedDict(layers))


# Every parameter: JAX's name, and PyTorch's name and layout.
TABLE: dict[str, Entry] = {
    **{f"conv{i}.kernel": ConvKernel(f"conv{i}.weight") for i in (1, 2, 3, 4)},
    **{f"conv{i}.bias": Same(f"conv{i}.bias") for i in (1, 2, 3, 4)},
    "hidden.kernel": DenseKernel("dense1.weight", flattened=(3, 4, 16)),  # height, width, channels
    "hidden.bias": Same("dense1.bias"),
    "logits.kernel": DenseKernel("dense2.weight"),
    "logits.bias": Same("dense2.bias"),
}

# Every intermediate: JAX's name, and the PyTorch module whose output it is.
STAGES = {
    "conv1": "conv1", "relu1": "act1", "conv2": "conv2", "relu2": "act2", "pool2": "down2",
    "conv3": "conv3", "relu3": "act3", "conv4": "conv4", "relu4": "act4", "pool4": "down4",
    "hidden": "dense1", "relu5": "act5", "drop": "drop", "logits": "dense2",
}  # fmt: skip


def compared(
    table: Mapping[str, Entry] = TABLE,
    module: nn.Module | None = None,
    stages: Mapping[str, str] = STAGES,
) -> Comparison:
    """The comparison of the two."""
    network = FlaxVGG()

    def forward(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        rngs = {} if key is None else {"dropout": key}
        return network.apply({"params": params}, images, train=key is not None, rngs=rngs)

    params = network.init(jax.random.key(0), jnp.zeros((1, 12, 16, 3)))["params"]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 12, 16, 3)).astype(np.float32)
    labels = rng.integers(0, 10, 4)
    module = torch_vgg() if module is None else module
    ours = function(forward, params, intermediates=True)
    return compare(ours, module, images, labels=labels, table=table, stages=stages, dropouts=["drop"])


def main() -> int:
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    return finish("vgg", compared(), out)


if __name__ == "__main__":
    sys.exit(main())
