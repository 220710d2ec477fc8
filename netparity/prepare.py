"""All that is known of two networks before a number is compared: table, stages, layouts, dropouts, losses."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from netparity import arguments, bounds, calls, graph, jax_side, layouts, marks, matching, pairing, torch_side, uses
from netparity.adapters.given import JaxNetwork
from netparity.graph import Graph, Trace, input_names
from netparity.layouts import Layout
from netparity.measure import ParityError, error
from netparity.pairs import Pair
from netparity.results import Check, check
from netparity.table import DenseKernel, Entry, NameTable

_DRAWS = frozenset({"random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"})


@dataclasses.dataclass(frozen=True)
class Ready:
    """Two networks that can be compared.

    Attributes:
      pair: the two sides.
      inputs: as the JAX side takes them.
      table: of parameters and state.
      entries: of the table, by JAX name.
      record: what PyTorch called in evaluation mode.
      convolved: by JAX's name of a kernel, the sizes of what it is convolved with.
    """

    pair: Pair
    inputs: tuple[np.ndarray, ...]
    table: NameTable
    entries: Mapping[str, Entry]
    record: calls.Record
    convolved: Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class _Looked:
    """What one look at both networks shows.

    Attributes:
      inputs: of the JAX side, float32 where they are floating.
      layouts: of the inputs in PyTorch.
      record: what PyTorch called.
      traced: the JAX network in evaluation mode.
      graph: of the same.
    """

    inputs: tuple[np.ndarray, ...]
    layouts: dict[str, Layout]
    record: calls.Record
    traced: Trace
    graph: Graph


def prepare(
    network: JaxNetwork,
    module: nn.Module,
    inputs: Any,
    *,
    labels: Any,
    table: Mapping[str, Entry] | None,
    stages: Mapping[str, str] | None,
    dropouts: Sequence[str] | None,
    layouts: Mapping[str, Layout] | None,
    train: bool,
    losses: tuple[jax_side.Loss | None, torch_side.Loss | None],
    seed: int,
) -> Ready:
    """Finds what was not given. See `netparity.comparison.compare`."""
    stated = dict(layouts or {})
    looked = _look(network, module, inputs, stated)
    entries = dict(_infer(network, module, looked) if table is None else table)
    names = _name_table(network, module, entries)
    arrays = dict(network.arrays)
    random = _dropouts(network, looked, module, train) if dropouts is None and stages is None else {}
    if stages is None:
        owned = _owned(entries)
        stages = pairing.stages(looked.graph, looked.record.calls, owned, set(arrays), random)
    _require_known(stages, looked.graph, stated, input_names(len(looked.inputs)))
    dropped = tuple(dropouts) if dropouts is not None else tuple(name for name in random if name in stages)
    jax_loss, torch_loss, labels = _losses(losses, labels, looked, seed)
    ours = jax_side.JaxSide(network.network, jax_loss, dropped, tuple(stages), quick=True)
    theirs = torch_side.TorchSide(
        module,
        stages,
        names.to_common,
        functools.partial(_from_common, names, frozenset(entries)),
        torch_loss,
        layouts=looked.layouts,
        pull_back=names.pull_back,
    )
    found = _layouts(ours, theirs, arrays, looked, entries, network.channels_last)
    theirs = dataclasses.replace(theirs, layouts={**looked.layouts, **found, **stated})
    given = looked.inputs if len(looked.inputs) > 1 else looked.inputs[0]
    pair = Pair(ours, theirs, arrays, given, labels, seed)
    if train:
        _require_training(pair)
    return Ready(pair, looked.inputs, names, entries, looked.record, uses.convolved(looked.traced))


def infer_table(network: JaxNetwork, module: nn.Module, inputs: Any) -> dict[str, Entry]:
    """The table of the parameters and the state of two networks; `netparity.as_python` writes it down.

    Args:
      network, module, inputs: as `netparity.compare` takes them.

    Raises:
      ParityError: listing what is ambiguous, with its candidates, and what is left over.
    """
    arguments.require(network, module, inputs, {})
    return _infer(network, module, _look(network, module, inputs, {}))


def _look(network: JaxNetwork, module: nn.Module, inputs: Any, stated: Mapping[str, Layout]) -> _Looked:
    given = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    arrays = tuple(_array(x) for x in given)
    try:
        traced = graph.trace(network.network, network.arrays, arrays, None)
    except ParityError:
        raise
    except Exception as problem:
        raise ParityError(f"the JAX network fails on these inputs in evaluation mode: {_line(problem)}") from problem
    record, found = _record(network, module, arrays, stated)
    return _Looked(arrays, found, record, traced, traced.graph())


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {next(iter(str(problem).strip().splitlines()), '')}"


def _record(
    network: JaxNetwork, module: nn.Module, inputs: tuple[np.ndarray, ...], stated: Mapping[str, Layout]
) -> tuple[calls.Record, dict[str, Layout]]:
    """One pass of the PyTorch network, and the layouts of its inputs with which it goes through."""
    names = input_names(len(inputs))
    choices = []
    for name, x in zip(names, inputs, strict=True):
        if name in stated:
            choices.append([stated[name]])
        elif x.dtype.kind != "f" or x.ndim < 3:
            choices.append([layouts.AS_IS])
        elif x.ndim == 3 or not network.channels_last:
            choices.append([layouts.AS_IS, layouts.CHANNELS_FIRST])
        else:
            choices.append([layouts.CHANNELS_FIRST, layouts.AS_IS])
    like = next((p for p in module.parameters()), None)
    first: Exception | None = None
    for layout in itertools.product(*choices):
        tensors = []
        for own, x in zip(layout, inputs, strict=True):
            tensor = torch.from_numpy(np.array(own.to_torch(x), order="C"))
            if like is not None:
                tensor = tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
            tensors.append(tensor)
        try:
            return calls.record(module, tensors), dict(zip(names, layout, strict=True))
        except Exception as problem:  # whatever the network raises, the next layout may do
            first = first or problem
    assert first is not None
    shapes = ", ".join(str(list(x.shape)) for x in inputs)
    raise ParityError(
        f"the PyTorch network fails on the inputs {shapes}, channels first or as they are: {_line(first)}"
    ) from first


def _infer(network: JaxNetwork, module: nn.Module, looked: _Looked) -> dict[str, Entry]:
    ours = [matching.JaxArray(name, network.arrays[name].shape) for name in uses.order(looked.traced)]
    order = {name: i for i, name in enumerate(looked.record.modules)}
    owners = dict(module.named_modules())
    named = [*module.named_parameters(), *module.named_buffers()]
    theirs = [
        matching.TorchArray(name, tuple(value.shape), owners[name.rpartition(".")[0]])
        for name, value in sorted(named, key=lambda item: order.get(item[0].rpartition(".")[0], len(order)))
    ]
    maps = _maps(looked)
    found = matching.infer_table(ours, theirs, maps=maps)
    problems = [f"{name}: may be {' or '.join(candidates)}" for name, candidates in found.ambiguous.items()]
    problems += [f"{name} {list(network.arrays[name].shape)}: nothing in PyTorch fits" for name in found.jax_left]
    trained = dict(module.named_parameters())
    problems += [
        f"{name} {list(trained[name].shape)}: nothing in JAX fits" for name in found.torch_left if name in trained
    ]
    if problems:
        raise ParityError(
            "the table of parameters cannot be inferred; state it with table={JAX name: netparity.Same(PyTorch name)}: "
            + "; ".join(problems)
        )
    return found.table


def _maps(looked: _Looked) -> dict[str, tuple[int, int, int]]:
    """By JAX kernel behind a flattening that PyTorch does otherwise, the map's ``(height, width, channels)``."""
    theirs = [shape for shape in looked.record.flattened.values() if len(shape) == 3]
    maps = {name: found.map for name, found in uses.flattened(looked.traced).items()}
    return {
        name: (shape[0], shape[1], shape[2])
        for name, shape in maps.items()
        if len(shape) == 3 and (shape[2], *shape[:2]) in theirs and shape[:2] != (1, 1)
    }


def _name_table(network: JaxNetwork, module: nn.Module, entries: Mapping[str, Entry]) -> NameTable:
    """The table, in which state that only one side has may be left out."""
    state = network.network.state
    ours = {name: value.shape for name, value in network.arrays.items() if name not in state or name in entries}
    buffers = dict(module.named_buffers())
    theirs = {name: tuple(value.shape) for name, value in (*module.named_parameters(), *buffers.items())}
    return NameTable(entries, ours, theirs, optional=set(buffers))


def _from_common(table: NameTable, known: frozenset[str], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return table.from_common({name: value for name, value in arrays.items() if name in known})


def _owned(entries: Mapping[str, Entry]) -> dict[str, set[str]]:
    """By PyTorch's module, the JAX names of all that belongs as a whole to it or to what is within it."""
    found: dict[str, set[str]] = {}
    for name, entry in entries.items():
        owners = set.intersection(*(set(_paths(piece.torch)) for piece in entry.pieces()))
        for path in owners:
            found.setdefault(path, set()).add(name)
    return found


def _paths(name: str) -> Iterator[str]:
    """The modules that an array lies in, from the innermost.

    >>> list(_paths("layer1.0.weight"))
    ['layer1.0', 'layer1', '']
    """
    while name:
        name = name.rpartition(".")[0]
        yield name


def _dropouts(network: JaxNetwork, looked: _Looked, module: nn.Module, train: bool) -> dict[str, str]:
    """The stages that draw in training, and PyTorch's that drop."""
    if not train:
        return {}
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        found = graph.trace(network.network, network.arrays, looked.inputs, key).graph()
    except ParityError:
        raise
    except Exception as problem:
        raise ParityError(f"the JAX network fails on these inputs in training mode: {_line(problem)}") from problem
    random = [name for name, used in found.primitives.items() if used & _DRAWS]
    mixed = [name for name in random if any(param.startswith(f"{name}.") for param in network.arrays)]
    if mixed:
        raise ParityError(
            f"in training {', '.join(mixed)} draws random numbers and has parameters of its own: make the dropout a "
            "module or mark what it gives with jax.ad_checkpoint.checkpoint_name, so that PyTorch can get its mask; "
            'or compare evaluation alone with modes=["evaluation"]'
        )
    dropping = {c.name for c in looked.record.calls if pairing.drops(c.module, torch_side.DROPOUTS, torch_side.RANDOM)}
    return pairing.dropouts(found, random, looked.record.calls, dropping)


def _require_training(pair: Pair) -> None:
    """Refuses a PyTorch network that fails in training mode, or draws random numbers that no mask replaces."""
    try:
        drawing = pair.torch.drawing(pair.params, pair.inputs, pair.masks("float32"))
    except ParityError:
        raise
    except Exception as problem:
        raise ParityError(
            f"the PyTorch network fails on these inputs in training mode: {_line(problem)}; "
            'modes=["evaluation"] compares evaluation alone'
        ) from problem
    if drawing is not None:
        raise ParityError(
            f"in training the PyTorch network draws random numbers at {drawing}, other than by a dropout that the JAX "
            "network shares: set the dropout= of attentions and recurrent layers to 0, use nn.Dropout for F.dropout, "
            'or compare evaluation alone with modes=["evaluation"]'
        )


def _require_known(
    stages: Mapping[str, str], known: Graph, stated: Mapping[str, Layout], inputs: Sequence[str]
) -> None:
    problems = [f"layouts are stated for what is no stage: {name}" for name in stated
                if name not in stages and name not in inputs]  # fmt: skip
    missing = [name for name in stages if name not in known.parents]
    if missing:
        problems.append(
            f"the JAX network has no value called {', '.join(missing)} in evaluation mode; it has "
            + ", ".join(known.parents)
        )
    if problems:
        raise ParityError("; ".join(problems))


def _layouts(
    ours: jax_side.JaxSide,
    theirs: torch_side.TorchSide,
    arrays: Mapping[str, np.ndarray],
    looked: _Looked,
    entries: Mapping[str, Entry],
    channels_last: bool,
) -> dict[str, Layout]:
    """What the shapes on both sides, and the dense kernels that the table turns, tell of each stage's layout."""
    kernels = {n: e.flattened for n, e in entries.items() if isinstance(e, DenseKernel) and e.flattened is not None}
    sizes = ours.shapes(dict(arrays), looked.inputs)
    if not channels_last:
        return dict.fromkeys(sizes, layouts.AS_IS)
    own = theirs.own_shapes(dict(arrays), looked.inputs)
    found = layouts.infer(sizes, own, kernels.values())
    for kernel, before in uses.flattened(looked.traced).items():
        if kernel in kernels:
            stages = [name for name in before.stages if name in sizes and own.get(name, sizes[name]) == sizes[name]]
            found |= {name: layouts.Flattened(kernels[kernel]) for name in stages}
    return found


def _losses(
    losses: tuple[jax_side.Loss | None, torch_side.Loss | None], labels: Any, looked: _Looked, seed: int
) -> tuple[jax_side.Loss, torch_side.Loss, Any]:
    """Both sides' loss, and what they take."""
    ours, theirs = losses
    order = _order(looked)
    if ours is not None and theirs is not None:
        return ours, theirs, labels
    shapes = list(_output_shapes(looked.traced).values())
    returned = [call.shape for call in looked.record.calls if calls.module_of(call.name) == ""]
    # Where PyTorch alone returns logits, the shapes are what is wrong, and `levels.shapes` says at which stage.
    logits = [bool(found) and len(found[0]) == 2 for found in (shapes, returned)]
    if labels is not None and logits != [False, True]:
        if not logits[0]:
            raise ParityError(
                f"labels are of logits [batch, class], and the JAX network returns {[list(s) for s in shapes]}: "
                "give jax_loss and torch_loss, or leave the labels out"
            )
        known = arguments.labels(labels, *shapes[0])
        return _jax_cross_entropy, functools.partial(_torch_cross_entropy, order), known
    rng = np.random.default_rng(seed)
    weights = tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    own = [layouts.by_shape(ours, returned[place]) for ours, place in zip(shapes, order, strict=False)]
    return _jax_sum, functools.partial(_torch_sum, order, own), weights


def _output_shapes(traced: Trace) -> dict[str, tuple[int, ...]]:
    """The floating outputs of the JAX network by name, in JAX's order, which sorts dictionaries by their keys."""
    outputs, _ = jax.tree.unflatten(traced.outputs, traced.jaxpr.out_avals[: traced.outputs.num_leaves])
    leaves, _ = jax.tree_util.tree_flatten_with_path(outputs)
    return {
        calls.OUTPUT + "".join(f"[{marks.step(part)}]" for part in path): leaf.shape
        for path, leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def _order(looked: _Looked) -> list[int]:
    """The place among PyTorch's outputs of each of JAX's: by their names if these are the same, else as they come."""
    ours = list(_output_shapes(looked.traced))
    theirs = [call.name for call in looked.record.calls if calls.module_of(call.name) == ""]
    if sorted(ours) == sorted(theirs):
        return [theirs.index(name) for name in ours]
    return list(range(len(theirs)))


def _jax_cross_entropy(outputs: Any, labels: Any) -> jax.Array:
    return jax_side.mean_cross_entropy(_jax_leaves(outputs)[0], labels)


def _torch_cross_entropy(order: Sequence[int], outputs: Any, labels: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(_torch_leaves(outputs)[order[0]], labels)


def _jax_sum(outputs: Any, weights: Sequence[jax.Array]) -> jax.Array:
    """A random sum of everything that the network returns."""
    parts = [(out * weight).mean() for out, weight in zip(_jax_leaves(outputs), weights, strict=True)]
    return sum(parts[1:], start=parts[0])


def _torch_sum(
    order: Sequence[int], own: Sequence[Layout], outputs: Any, weights: Sequence[np.ndarray]
) -> torch.Tensor:
    leaves = _torch_leaves(outputs)
    parts = [
        (leaves[place] * torch.from_numpy(np.array(layout.to_torch(weight), order="C")).to(leaves[place])).mean()
        for place, layout, weight in zip(order, own, weights, strict=False)
    ]
    return sum(parts[1:], start=parts[0])


def _jax_leaves(outputs: Any) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.floating)]


def _torch_leaves(outputs: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def leaf(_path: str, value: torch.Tensor) -> torch.Tensor:
        found.append(value)
        return value

    calls.replaced(outputs, leaf)
    return found


def weights(ready: Ready, state_dict: Mapping[str, Any]) -> Iterator[Check]:
    """Whether a converter made the JAX network's values of these of PyTorch's.

    Raises:
      ParityError: listing what among them is no array, or is not the PyTorch network's.
    """
    given = {name: _numpy(name, value) for name, value in state_dict.items()}
    own = {name: tuple(value.shape) for name, value in ready.pair.torch.module.state_dict().items()
           if isinstance(value, torch.Tensor)}  # fmt: skip
    problems = [
        f"{name} {list(value.shape)} for PyTorch's {list(own[name]) if name in own else 'none'}"
        for name, value in given.items()
        if own.get(name) != value.shape
    ]
    trained = dict(ready.pair.torch.module.named_parameters())
    problems += [f"{name} is missing" for name in trained if name not in given]
    if problems:
        raise ParityError("state_dict is not the PyTorch network's: " + "; ".join(problems))
    made = ready.table.to_common({name: value for name, value in given.items() if ready.table.knows(name)})
    for name, true in made.items():
        worst = error(ready.pair.params[name], true).max
        note = "" if worst <= bounds.U else "the converter gives other numbers than the table does"
        yield check("weights", name, f"{name}, converted", worst, bounds.U, "float32", note)


def _numpy(name: str, value: Any) -> np.ndarray:
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ParityError(f"state_dict's {name} is {type(value).__name__}, no array: {_line(problem)}") from problem
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
