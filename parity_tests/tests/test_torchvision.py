"""Code that nobody here wrote: torchvision's AlexNet beside a natural port of it."""

from __future__ import annotations

from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torchvision import models

from netparity import ConvKernel, DenseKernel, Same, compare

# Channels, kernel, stride, padding and whether a pooling follows; the numbers are torchvision's names.
CONVS = {0: (64, 11, 4, 2, True), 3: (192, 5, 1, 2, True), 6: (384, 3, 1, 1, False), 8: (256, 3, 1, 1, False),
         10: (256, 3, 1, 1, True)}  # fmt: skip


class Port(fnn.Module):
    @fnn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        seen = {}
        for i, (channels, kernel, stride, padding, pooled) in CONVS.items():
            conv = fnn.Conv(channels, (kernel, kernel), stride, padding, precision="highest", name=f"features_{i}")
            x = seen[f"features_{i}"] = conv(x)
            x = seen[f"features_{i + 1}"] = fnn.relu(x)
            if pooled:
                x = seen[f"features_{i + 2}"] = fnn.max_pool(x, (3, 3), (2, 2))
        x = x.reshape(x.shape[0], -1)  # 6x6x256: the adaptive pooling changes nothing at 224
        for i, units in ((1, 4096), (4, 4096)):
            x = seen[f"classifier_{i - 1}"] = fnn.Dropout(0.5, deterministic=not train)(x)
            x = seen[f"classifier_{i}"] = fnn.Dense(units, precision="highest", name=f"classifier_{i}")(x)
            x = seen[f"classifier_{i + 1}"] = fnn.relu(x)
        x = seen["classifier_6"] = fnn.Dense(10, precision="highest", name="classifier_6")(x)
        return x, seen


@pytest.mark.slow
def test_torchvisions_alexnet_passes_as_it_is():
    network = Port()

    def forward(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        rngs = {} if key is None else {"dropout": key}
        return network.apply({"params": params}, images, train=key is not None, rngs=rngs)

    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 224, 224, 3)).astype(np.float32)
    params = jax.jit(lambda key: network.init(key, jnp.zeros((1, 224, 224, 3)), False))(jax.random.key(0))["params"]
    table: dict[str, Any] = {}
    stages = {}
    for name in jax.eval_shape(lambda x: forward(params, x, None)[1], jnp.asarray(images)):
        stages[name] = name.replace("_", ".")
    for name, own in params.items():
        kind: Any = ConvKernel if own["kernel"].ndim == 4 else DenseKernel
        flattened = {"flattened": (6, 6, 256)} if name == "classifier_1" else {}
        table |= {f"{name}.kernel": kind(f"{stages[name]}.weight", **flattened)}
        table |= {f"{name}.bias": Same(f"{stages[name]}.bias")}
    # eval_shape sorts a dictionary; the order of the network is that of torchvision's numbers.
    stages = dict(sorted(stages.items(), key=lambda item: (item[0] < "f", int(item[0].split("_")[1]))))
    dropouts = ["classifier_0", "classifier_3"]
    module = models.alexnet(num_classes=10)
    result = compare(forward, params, module, table, stages, images, np.array([3, 7]), dropouts=dropouts)
    assert result.passed, result.failures
    assert {row.stage for row in result.layers} == set(stages)
