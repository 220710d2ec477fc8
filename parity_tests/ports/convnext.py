"""ConvNeXt as torchvision has it (``torchvision/models/convnext.py``), in Flax Linen."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


class StochasticDepth(nn.Module):
    """In training, each example is zeroed with probability ``rate``; what stays is divided by 1 - rate."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(mask, x / keep, 0.0)


class Block(nn.Module):
    """A 7x7 convolution of each channel by itself and two dense layers, scaled, beside a shortcut."""

    drop_rate: float = 0.0
    layer_scale: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        dim = x.shape[-1]
        y = nn.Conv(dim, (7, 7), padding=3, feature_group_count=dim, name="dwconv")(x)
        y = nn.LayerNorm(epsilon=1e-6, name="norm")(y)
        y = nn.Dense(4 * dim, name="pwconv1")(y)
        y = nn.gelu(y, approximate=False)
        y = nn.Dense(dim, name="pwconv2")(y)
        gamma = self.param("gamma", nn.initializers.constant(self.layer_scale), (dim,))
        y = gamma[None, None, None, :] * y
        return x + StochasticDepth(self.drop_rate)(y, train)


class ConvNeXt(nn.Module):
    """Images [batch, h, w, 3] to logits [batch, num_classes]; the defaults are ConvNeXt-Tiny."""

    depths: Sequence[int] = (3, 3, 9, 3)
    dims: Sequence[int] = (96, 192, 384, 768)
    drop_rate: float = 0.1
    num_classes: int = 1000

    def setup(self) -> None:
        self.stem = nn.Conv(self.dims[0], (4, 4), strides=4, padding="VALID")
        self.stem_norm = nn.LayerNorm(epsilon=1e-6)
        count = sum(self.depths)
        # The last block is dropped most often.
        rates = iter([self.drop_rate * i / (count - 1) for i in range(count)])
        self.stages = [[Block(next(rates)) for _ in range(depth)] for depth in self.depths]
        self.down_norms = [nn.LayerNorm(epsilon=1e-6) for _ in self.dims[1:]]
        self.downs = [nn.Conv(dim, (2, 2), strides=2, padding="VALID") for dim in self.dims[1:]]
        self.norm = nn.LayerNorm(epsilon=1e-6)
        self.head = nn.Dense(self.num_classes)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = self.stem_norm(self.stem(x))
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.downs[i - 1](self.down_norms[i - 1](x))
            for block in stage:
                x = block(x, train)
        x = x.mean(axis=(1, 2))
        return self.head(self.norm(x))
