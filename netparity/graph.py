"""A JAX network as a graph: its equations, and the values in it that have a name.

A value has a name because the network returns it under one, or because it is marked (see `netparity.marks`, and
`jax.ad_checkpoint.checkpoint_name`), which changes nothing and may stand inside ``jax.jit`` or ``jax.checkpoint``.
The network is used unchanged: its trace is evaluated equation by equation, and at each named value a *tap* may record
it, perturb it or replace it. What lies between named values is a *stage*, called after the value that it gives.
Source: "Writing custom Jaxpr interpreters in JAX", JAX documentation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.extend import core

from netparity import equations, marks
from netparity.measure import ParityError
from netparity.widening import widened

Tap = Callable[[str, jax.Array], jax.Array]


class Network(Hashable, Protocol):
    """A network in JAX, as the comparison takes it; hashable, and not jitted.

    Attributes:
      state: the names of the arrays that are no parameters, such as running statistics.
    """

    @property
    def state(self) -> frozenset[str]: ...

    def __call__(
        self, arrays: Mapping[str, jax.Array], inputs: Sequence[jax.Array], key: jax.Array | None
    ) -> tuple[Any, Mapping[str, jax.Array], Mapping[str, jax.Array]]:
        """Outputs, the state afterwards, and named values (those that are marked need not be among them).

        Args:
          arrays: parameters and state by name (``"conv1.kernel"``).
          inputs: the network's inputs.
          key: None in evaluation mode; in training mode a key, whether anything is drawn or not.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ByHand:
    """A network that returns its named values: ``(params, *inputs, key) -> (outputs, {name: value})``.

    ``params`` are nested dictionaries; the named values stand in the order of the network. Two are equal if their
    functions are, and then they share compiled programs.
    """

    forward: Callable[..., tuple[Any, dict[str, jax.Array]]]
    state: frozenset[str] = frozenset()

    def __call__(
        self, arrays: Mapping[str, jax.Array], inputs: Sequence[jax.Array], key: jax.Array | None
    ) -> tuple[Any, Mapping[str, jax.Array], Mapping[str, jax.Array]]:
        outputs, named = self.forward(traverse_util.unflatten_dict(dict(arrays), sep="."), *inputs, key)
        return outputs, {}, named


def input_names(count: int) -> tuple[str, ...]:
    """What the inputs are called among the sources of a stage: ``"input"``, or ``"input[0]"``, ``"input[1]"`` …"""
    return ("input",) if count == 1 else tuple(f"input[{i}]" for i in range(count))


@dataclasses.dataclass(frozen=True)
class Graph:
    """Who feeds whom, by stage, in the order of the network.

    Attributes:
      parents: what the stage is computed from: other stages and inputs.
      params: the parameters that it uses.
      primitives: the names of the operations that it consists of.
      shapes: of its value.
      work: multiplications in all products and convolutions of the network, loops counted once.
    """

    parents: dict[str, tuple[str, ...]]
    params: dict[str, tuple[str, ...]]
    primitives: dict[str, frozenset[str]]
    shapes: dict[str, tuple[int, ...]]
    work: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trace:
    """A traced network.

    Attributes:
      jaxpr: its equations, of the arrays in the order of their names, the inputs and the key.
      names: of its stages, in order.
      taps: the variable that holds each one's value.
      arrays: the names of its arrays, as they were given.
      inputs: how many it has.
      outputs: the structure of what it returns: outputs and state.
    """

    jaxpr: core.ClosedJaxpr
    names: tuple[str, ...]
    taps: tuple[Any, ...]
    arrays: tuple[str, ...]
    inputs: int
    outputs: Any

    def run(self, tap: Tap, arrays: Mapping[str, Any], inputs: Sequence[Any], key: Any) -> tuple[Any, dict[str, Any]]:
        """Evaluates the network with ``tap(name, value)`` in place of every named value; returns outputs and state."""
        jaxpr, env = self.jaxpr.jaxpr, {}
        taps = self._by_variable()

        def write(var: Any, value: Any) -> None:
            for name in taps.get(var, ()):
                value = tap(name, value)
            env[var] = value

        def read(var: Any) -> Any:
            return var.val if isinstance(var, core.Literal) else env[var]

        for var, value in zip(jaxpr.constvars, self.jaxpr.consts, strict=True):
            write(var, value)
        for var, value in zip(jaxpr.invars, jax.tree.leaves((dict(arrays), tuple(inputs), key)), strict=True):
            write(var, value)
        last = {var: i for i, equation in enumerate(jaxpr.eqns) for var in equation.invars if _is_variable(var)}
        last |= dict.fromkeys(filter(_is_variable, jaxpr.outvars), len(jaxpr.eqns))
        start = 0
        for end, equation in enumerate(jaxpr.eqns, start=1):
            if end < len(jaxpr.eqns) and not any(var in taps for var in equation.outvars):
                continue
            piece, start = jaxpr.eqns[start:end], end  # up to the next named value at once
            made = {var for one in piece for var in one.outvars}
            wanted = {var for var in made if var in taps or last.get(var, 0) >= end}
            for var, value in equations.evaluate(jaxpr, piece, read, wanted).items():
                write(var, value)
        return jax.tree.unflatten(self.outputs, [read(var) for var in jaxpr.outvars[: self.outputs.num_leaves]])

    def graph(self) -> Graph:
        """Who feeds whom."""
        found = Graph({}, {}, {}, {})
        jaxpr, taps = self.jaxpr.jaxpr, self._by_variable()
        names = sorted(self.arrays)
        ndim = {name: len(var.aval.shape) for name, var in zip(names, jaxpr.invars, strict=False)}
        env: dict[Any, tuple[frozenset[str], frozenset[str], frozenset[str]]] = {}
        nothing: tuple[frozenset[str], frozenset[str], frozenset[str]] = (frozenset(), frozenset(), frozenset())

        def write(var: Any, sources: tuple[frozenset[str], frozenset[str], frozenset[str]]) -> None:
            for name in taps.get(var, ()):
                order = (*input_names(self.inputs), *found.parents)
                found.parents[name] = tuple(one for one in order if one in sources[0])
                used = [one for one in self.arrays if one in sources[1]]
                found.params[name] = tuple(sorted(used, key=lambda one: -ndim[one]))  # kernels before biases
                found.primitives[name] = sources[2]
                found.shapes[name] = tuple(var.aval.shape)
                sources = (frozenset([name]), frozenset(), frozenset())
            env[var] = sources

        labels = [(nothing[0], frozenset([name]), nothing[2]) for name in names]
        labels += [(frozenset([name]), nothing[1], nothing[2]) for name in input_names(self.inputs)]
        for var in jaxpr.constvars:
            write(var, nothing)
        for number, var in enumerate(jaxpr.invars):
            write(var, labels[number] if number < len(labels) else nothing)
        for equation in jaxpr.eqns:
            operands = [env[var] for var in equation.invars if not isinstance(var, core.Literal)]
            parents, params, primitives = (frozenset().union(*(one[i] for one in operands)) for i in range(3))
            for var in equation.outvars:
                if not isinstance(var, core.DropVar):
                    write(var, (parents, params, primitives | frozenset(_primitives(equation))))
        return Graph(
            self._sorted(found.parents),
            self._sorted(found.params),
            self._sorted(found.primitives),
            self._sorted(found.shapes),
            _work(jaxpr),
        )

    def _sorted(self, by_stage: dict[str, Any]) -> dict[str, Any]:
        return {name: by_stage[name] for name in self.names}

    def _by_variable(self) -> dict[Any, list[str]]:
        taps: dict[Any, list[str]] = {}
        for name, var in zip(self.names, self.taps, strict=True):
            taps.setdefault(var, []).append(name)
        return taps


def trace(
    network: Network,
    arrays: Mapping[str, Any],
    inputs: Sequence[Any],
    key: Any,
    stages: Collection[str] | None = None,
) -> Trace:
    """Traces a network.

    Args:
      network: what to trace.
      arrays, inputs, key: its arguments; shapes and dtypes suffice.
      stages: the named values to keep; None keeps all.

    Raises:
      ParityError: if named values are hidden inside a transformation, or not computed in the dtype of the inputs.
    """
    names: list[str] = []
    structure: list[Any] = []

    def flat(arrays: Any, inputs: Any, key: Any) -> list[jax.Array]:
        outputs, state, named = network(arrays, inputs, key)
        names[:] = named
        leaves, tree = jax.tree.flatten((outputs, dict(state)))
        structure[:] = [tree]
        return [*leaves, *named.values()]

    jaxpr = _inlined(jax.make_jaxpr(flat)(dict(arrays), tuple(inputs), key))
    returned = jaxpr.jaxpr.outvars[structure[0].num_leaves :]
    producers = {var: i for i, eqn in enumerate(jaxpr.jaxpr.eqns) for var in eqn.outvars}
    hidden = len({producers.get(var) for var in returned}) < len(set(returned))
    if hidden or any(isinstance(var, core.Literal) for var in returned):
        raise ParityError(
            "the JAX network hides its intermediates inside one compiled or transformed function: "
            "pass the forward function without jax.jit, jax.checkpoint or lax.scan around it"
        )
    known = _named(jaxpr.jaxpr, names, arrays)
    traced = Trace(
        jaxpr,
        tuple(name for name, _ in known),
        tuple(var for _, var in known),
        tuple(arrays),
        len(inputs),
        structure[0],
    )
    own = _own_names(traced)
    kept = [i for i, name in enumerate(own) if stages is None or name in stages]
    _require_dtype([(own[i], traced.taps[i]) for i in kept], arrays, inputs)
    wide = widened(jaxpr)
    taps = [var for _, var in _named(wide.jaxpr, names, arrays)]
    return dataclasses.replace(traced, jaxpr=wide, names=tuple(own[i] for i in kept), taps=tuple(taps[i] for i in kept))


def _own_names(traced: Trace) -> list[str]:
    """The names of the marks, each after the module whose parameters are used.

    What is compiled once for several modules (``flax.linen.jit``) marks the first one's name each time: ``fc1#2``.
    """
    again = [name for name in traced.names if "#" in name]
    if not any(array.startswith(f"{name.partition('#')[0]}.") for name in again for array in traced.arrays):
        return list(traced.names)
    graph, found = traced.graph(), list[str]()
    for name in traced.names:
        path, _, rest = name.partition("#")
        modules = {array.rpartition(".")[0] for array in graph.params[name]}
        own = any(array.startswith(f"{path}.") for array in graph.params[name])
        if rest and len(modules) == 1 and not own and any(array.startswith(f"{path}.") for array in traced.arrays):
            bare = f"{modules.pop()}{rest.lstrip('0123456789')}"
            name = next(new for count in range(1, len(found) + 2) if (new := numbered(bare, count)) not in found)
        found.append(name)
    return found


def _named(jaxpr: core.Jaxpr, returned: Sequence[str], arrays: Iterable[str]) -> list[tuple[str, Any]]:
    """The named values: those that the network returns, which stand last among its results, and those it marks."""
    own = jaxpr.outvars[len(jaxpr.outvars) - len(returned) :]
    variables = dict(zip(jaxpr.invars, sorted(arrays), strict=False))  # the arrays are the first arguments
    return [*zip(returned, own, strict=True), *_marks(jaxpr, variables)]


def _require_dtype(found: Sequence[tuple[str, Any]], arrays: Mapping[str, Any], inputs: Sequence[Any]) -> None:
    floating = [jnp.dtype(x.dtype) for x in (*inputs, *arrays.values()) if jnp.issubdtype(x.dtype, jnp.floating)]
    wanted = max(floating, key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))
    fixed = [
        f"{name} ({var.aval.dtype})"
        for name, var in found
        if _floating(var) and var.aval.dtype.itemsize < wanted.itemsize
    ]
    if fixed:
        raise ParityError(
            f"fed {wanted}, the JAX network computes in a dtype of its own at {', '.join(fixed)}: leave out the "
            "layers' dtype= (None takes that of the input), and cast constants and statistics to the input's dtype"
        )


def _marks(jaxpr: core.Jaxpr, arrays: Mapping[Any, str]) -> Iterator[tuple[str, Any]]:
    """Every marked floating value, in order; the second of a name is ``name#2``.

    Of what is marked within a loop over stacked layers, the last layer's value has the name.

    Args:
      jaxpr: the network's.
      arrays: the names of the variables that hold its arrays.
    """
    count: dict[str, int] = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name in marks.PRIMITIVES and _floating(equation.outvars[0]):
            given = [(equation.params["name"], equation.outvars[0])]
        else:
            given = _layers(equation, arrays) if equation.primitive.name == "scan" else []
        for name, var in given:
            count[name] = count.get(name, 0) + 1
            yield numbered(name, count[name]), var


def _layers(scan: Any, arrays: Mapping[Any, str]) -> list[tuple[str, Any]]:
    """What a loop hands on from layer to layer, by the name of the module whose parameters are stacked in it."""
    consts, carried = equations.scan_counts(scan)
    stacked = [arrays[var] for var in scan.invars[consts + carried :] if _is_variable(var) and var in arrays]
    marked = _returned(scan.params["jaxpr"].jaxpr)
    found = [(marked[i], var) for i, var in enumerate(scan.outvars[:carried]) if i in marked and _floating(var)]
    return [(name, var) for name, var in found if any(one.startswith(f"{name.split('[')[0]}.") for one in stacked)]


def _returned(jaxpr: core.Jaxpr) -> dict[int, str]:
    """The marks of what a computation returns, by place."""
    found: dict[Any, str] = {}
    for equation in jaxpr.eqns:
        inner = equation.params.get(equations.CALLS.get(equation.primitive.name, ""))
        if equation.primitive.name in marks.PRIMITIVES:
            found[equation.outvars[0]] = equation.params["name"]
        elif inner is not None:
            body = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
            found |= {equation.outvars[i]: name for i, name in _returned(body).items()}
    return {i: found[var] for i, var in enumerate(jaxpr.outvars) if _is_variable(var) and var in found}


def _is_variable(var: Any) -> bool:
    return not isinstance(var, core.Literal)


def _floating(var: Any) -> bool:
    return bool(jnp.issubdtype(var.aval.dtype, jnp.floating))


def numbered(name: str, count: int) -> str:
    """The name of a value that appears for the ``count``-th time.

    >>> numbered("relu", 1), numbered("relu", 2), numbered("lstm[0]", 2)
    ('relu', 'relu#2', 'lstm#2[0]')
    """
    if count == 1:
        return name
    path, bracket, rest = name.partition("[")
    return f"{path}#{count}{bracket}{rest}"


def _inlined(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same computation, with the calls inlined that have marks within."""
    if not any(_called(equation) is not None for equation in jaxpr.jaxpr.eqns):
        return jaxpr
    return jax.make_jaxpr(lambda *args: _evaluated(jaxpr.jaxpr, jaxpr.consts, args))(*jaxpr.in_avals)


def _evaluated(jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    env: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else env[var]

    for equation in jaxpr.eqns:
        inner = _called(equation)
        if inner is None:
            env.update(equations.evaluate(jaxpr, [equation], read))
        else:
            results = _evaluated(inner.jaxpr, inner.consts, [read(var) for var in equation.invars])
            env.update(zip(equation.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _called(equation: Any) -> core.ClosedJaxpr | None:
    """What an equation merely calls, if there are marks within."""
    inner = equations.closed(equation.params.get(equations.CALLS.get(equation.primitive.name, "")))
    if inner is None:
        return None
    marked = any(eqn.primitive.name in marks.PRIMITIVES or _called(eqn) is not None for eqn in inner.jaxpr.eqns)
    return inner if marked else None


def _primitives(equation: Any) -> Iterator[str]:
    """The names of an equation's operation and of those within it."""
    yield equation.primitive.name
    for body in equations.bodies(equation):
        for inner in body.eqns:
            yield from _primitives(inner)


def _work(jaxpr: core.Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        total += sum(map(_work, equations.bodies(equation)))
        sizes: list[Any] = [var.aval for var in (*equation.outvars, *equation.invars)]
        if equation.primitive.name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            total += sizes[0].size * math.prod(sizes[1].shape[i] for i in left)
        elif equation.primitive.name == "conv_general_dilated":
            out = equation.params["dimension_numbers"].rhs_spec[0]
            total += sizes[0].size * sizes[2].size / sizes[2].shape[out]
    return total
