"""The JAX side of a comparison: a network's named values and vector-Jacobian products, as NumPy arrays.

A layer in isolation consists of the network's own equations, with their own gradients (see `netparity.graph`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from netparity import rounding
from netparity.compiling import quick_options
from netparity.graph import Graph, Network, input_names, trace
from netparity.measure import Arrays, ParityError

Loss = Callable[[Any, Any], jax.Array]  # (outputs, labels) -> scalar
Inputs = np.ndarray | tuple[np.ndarray, ...]
# For each group of stages whose vector-Jacobian products do not mix: the stages, what each is computed from, and its
# parameters.
Groups = tuple[tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...], ...]


@dataclasses.dataclass(frozen=True)
class Isolated:
    """Every stage fed inputs of our choice.

    Attributes:
      outputs: by stage.
      products: vector-Jacobian products, by stage and by what they are taken of: a parent's name or a parameter's.
    """

    outputs: Arrays
    products: dict[tuple[str, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Gradients:
    """A scalar loss and its gradients.

    Attributes:
      loss: the scalar.
      params: gradient by parameter.
      activations: gradient in the stage's output, by stage.
      outputs: the output of every stage.
      state: by name, after this pass.
    """

    loss: float
    params: Arrays
    activations: Arrays
    outputs: Arrays
    state: Arrays


def mean_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the batch of the softmax cross-entropy of logits ``[batch, class]``, labels int ``[batch]``."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@dataclasses.dataclass(frozen=True)
class JaxSide:
    """A network in JAX. Sides that are equal share their compiled programs.

    Attributes:
      network: what `netparity.graph.Network` says.
      loss: ``(outputs, labels) -> scalar``.
      dropouts: the names of the stages that are dropout.
      stages: the named values that are stages; None takes all that have a name.
      quick: whether to compile float64, and what is not judged, in a fifth of the time to slower programs.
    """

    network: Network
    loss: Loss = mean_cross_entropy
    dropouts: tuple[str, ...] = ()
    stages: tuple[str, ...] | None = None
    quick: bool = False

    def graph(self, arrays: Arrays, inputs: Inputs, train: bool = False) -> Graph:
        """Who feeds whom, and every stage's shape; nothing is computed."""
        shapes = tuple((name, x.shape, x.dtype) for name, x in arrays.items())
        given = tuple((x.shape, x.dtype) for x in as_tuple(inputs))
        with _precision(arrays, inputs):
            return _graph(self.network, self.stages, shapes, given, train)

    def shapes(self, arrays: Arrays, inputs: Inputs, train: bool = False) -> dict[str, tuple[int, ...]]:
        """Shape of every stage's output; nothing is computed."""
        return self.graph(arrays, inputs, train).shapes

    def forward(self, arrays: Arrays, inputs: Inputs, seed: int | None = None) -> Arrays:
        """Every stage's output, in order; ``seed`` is that of dropout, None for evaluation mode."""
        return self._run(_FORWARD, arrays, inputs, _key(seed)).arrays()

    def isolated(
        self,
        arrays: Arrays,
        inputs: Inputs,
        fed: Arrays,
        cotangents: Arrays,
        seed: int | None = None,
        groups: Groups | None = None,
    ) -> Isolated:
        """Outputs and vector-Jacobian products of every stage, each fed ``fed`` instead of what came before.

        Args:
          arrays: parameters and state by common name (``"conv1.kernel"``).
          inputs: the network's own.
          fed: by stage, what stands in its output's place for whatever uses it.
          cotangents: by stage, of its output.
          seed: of dropout; None for evaluation mode.
          groups: which stages, and which of their products; None takes all that JAX has.

        Raises:
          ParityError: if ``fed`` are not those of the network's stages in this mode.
        """
        groups = self._groups(arrays, inputs, seed) if groups is None else groups
        return _isolation(groups, *self._run(_ISOLATED, arrays, inputs, fed, cotangents, _key(seed), groups))

    def rounded(
        self,
        arrays: Arrays,
        inputs: Inputs,
        fed: Arrays,
        cotangents: Arrays,
        seed: int | None = None,
        groups: Groups | None = None,
    ) -> Isolated:
        """As `isolated`, with what float32 rounds simulated in float64 (see `netparity.rounding`)."""
        groups = self._groups(arrays, inputs, seed) if groups is None else groups
        args = (fed, cotangents, _key(seed), groups)
        return _isolation(groups, *self._run(_ROUNDED, arrays, inputs, *args))

    def redrawn(
        self, arrays: Arrays, inputs: Inputs, fed: Arrays, cotangents: Arrays, seed: int | None, groups: Groups
    ) -> list[Isolated]:
        """As `rounded`, several times over: of one number, a single draw may be small by chance."""
        outputs, products = self._run(_REDRAWN, arrays, inputs, fed, cotangents, _key(seed), groups)
        by_stage = outputs.arrays()
        return [
            _isolation(groups, _ByStage.of(by_stage, {n: x[i] for n, x in by_stage.items()}), [x[i] for x in products])
            for i in range(_DRAWS)
        ]

    def gradients(self, arrays: Arrays, inputs: Inputs, labels: Any, seed: int | None = None) -> Gradients:
        """The loss of a batch, and its gradient in every parameter and every stage's output."""
        labels = jax.tree.map(lambda x: x.astype(np.int32) if x.dtype.kind in "iu" else x, labels)
        found = self._run(_GRADIENTS, arrays, inputs, labels, _key(seed), self.loss)
        loss, by_param, by_stage, outputs, state = found
        return Gradients(float(loss), by_param, by_stage.arrays(), outputs.arrays(), state)

    def masks(self, arrays: Arrays, inputs: Inputs, seed: int | jax.Array) -> Arrays:
        """What each dropout stage keeps: uint8 ones and zeros of its output's shape, drawn from a seed or key."""
        return self._run(_MASKS, arrays, inputs, _key(seed), self.dropouts)

    def _groups(self, arrays: Arrays, inputs: Inputs, seed: int | None) -> Groups:
        return groups_of(self.graph(arrays, inputs, seed is not None), self.network.state, as_tuple(inputs))

    def _run(self, program: _Program, arrays: Arrays, inputs: Inputs, *args: Any) -> Any:
        """Runs a compiled program in the dtype of its arguments, and gives NumPy arrays."""
        with _precision(arrays, inputs):
            free = jax.config.read("jax_enable_x64") or not program.judged
            quick = self.quick and free and jax.default_backend() == "cpu"
            quick = quick and self.graph(arrays, inputs).work <= program.limit
            compiled = program.quick if quick else program.usual
            return jax.tree.map(np.asarray, compiled(self.network, self.stages, arrays, as_tuple(inputs), *args))


@dataclasses.dataclass(frozen=True)
class _Program:
    """A program that is compiled when it is needed.

    Attributes:
      function: what it computes.
      static: the names of its arguments that are no arrays.
      judged: whether its numbers in float32 are judged, so that they must be the usual one's.
      limit: products in a forward pass, up to which the usual one takes longer to compile than the quick one to run.
    """

    function: Callable[..., Any]
    static: tuple[str, ...]
    judged: bool
    limit: float

    @functools.cached_property
    def usual(self) -> Callable[..., Any]:
        """Compiled as JAX compiles by default."""
        return jax.jit(self.function, static_argnames=self.static)

    @functools.cached_property
    def quick(self) -> Callable[..., Any]:
        """Compiled in a fifth of the time to a slower program; float64 does not care what is fused."""
        return jax.jit(self.function, static_argnames=self.static, compiler_options=quick_options())


def _program(*static: str, judged: bool = True, limit: float = 5e9) -> Callable[[Callable[..., Any]], _Program]:
    def decorate(function: Callable[..., Any]) -> _Program:
        return _Program(function, ("network", "stages", *static), judged, limit)

    return decorate


def as_tuple(inputs: Inputs) -> tuple[np.ndarray, ...]:
    """Inputs as a tuple, of which a single array is the only one."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def groups_of(graph: Graph, state: Iterable[str], inputs: Sequence[np.ndarray]) -> Groups:
    """Divides the stages so that no two of a group share a parent or a parameter: their products do not mix.

    Args:
      graph: who feeds whom.
      state: names that are no parameters.
      inputs: the network's own; integers have no gradient.
    """
    fixed = set(state)
    fixed |= {name for name, x in zip(input_names(len(inputs)), inputs, strict=True) if x.dtype.kind != "f"}
    groups: list[list[tuple[str, tuple[str, ...], tuple[str, ...]]]] = []
    used: list[set[str]] = []  # by each group
    for stage in graph.parents:
        parents = tuple(name for name in graph.parents[stage] if name not in fixed)
        params = tuple(name for name in graph.params[stage] if name not in fixed)
        own = {*parents, *(f"param {name}" for name in params)}
        number = next((i for i, names in enumerate(used) if not own & names), len(used))
        if number == len(used):
            groups.append([])
            used.append(set())
        groups[number].append((stage, parents, params))
        used[number] |= own
    return tuple(tuple(members) for members in groups)


def _isolation(groups: Groups, outputs: _ByStage, products: Sequence[Any]) -> Isolated:
    keys = [(stage, name) for group in groups for stage, parents, params in group for name in (*parents, *params)]
    return Isolated(outputs.arrays(), dict(zip(keys, products, strict=True)))


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


def _precision(arrays: Arrays, inputs: Inputs) -> Any:
    return jax.enable_x64(any(x.dtype == np.float64 for x in (*as_tuple(inputs), *arrays.values())))


@functools.lru_cache(maxsize=64)
def _graph(network: Network, stages: Any, arrays: Any, inputs: Any, train: bool) -> Graph:
    key = jax.eval_shape(lambda: jax.random.key(0)) if train else None
    named = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in arrays}
    return trace(network, named, [jax.ShapeDtypeStruct(*x) for x in inputs], key, stages).graph()


@_program()
def _FORWARD(network: Network, stages: Any, arrays: Any, inputs: Any, key: Any) -> _ByStage:
    seen: dict[str, jax.Array] = {}
    traced = trace(network, arrays, inputs, key, stages)
    traced.run(_record(seen), arrays, inputs, key)
    return _ByStage.of(traced.names, seen)


def _alone(
    network: Network, stages: Any, arrays: Any, inputs: Any, fed: Any, cotangents: Any, key: Any, groups: Groups
) -> tuple[_ByStage, list[Any]]:
    traced = trace(network, arrays, inputs, key, stages)
    if set(traced.names) != set(fed):
        raise ParityError(
            f"the JAX network has the stages {', '.join(traced.names)} "
            f"{'in evaluation' if key is None else 'in training'}, "
            f"and is fed {', '.join(fed)}: both modes must have the same stages"
        )
    names = input_names(len(inputs))
    outputs: dict[str, Any] = {}
    products: list[Any] = []
    for group in groups:
        members = [stage for stage, _, _ in group]
        wanted = {
            name: arrays[name] if name in arrays else fed[name] if name in fed else inputs[names.index(name)]
            for _, parents, params in group
            for name in (*parents, *params)
        }

        def of(wanted: Any, members: Sequence[str] = members) -> dict[str, Any]:
            seen: dict[str, jax.Array] = {}

            def tap(name: str, value: jax.Array) -> jax.Array:
                seen[name] = value
                return wanted.get(name, fed[name])

            given = tuple(wanted.get(name, x) for name, x in zip(names, inputs, strict=True))
            traced.run(tap, {name: wanted.get(name, x) for name, x in arrays.items()}, given, key)
            return {name: seen[name] for name in members}

        seen, product = jax.vjp(of, wanted)
        outputs |= seen
        (found,) = product({name: cotangents[name] for name in members})
        products += [found[name] for _, parents, params in group for name in (*parents, *params)]
    return _ByStage.of((name for name in traced.names if name in outputs), outputs), products


_ISOLATED = _program("groups")(_alone)


@_program("groups", limit=1e9)  # it has several times as many operations
def _ROUNDED(
    network: Network,
    stages: Any,
    arrays: Any,
    inputs: Any,
    fed: Any,
    cotangents: Any,
    key: Any,
    groups: Groups,
) -> tuple[_ByStage, list[Any]]:
    return _simulated(network, stages, (arrays, inputs, fed, cotangents, key), groups)


_DRAWS = 16


@_program("groups")
def _REDRAWN(
    network: Network,
    stages: Any,
    arrays: Any,
    inputs: Any,
    fed: Any,
    cotangents: Any,
    key: Any,
    groups: Groups,
) -> tuple[_ByStage, list[Any]]:
    once = functools.partial(_simulated, network, stages, (arrays, inputs, fed, cotangents, key), groups)
    return jax.lax.map(once, jnp.arange(1, 1 + _DRAWS, dtype=jnp.uint32))


def _simulated(
    network: Network, stages: Any, args: Any, groups: Groups, draw: int | jax.Array = 0
) -> tuple[_ByStage, list[Any]]:
    alone = functools.partial(_alone, network, stages, groups=groups)
    jaxpr, out = jax.make_jaxpr(alone, return_shape=True)(*args)
    return jax.tree.unflatten(jax.tree.structure(out), rounding.simulate(jaxpr, jax.tree.leaves(args), draw))


@_program("loss", judged=False)
def _GRADIENTS(
    network: Network, stages: Any, arrays: Any, inputs: Any, labels: Any, key: Any, loss: Loss
) -> tuple[jax.Array, Any, _ByStage, _ByStage, Any]:
    traced = trace(network, arrays, inputs, key, stages)
    params = {name: x for name, x in arrays.items() if name not in network.state}

    def loss_with(params: Any, added: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        seen: dict[str, jax.Array] = {}

        def tap(name: str, value: jax.Array) -> jax.Array:
            seen[name] = value
            return value + added[name]

        outputs, state = traced.run(tap, {**arrays, **params}, inputs, key)
        return loss(outputs, labels), (seen, state)

    zeros = {name: jnp.zeros(v.aval.shape, v.aval.dtype) for name, v in zip(traced.names, traced.taps, strict=True)}
    (value, (seen, state)), grads = jax.value_and_grad(loss_with, argnums=(0, 1), has_aux=True)(params, zeros)
    return value, grads[0], _ByStage.of(traced.names, grads[1]), _ByStage.of(traced.names, seen), state


@_program("dropouts", judged=False)
def _MASKS(network: Network, stages: Any, arrays: Any, inputs: Any, key: Any, dropouts: tuple[str, ...]) -> Any:
    if stages is not None:
        stages = (*stages, *map(_given, dropouts))
    traced = trace(network, arrays, inputs, key, stages)
    # Fed ones, a dropout shows what it keeps; fed minus ones as well, in case that something before it makes them zero.
    kept = {name: jnp.zeros((), bool) for name in dropouts}
    for sign in (1.0, -1.0):
        seen: dict[str, jax.Array] = {}

        def tap(name: str, value: jax.Array, sign: float = sign, seen: dict[str, jax.Array] = seen) -> jax.Array:
            seen[name] = value
            return jnp.full_like(value, sign)

        traced.run(tap, arrays, inputs, key)
        kept = {name: kept[name] | (seen[name] != 0) for name in dropouts}
    return {name: mask.astype(jnp.uint8) for name, mask in kept.items()}


def _given(dropout: str) -> str:
    """What the adapters call the input of a dropout that is a module.

    >>> _given("block.drop"), _given("drop#2")
    ('block.drop.input', 'drop.input#2')
    """
    path, hash_, count = dropout.partition("#")
    return f"{path}.input{hash_}{count}"


def _record(seen: dict[str, jax.Array]) -> Callable[[str, jax.Array], jax.Array]:
    def tap(name: str, value: jax.Array) -> jax.Array:
        seen[name] = value
        return value

    return tap


def _key(seed: int | jax.Array | None) -> jax.Array | None:
    return jax.random.key(seed) if isinstance(seed, int) else seed
