"""What two networks' modules are told otherwise, before any number is computed: attributes, and activations.

Only what is certain is listed: a right port has none of it. Modules are paired by the stages and by the parameters
that they own; a function of parameters has no modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from netparity import calls
from netparity.adapters.given import JaxNetwork, library_class
from netparity.diagnosis.convention_rules import Difference, Two, differences
from netparity.pairs import Pair
from netparity.prepare import Ready
from netparity.results import Convention
from netparity.table import Entry

_LIBRARIES = ("torch", "torchvision")


def conventions(network: JaxNetwork, ready: Ready) -> list[Convention]:
    """The differences that the modules of two networks show, in PyTorch's order.

    Args:
      network: JAX's, whose trace `netparity.prepare.prepare` has made.
      ready: what it found.
    """
    found = [
        _convention(path, difference)
        for path, name in _pairs(network, ready)
        if (two := _two(network, ready, path, name)) is not None
        for difference in differences(two)
    ]
    return found + [_convention(stage, difference) for stage, difference in _activations(ready.pair, ready.record)]


def _convention(stage: str, difference: Difference) -> Convention:
    return Convention(stage, difference.what, _text(difference.jax), _text(difference.torch), difference.note)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _two(network: JaxNetwork, ready: Ready, path: str, name: str) -> Two | None:
    ours, theirs = network.modules[path], ready.pair.torch.module.get_submodule(name)
    if not ours.kind or not library_class(type(theirs), "forward", _LIBRARIES):
        return None  # it need not do what its attributes say
    kernels = (f"{path}.{kernel}" for kernel in ("kernel", "weight"))
    convolved = next((ready.convolved[kernel] for kernel in kernels if kernel in ready.convolved), None)
    made = ready.pair.graph("evaluation").shapes.get(path)
    return Two(ours.kind, ours.attributes, theirs, ready.record.given.get(name), convolved, made)


def _pairs(network: JaxNetwork, ready: Ready) -> list[tuple[str, str]]:
    """Paths of JAX's modules and names of PyTorch's that are the same layer."""
    stages = [(calls.module_of(stage), calls.module_of(name)) for stage, name in ready.pair.torch.stages.items()]
    found = dict.fromkeys(pair for pair in [*stages, *_owners(ready.entries)] if pair[0] in network.modules)
    order = {name: i for i, name in enumerate(ready.record.modules)}
    return sorted(found, key=lambda pair: order.get(pair[1], len(order)))


def _owners(entries: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """The modules that own the arrays of each entry."""
    for name, entry in entries.items():
        for piece in entry.pieces():
            yield name.rpartition(".")[0], piece.torch.rpartition(".")[0]


# ---------------------------------------------------------------------------------------------------- activations

_COMPARES = frozenset({"max", "min", "select_n", "clamp", "gt", "ge", "lt", "le", "abs", "sign"})
_SIGMOIDS = frozenset({"logistic", "exp", "exp2", "tanh"})
# What none of them can be computed without.
_NEEDS: tuple[tuple[tuple[type[nn.Module], ...], frozenset[str]], ...] = (
    ((nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh), _COMPARES),
    ((nn.SiLU, nn.Sigmoid, nn.Tanh), _SIGMOIDS | {"expm1"}),
    ((nn.ELU,), frozenset({"exp", "expm1", "exp2"})),
)
_SEEN = (("tanh", "tanh"), ("erf", "erf"), ("erfc", "erf"), ("logistic", "a sigmoid"), ("max", "a maximum (relu)"))
# Modules without a function of their own that could be taken for an activation.
_SIMPLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity,
           nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)  # fmt: skip


def _activations(pair: Pair, record: calls.Record) -> Iterator[tuple[str, Difference]]:
    """Where JAX computes a stage without what PyTorch's activation before it, or in it, needs.

    Looked at is a stage that is computed of one other stage alone, which feeds nothing else, and that PyTorch calls one
    activation after the other's module.
    """
    graph, names = pair.graph("evaluation"), {name: stage for stage, name in pair.torch.stages.items()}
    before, between = "", list[nn.Module]()
    for call in record.calls:
        between += [call.module] if _needs(call.module) else []
        stage = names.get(call.name)
        if stage is None:
            continue
        alone = graph.parents[stage] == (before,) and [before in p for p in graph.parents.values()].count(True) == 1
        simple = isinstance(call.module, _SIMPLE) or call.module in between
        if len(between) == 1 and alone and simple:
            yield from ((stage, one) for one in _activation(between[0], graph.primitives[stage]))
        before, between = stage, []


def _needs(module: nn.Module) -> frozenset[str]:
    if isinstance(module, nn.GELU):
        return frozenset({"erf", "erfc"}) if module.approximate == "none" else _SIGMOIDS
    return next((needs for types, needs in _NEEDS if isinstance(module, types)), frozenset())


def _activation(module: nn.Module, used: frozenset[str]) -> Iterator[Difference]:
    seen = next((text for primitive, text in _SEEN if primitive in used), None)
    if seen is None or _needs(module) & used:
        return
    if isinstance(module, nn.GELU) and {seen, module.approximate} in ({"tanh", "none"}, {"erf", "tanh"}):
        exact = module.approximate == "none"
        note = f"jax.nn.gelu(x, approximate={not exact}); JAX approximates unless told otherwise"
        yield Difference("gelu", f"by {seen}", "by erf (approximate='none')" if exact else "by tanh", note)
    else:
        yield Difference("activation", seen, str(module))
