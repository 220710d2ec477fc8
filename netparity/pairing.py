"""Which value of a JAX network is which of a PyTorch network's, found from the table of parameters and from names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from torch import nn

from netparity.calls import OUTPUT, Call, module_of
from netparity.graph import Graph
from netparity.marks import PRIMITIVES
from netparity.measure import ParityError

_PARTS = re.compile(r"^([^#\[]*)(#\d+)?((?:\[[^\]]*\])*)$")


def stages(
    graph: Graph,
    calls: Sequence[Call],
    owned: Mapping[str, Collection[str]],
    parameters: Collection[str],
    dropouts: Mapping[str, str],
) -> dict[str, str]:
    """The PyTorch name of every JAX stage that has one, in the order of the JAX network.

    A stage is found from the parameters that belong to its module: the two sides' modules that own the same ones are
    the same layer, and of several within each other the innermost is. Where a module owns none, its name decides.

    Args:
      graph: of all named values of the JAX network.
      calls: what PyTorch's modules returned.
      owned: by PyTorch's module, the JAX names of the parameters and state within it.
      parameters: the JAX names of all of them.
      dropouts: stages that drop, and their PyTorch names.

    Raises:
      ParityError: if nothing is found.
    """
    ours = {name: _parts(name) for name in graph.parents}
    theirs = {call.name: _parts(call.name) for call in calls}
    within = {path: _within(path, parameters) for path, _, _ in ours.values()}
    for name, (path, _, _) in ours.items():
        within[path] = within[path] or frozenset(graph.params[name])
    inner = _innermost({path: names for path, names in within.items() if path != OUTPUT})
    called = {module_of(call.name): frozenset(owned.get(module_of(call.name), ())) for call in calls}
    layers = _innermost({path: names for path, names in called.items() if path})
    modules = {path: layers[names] for names, path in inner.items() if names and names in layers}
    for name, (path, _, part) in ours.items():
        # A sum of branches, say, is not what the innermost module gives, which is one of the branches.
        if path in modules and not part and not graph.params[name] and not graph.primitives[name] <= PRIMITIVES:
            modules[path] = _outermost(modules[path], called, calls, graph.shapes[name])
    by_name = {_normal(path): path for path in called if path and not called[path]}
    for path, names in within.items():
        if path not in modules and not names and _normal(path) in by_name:
            modules[path] = by_name[_normal(path)]
    behind = _behind(graph, {name for name, (path, _, _) in ours.items() if path in modules})
    single = {names: path for names, path in layers.items() if path in _indivisible(calls)}
    for name, (path, _, _) in ours.items():
        if path not in modules and path != OUTPUT and behind[name] in single:
            modules[path] = single.pop(behind[name])
    found = {}
    for name, (path, count, part) in ours.items():
        theirs_name = f"{modules.get(path, '')}{count}"
        if name in dropouts:
            found[name] = dropouts[name]
        elif path in modules:
            match = _part(theirs_name, part, theirs)
            found |= {name: match} if match is not None else {}
    taken: dict[str, str] = {}
    for name, match in found.items():
        taken.setdefault(match, name)
    found = {name: match for name, match in found.items() if taken[match] == name}
    found |= _outputs(ours, calls, found, graph)
    if not found:
        raise ParityError(
            "no value of the JAX network is known to be one of the PyTorch network's: name the stages with "
            "stages={JAX name: PyTorch module}; JAX has " + ", ".join(ours) + "; PyTorch " + ", ".join(theirs)
        )
    return {name: found[name] for name in graph.parents if name in found}


def _parts(name: str) -> tuple[str, str, str]:
    """Path, number of the call and part of what was returned.

    >>> _parts("layer1.relu#2"), _parts("lstm[0][1]")
    (('layer1.relu', '#2', ''), ('lstm', '', '[0][1]'))
    """
    match = _PARTS.match(name)
    return (match[1], match[2] or "", match[3]) if match else (name, "", "")


def _normal(path: str) -> str:
    """A module's path in letters and digits alone.

    >>> _normal("layer1_0.conv1") == _normal("layer1.0.conv1")
    True
    """
    return re.sub(r"[._]+", ".", path.lower())


def _within(path: str, parameters: Collection[str]) -> frozenset[str]:
    return frozenset(name for name in parameters if name.startswith(f"{path}."))


def _innermost(owned: Mapping[str, frozenset[str]]) -> dict[frozenset[str], str]:
    """By parameters, the innermost of the modules that own just these."""
    found: dict[frozenset[str], str] = {}
    for path, names in owned.items():
        if names and (names not in found or path.startswith(found[names])):
            found[names] = path
    return found


def _behind(graph: Graph, known: Collection[str]) -> dict[str, frozenset[str]]:
    """By stage, the parameters that it is computed with since the stages that are known: of a bidirectional layer
    these are those of its two halves."""
    found: dict[str, frozenset[str]] = {}
    for name, parents in graph.parents.items():
        found[name] = frozenset(graph.params[name]).union(*(found[one] for one in parents if one in found))
        if name in known:
            found[name] = frozenset()
    return found


def _indivisible(calls: Sequence[Call]) -> set[str]:
    """The modules that have no modules within."""
    return {module_of(call.name) for call in calls if not any(True for _ in call.module.children())}


def _outermost(path: str, owned: Mapping[str, frozenset[str]], calls: Sequence[Call], shape: tuple[int, ...]) -> str:
    """Of a module and those around it that own nothing else, the outermost that returns an array of that size."""
    sizes = {call.name: sorted(call.shape) for call in calls}
    around = [one for one in owned if one and owned[one] == owned[path] and f"{path}.".startswith(f"{one}.")]
    return min((one for one in around if sizes.get(one) == sorted(shape)), key=len, default=path)


def _part(name: str, part: str, theirs: Mapping[str, tuple[str, str, str]]) -> str | None:
    """The part of what a PyTorch module returned: of the same place, or the first where one side returns one array."""
    if f"{name}{part}" in theirs:
        return f"{name}{part}"
    first = {"": f"{name}[0]", "[0]": name}.get(part, "")
    return first if first in theirs else None


def _outputs(
    ours: Mapping[str, tuple[str, str, str]], calls: Sequence[Call], found: Mapping[str, str], graph: Graph
) -> dict[str, str]:
    """What the whole networks return, unless it is what a stage gives on both sides."""
    own = [name for name, (path, _, _) in ours.items() if path == OUTPUT]
    returned = {call.name: call for call in calls if module_of(call.name) == ""}
    by_place = len(own) == len(returned) and set(own) != set(returned)
    pairs = dict(zip(own, returned, strict=True)) if by_place else {n: n for n in own if n in returned}
    return {
        name: match
        for name, match in pairs.items()
        if not (
            returned[match].same and graph.primitives[name] <= PRIMITIVES and set(graph.parents[name]) <= set(found)
        )
    }


def dropouts(graph: Graph, random: Collection[str], calls: Sequence[Call], dropping: Collection[str]) -> dict[str, str]:
    """The stages that draw something in training, and their PyTorch names, in order of the calls.

    Args:
      graph: of the JAX network in training.
      random: its stages that draw.
      calls: what PyTorch's modules returned.
      dropping: the PyTorch names among them that drop something.

    Raises:
      ParityError: if there are more on one side.
    """
    ours = [name for name in graph.parents if name in random]
    theirs = [call.name for call in calls if call.name in dropping]
    if len(ours) != len(theirs):
        raise ParityError(
            f"in training the JAX network draws random numbers at {_listed(ours)}, the PyTorch network drops at "
            f"{_listed(theirs)}: both need the same dropouts, as modules of their own (nn.Dropout for F.dropout), for "
            'masks to be shared; or compare evaluation alone with modes=["evaluation"]'
        )
    return dict(zip(ours, theirs, strict=True))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no stage"


def drops(module: nn.Module, kinds: tuple[type[nn.Module], ...], names: Collection[str]) -> bool:
    """Whether a PyTorch module drops something in training."""
    random = isinstance(module, kinds) or type(module).__name__ in names
    return random and float(getattr(module, "p", 0)) > 0
