"""The JAX side of a comparison: a network's named intermediates and vector-Jacobian products, as NumPy arrays.

The network is used unchanged. Its forward function returns its named intermediates; JAX's trace of that function is
evaluated equation by equation, and at each named value a *tap* may record it, perturb it (which gives the gradient of
an activation) or replace it (which feeds the next layer an input of our choice). So a layer in isolation consists of
the network's own equations, with their own gradients.
Source: "Writing custom Jaxpr interpreters in JAX", JAX documentation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax.extend import core

from netparity import equations, rounding
from netparity.measure import Arrays, ParityError

# (params, images, key) -> (logits, intermediates in the order of the network); key None is evaluation mode.
Forward = Callable[[Any, jax.Array, jax.Array | None], tuple[jax.Array, dict[str, jax.Array]]]
Loss = Callable[[jax.Array, jax.Array], jax.Array]  # (logits, labels) -> scalar
Tap = Callable[[str, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Isolated:
    """Every stage fed an input of our choice: outputs by stage, and vector-Jacobian products.

    Attributes:
      outputs: by stage.
      vjp_inputs: with respect to the stage's input, by stage.
      vjp_params: by parameter.
    """

    outputs: Arrays
    vjp_inputs: Arrays
    vjp_params: Arrays


@dataclasses.dataclass(frozen=True)
class Gradients:
    """A scalar loss and its gradients, by parameter and by stage (with respect to the stage's output)."""

    loss: float
    params: Arrays
    activations: Arrays


def mean_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the batch of the softmax cross-entropy of logits ``[batch, class]``, labels int ``[batch]``."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@dataclasses.dataclass(frozen=True)
class JaxSide:
    """A network in JAX. Sides that are equal share their compiled programs.

    Attributes:
      apply: ``(params, images, key) -> (logits, intermediates)``, hashable and not jitted: ``params`` the nested
        dictionary, ``images`` ``[batch, height, width, channel]``, ``key`` the dropout key in training mode and None
        in evaluation; ``intermediates`` a dictionary in the order of the network.
      loss: ``(logits, labels) -> scalar``.
      dropouts: the names of the stages that are dropout.
    """

    apply: Forward
    loss: Loss = mean_cross_entropy
    dropouts: tuple[str, ...] = ()

    def shapes(self, params: Arrays, images: np.ndarray, train: bool = False) -> dict[str, tuple[int, ...]]:
        """Shape of every stage's output; nothing is computed."""
        key = jax.random.key(0) if train else None
        with jax.enable_x64(images.dtype == np.float64):
            seen = _forward.eval_shape(self.apply, _nested(params), images, key)
        return {name: tuple(value.shape) for name, value in zip(seen.names, seen.values, strict=True)}

    def forward(self, params: Arrays, images: np.ndarray, seed: int | None = None) -> Arrays:
        """Every intermediate, in order; ``seed`` is that of dropout, None for evaluation mode."""
        return _run(images.dtype, _forward, self.apply, _nested(params), images, _key(seed)).arrays()

    def isolated(
        self, params: Arrays, images: np.ndarray, inputs: Arrays, cotangents: Arrays, seed: int | None = None
    ) -> Isolated:
        """Outputs and vector-Jacobian products of every stage, each fed ``inputs`` instead of what came before.

        Args:
          params: by common name (``"conv1.kernel"``).
          images: fed to the first stage.
          inputs: by stage, what stands in its output's place for the next one.
          cotangents: by stage, of its output.

        Raises:
          ParityError: if ``inputs`` are not those of the network's stages in this mode.
        """
        args = (_nested(params), images, inputs, cotangents, _key(seed))
        seen, vjp_inputs, vjp_params = _run(images.dtype, _isolated, self.apply, *args)
        return Isolated(seen.arrays(), vjp_inputs.arrays(), _flat(vjp_params))

    def rounded(
        self, params: Arrays, images: np.ndarray, inputs: Arrays, cotangents: Arrays, seed: int | None = None
    ) -> Isolated:
        """As `isolated`, with what float32 rounds simulated in float64 (see `netparity.rounding`)."""
        args = (_nested(params), images, inputs, cotangents, _key(seed), jax.random.key(0))
        seen, vjp_inputs, vjp_params = _run(images.dtype, _rounded, self.apply, *args)
        return Isolated(seen.arrays(), vjp_inputs.arrays(), _flat(vjp_params))

    def gradients(self, params: Arrays, images: np.ndarray, labels: np.ndarray, seed: int | None = None) -> Gradients:
        """The loss of a batch, and its gradient in every parameter and every activation."""
        args = (_nested(params), images, labels.astype(np.int32), _key(seed))
        loss, by_param, by_stage = _run(images.dtype, _gradients, self.apply, self.loss, *args)
        return Gradients(float(loss), _flat(by_param), by_stage.arrays())

    def masks(self, params: Arrays, images: np.ndarray, seed: int | jax.Array) -> Arrays:
        """What each dropout stage keeps: uint8 ones and zeros of its output's shape, drawn from a seed or key."""
        shapes = tuple((name, tuple(value.shape)) for name, value in params.items())
        return _run(images.dtype, _masks, self.apply, self.dropouts, shapes, images, _key(seed))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ByStage:
    """Arrays by stage in the order of the network, which a dictionary loses in jit."""

    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    values: tuple[Any, ...]

    @classmethod
    def of(cls, names: Iterable[str], by_stage: Mapping[str, Any]) -> _ByStage:
        names = tuple(names)
        return cls(names, tuple(by_stage[name] for name in names))

    def arrays(self) -> Arrays:
        return dict(zip(self.names, self.values, strict=True))


def _run(dtype: np.dtype, program: Callable[..., Any], *args: Any) -> Any:
    """Runs a compiled program in a dtype, and gives NumPy arrays."""
    with jax.enable_x64(dtype == np.float64):
        return jax.tree.map(np.asarray, program(*args))


@functools.partial(jax.jit, static_argnames="apply")
def _forward(apply: Forward, params: Any, images: Any, key: Any) -> _ByStage:
    seen: dict[str, jax.Array] = {}
    trace = _trace(apply, params, images, key)
    trace.run(_record(seen), params, images, key)
    return _ByStage.of(trace.names, seen)


def _alone(
    apply: Forward, params: Any, images: Any, inputs: Any, cotangents: Any, key: Any
) -> tuple[_ByStage, _ByStage, Any]:
    trace = _trace(apply, params, images, key)
    names = trace.names
    if set(names) != set(inputs):
        raise ParityError(
            f"the JAX network has the stages {', '.join(names)} {'in evaluation' if key is None else 'in training'}, "
            f"and is fed {', '.join(inputs)}: both modes must have the same stages"
        )

    def outputs(params: Any, images: Any, inputs: Any) -> dict[str, jax.Array]:
        seen: dict[str, jax.Array] = {}

        def tap(name: str, value: jax.Array) -> jax.Array:
            seen[name] = value
            return inputs[name]

        trace.run(tap, params, images, key)
        return seen

    seen, vjp = jax.vjp(outputs, params, images, inputs)
    vjp_params, vjp_images, vjp_fed = vjp(cotangents)
    # What is fed in a stage's place is the next stage's input.
    vjp_inputs = (vjp_images, *(vjp_fed[name] for name in names[:-1]))
    return _ByStage.of(names, seen), _ByStage(names, vjp_inputs), vjp_params


_isolated = jax.jit(_alone, static_argnames="apply")


@functools.partial(jax.jit, static_argnames="apply")
def _rounded(
    apply: Forward, params: Any, images: Any, inputs: Any, cotangents: Any, key: Any, errors: jax.Array
) -> tuple[_ByStage, _ByStage, Any]:
    args = (params, images, inputs, cotangents, key)
    jaxpr, out = jax.make_jaxpr(functools.partial(_alone, apply), return_shape=True)(*args)
    return jax.tree.unflatten(jax.tree.structure(out), rounding.simulate(jaxpr, jax.tree.leaves(args), errors))


@functools.partial(jax.jit, static_argnames=("apply", "loss"))
def _gradients(
    apply: Forward, loss: Loss, params: Any, images: Any, labels: Any, key: Any
) -> tuple[jax.Array, Any, _ByStage]:
    trace = _trace(apply, params, images, key)

    def loss_with(params: Any, added: dict[str, jax.Array]) -> jax.Array:
        logits = trace.run(lambda name, value: value + added[name], params, images, key)
        return loss(logits, labels)

    zeros = {name: jnp.zeros(v.aval.shape, v.aval.dtype) for name, v in zip(trace.names, trace.stages, strict=True)}
    value, (by_param, by_stage) = jax.value_and_grad(loss_with, argnums=(0, 1))(params, zeros)
    return value, by_param, _ByStage.of(trace.names, by_stage)


@functools.partial(jax.jit, static_argnames=("apply", "dropouts", "shapes"))
def _masks(
    apply: Forward,
    dropouts: tuple[str, ...],
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    images: Any,
    key: Any,
) -> Any:
    params = _nested({name: jnp.zeros(shape, images.dtype) for name, shape in shapes})
    seen: dict[str, jax.Array] = {}

    def tap(name: str, value: jax.Array) -> jax.Array:
        seen[name] = value
        return jnp.ones_like(value)  # fed ones, a dropout shows what it keeps; XLA drops all the rest

    _trace(apply, params, images, key).run(tap, params, images, key)
    return {name: (seen[name] != 0).astype(jnp.uint8) for name in dropouts}


@dataclasses.dataclass(frozen=True)
class _Trace:
    """A traced network: its equations, and the variables that hold its named intermediates."""

    jaxpr: core.ClosedJaxpr
    names: tuple[str, ...]
    stages: tuple[Any, ...]

    def run(self, tap: Tap, *args: Any) -> jax.Array:
        """Evaluates the network with ``tap(name, value)`` in place of every named value; returns the logits."""
        jaxpr, env = self.jaxpr.jaxpr, {}
        taps: dict[Any, list[str]] = {}
        for name, var in zip(self.names, self.stages, strict=True):
            taps.setdefault(var, []).append(name)

        def write(var: Any, value: Any) -> None:
            for name in taps.get(var, ()):
                value = tap(name, value)
            env[var] = value

        def read(var: Any) -> Any:
            return var.val if isinstance(var, core.Literal) else env[var]

        for var, value in zip(jaxpr.constvars, self.jaxpr.consts, strict=True):
            write(var, value)
        for var, value in zip(jaxpr.invars, jax.tree.leaves(args), strict=True):
            write(var, value)
        for equation in jaxpr.eqns:
            for var, value in equations.evaluate(jaxpr, equation, read).items():
                write(var, value)
        return read(jaxpr.outvars[0])


def _trace(forward: Forward, params: Any, images: Any, key: Any) -> _Trace:
    names: list[str] = []

    def flat(params: Any, images: Any, key: Any) -> list[jax.Array]:
        logits, seen = forward(params, images, key)
        names[:] = seen
        return [logits, *seen.values()]

    jaxpr = jax.make_jaxpr(flat)(params, images, key)
    stages = tuple(jaxpr.jaxpr.outvars[1:])
    producers = {var: i for i, eqn in enumerate(jaxpr.jaxpr.eqns) for var in eqn.outvars}
    hidden = len({producers.get(var) for var in stages}) < len(set(stages))
    if hidden or any(isinstance(var, core.Literal) for var in stages):
        raise ParityError(
            "the JAX network hides its intermediates inside one compiled or transformed function: "
            "pass the forward function without jax.jit, jax.checkpoint or lax.scan around it"
        )
    fixed = [
        f"{name} ({var.aval.dtype})"
        for name, var in zip(names, stages, strict=True)
        if jnp.issubdtype(var.aval.dtype, jnp.floating) and var.aval.dtype.itemsize < images.dtype.itemsize
    ]
    if fixed:
        raise ParityError(
            f"fed {images.dtype}, the JAX network computes in a dtype of its own at {', '.join(fixed)}: leave out the "
            "layers' dtype= (None takes that of the input), and cast constants and statistics to the input's dtype"
        )
    return _Trace(jaxpr, tuple(names), stages)


def _record(seen: dict[str, jax.Array]) -> Tap:
    def tap(name: str, value: jax.Array) -> jax.Array:
        seen[name] = value
        return value

    return tap


def _key(seed: int | jax.Array | None) -> jax.Array | None:
    return jax.random.key(seed) if isinstance(seed, int) else seed


def _nested(params: Mapping[str, Any]) -> Any:
    return traverse_util.unflatten_dict(dict(params), sep=".")


def _flat(params: Any) -> Arrays:
    return traverse_util.flatten_dict(params, sep=".")
