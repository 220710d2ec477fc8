"""Named initialisation schemes. Each gives a layer's kernel and bias from its name and fan-in.

The choice decides how training starts (see ``docs/initialisation.md``): with PyTorch's default a deep network
without normalisation stays at a loss of ln(classes) for hundreds of steps; with Flax's it does not.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.nn import initializers


class Initializer(Protocol):
    """``(key, shape, dtype) -> array``, as in `jax.nn.initializers`."""

    def __call__(self, key: jax.Array, shape: Any, dtype: Any = ...) -> jax.Array: ...


class LayerInit(NamedTuple):
    """The initializers of one layer's parameters."""

    kernel: Initializer
    bias: Initializer


def _flat(draw: Initializer) -> Initializer:
    """``draw``, in one dimension and reshaped: the same numbers, but XLA compiles it ten times faster on a CPU."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return draw(key, (math.prod(shape),), dtype).reshape(shape)

    return init


def _uniform(bound: float) -> Initializer:
    """The uniform distribution over ``[-bound, bound)``."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return _flat(init)


def _normal(std: float) -> Initializer:
    """The normal distribution of mean 0."""
    return _flat(initializers.normal(std))


def torch_init(name: str, fan_in: int) -> LayerInit:
    """PyTorch's default: kernel and bias uniform in ``±1/sqrt(fan_in)``.

    ``nn.Conv2d.reset_parameters`` and ``nn.Linear.reset_parameters`` say ``kaiming_uniform_(a=sqrt(5))``, whose
    bound is ``sqrt(6 / ((1 + 5) fan_in))``: the same.
    """
    del name
    bound = 1.0 / math.sqrt(fan_in)
    return LayerInit(_uniform(bound), _uniform(bound))


def flax_init(name: str, fan_in: int) -> LayerInit:
    """Flax's default: LeCun normal (variance ``1/fan_in``, truncated at two deviations) and zero biases."""
    del name
    # The deviation of a standard normal truncated to [-2, 2], as in jax.nn.initializers.variance_scaling.
    std = math.sqrt(1.0 / fan_in) / 0.87962566103423978
    return LayerInit(_flat(initializers.truncated_normal(std, lower=-2.0, upper=2.0)), initializers.zeros)


def he_init(name: str, fan_in: int) -> LayerInit:
    """He normal (variance ``2/fan_in``) and zero biases (He et al. 2015, section 2.2)."""
    del name
    return LayerInit(_normal(math.sqrt(2.0 / fan_in)), initializers.zeros)


# "We initialized the neuron biases in the second, fourth, and fifth convolutional layers, as well as in the
# fully-connected hidden layers, with the constant 1" (Krizhevsky et al. 2012, section 5).
_PAPER_ONES = frozenset({"conv2", "conv4", "conv5", "fc1", "fc2"})


def paper_init(name: str, fan_in: int) -> LayerInit:
    """The 2012 paper's: kernels from N(0, 0.01²); biases 1 in conv2, conv4, conv5, fc1 and fc2, else 0."""
    del fan_in
    bias = initializers.ones if name in _PAPER_ONES else initializers.zeros
    return LayerInit(_normal(0.01), bias)


SCHEMES = {"torch": torch_init, "flax": flax_init, "he": he_init, "paper": paper_init}
