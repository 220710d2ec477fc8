"""What happens inside a PyTorch network: which module is called when, and what it returns."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from netparity.graph import numbered

Tap = Callable[[str, torch.Tensor], torch.Tensor]
OUTPUT = "output"  # what the whole network returns


def module_of(name: str) -> str:
    """The dotted name of the module whose output (or a part of it) has this name.

    >>> module_of("layer1.0.relu#2"), module_of("lstm[0]"), module_of("output")
    ('layer1.0.relu', 'lstm', '')
    """
    path = re.split(r"[#\[]", name, maxsplit=1)[0]
    return "" if path == OUTPUT else path


@contextlib.contextmanager
def tapped(module: nn.Module, names: Mapping[str, str], tap: Tap) -> Iterator[None]:
    """Inside, ``tap(names[name], value)`` stands in place of what the modules return.

    Args:
      module: the network.
      names: of outputs (``"relu#2"``, ``"lstm[0]"``), and what the tap is told instead.
      tap: gets and returns a tensor.
    """
    counts: dict[str, int] = {}

    def hook(path: str) -> Callable[..., Any]:
        def call(part: nn.Module, _args: Any, out: Any) -> Any:
            counts[path] = counts.get(path, 0) + 1

            def leaf(where: str, value: torch.Tensor) -> torch.Tensor:
                name = numbered((path or OUTPUT) + where, counts[path])
                return tap(names[name], value) if name in names else value

            found = replaced(out, leaf)
            return _with_last(part, out, found) if isinstance(part, nn.LSTM | nn.GRU | nn.RNN) else found

        return call

    wanted = {module_of(name) for name in names}
    handles = [part.register_forward_hook(hook(path)) for path, part in module.named_modules() if path in wanted]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_last(layer: nn.RNNBase, before: Any, after: Any) -> Any:
    """What a recurrent layer returns, with the state of its last step as it is in the outputs that were put in place.

    The last layer's state is the last step of the outputs, and some networks read it there, some here.
    """
    if not isinstance(after, tuple) or len(after) != 2:
        return after
    outputs, states = after
    hidden = states[0] if isinstance(states, tuple) else states
    own = before[1][0] if isinstance(before[1], tuple) else before[1]
    arrays = isinstance(outputs, torch.Tensor) and isinstance(hidden, torch.Tensor)  # packed sequences are none
    if not arrays or outputs is before[0] or hidden is not own:
        return after
    time = 1 if layer.batch_first and outputs.ndim == 3 else 0
    last = [outputs.select(time, -1)]
    if layer.bidirectional:
        size = outputs.shape[-1] // 2
        last = [last[0][..., :size], outputs.select(time, 0)[..., size:]]
    hidden = torch.cat([hidden[: -len(last)], torch.stack(last)])
    return outputs, (hidden, *states[1:]) if isinstance(states, tuple) else hidden


def replaced(value: Any, leaf: Callable[[str, torch.Tensor], torch.Tensor], path: str = "") -> Any:
    """A structure of tuples, lists and mappings with ``leaf(path, tensor)`` in place of every floating tensor."""
    if isinstance(value, torch.Tensor):
        return leaf(path, value) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        items = {key: replaced(item, leaf, f"{path}[{key}]") for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, tuple | list):
        parts = [replaced(item, leaf, f"{path}[{i}]") for i, item in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def call_of(name: str) -> int:
    """Which call of its module an output's name is of.

    >>> call_of("drop"), call_of("drop#2")
    (1, 2)
    """
    match = re.search(r"#(\d+)", name)
    return int(match[1]) if match else 1


@contextlib.contextmanager
def dropping(
    modules: Mapping[nn.Module, Mapping[int, str]], masked: Callable[[str, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Inside, these modules give ``masked(stage, input)``, and draw nothing from the generator.

    Args:
      modules: each with the stage that each of its calls is, counted from 1.
      masked: gets the stage and what the module is given.
    """
    counts = dict.fromkeys(modules, 0)
    before: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        counts[module] += 1
        if counts[module] in modules[module]:
            before[module] = (args[0].clone(), torch.get_rng_state())  # a dropout may work in place

    def drop(module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
        if module not in before:
            return out
        x, state = before.pop(module)
        torch.set_rng_state(state)
        return masked(modules[module][counts[module]], x)

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    handles += [module.register_forward_hook(drop) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def mode(module: nn.Module, train: bool) -> Iterator[None]:
    """Inside, the module is in training or in evaluation mode; afterwards each of its parts is as it was.

    The fused attention of evaluation mode, which calls no submodule, is switched off.
    """
    before = [(part, part.training) for part in module.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    module.train(train)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for part, training in before:
            part.training = training


@contextlib.contextmanager
def skipped(module: nn.Module, values: Mapping[str, torch.Tensor], but: str) -> Iterator[None]:
    """Inside, layers without layers within return at once what they are to give, and compute nothing.

    Args:
      module: the network.
      values: by an output's name (``"relu#2"``), its value; a call that has none is computed.
      but: the path of the layer that is computed in any case.
    """
    counts: dict[str, int] = {}
    taken = [
        (path, part)
        for path, part in module.named_modules()
        if path and path != but and path in values and "forward" not in part.__dict__
        if not any(True for _ in part.children())
    ]

    def quick(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[path] = counts.get(path, 0) + 1
            name = numbered(path, counts[path])
            return values[name] if name in values else forward(*args, **kwargs)

        return call

    for path, part in taken:
        part.__dict__["forward"] = quick(path, part.forward)
    try:
        yield
    finally:
        for _, part in taken:
            del part.__dict__["forward"]


def _of_torch(kind: type) -> bool:
    """Whether a class is one of PyTorch's own layers."""
    module = sys.modules.get(kind.__module__)
    return kind.__module__.startswith("torch.nn.modules") and getattr(module, kind.__name__, None) is kind


@contextlib.contextmanager
def own_forwards(module: nn.Module, path: str) -> Iterator[bool]:
    """Inside, layers of classes derived from PyTorch's compute what PyTorch's own class does.

    Args:
      module: the network.
      path: of a part of it; the layers within it are meant, too.

    Yields:
      whether there are any.
    """
    taken = []
    for part in module.get_submodule(path).modules():
        own = next(one for one in type(part).__mro__ if _of_torch(one))
        forward = getattr(own, "forward", None)
        plain = own not in (nn.Module, nn.ModuleList, nn.ModuleDict)
        if plain and "forward" not in part.__dict__ and type(part).forward is not forward:
            taken.append((part, forward))
    for part, forward in taken:
        part.__dict__["forward"] = types.MethodType(forward, part)  # type: ignore[arg-type]
    try:
        yield bool(taken)
    finally:
        for part, _ in taken:
            del part.__dict__["forward"]


@contextlib.contextmanager
def own_weights(module: nn.Module) -> Iterator[None]:
    """Inside, recurrent layers use the parameters they are given: they keep a list of those they were made with."""

    def use(part: nn.RNNBase, _args: Any) -> None:
        part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]

    layers = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    before = [part._flat_weights for part in layers]
    handles = [part.register_forward_pre_hook(use) for part in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for part, weights in zip(layers, before, strict=True):
            part._flat_weights = weights


def leaves(value: torch.Tensor) -> set[int]:
    """The ids of the leaf tensors that a tensor's gradient flows to."""
    found: set[int] = set()
    visited: set[Any] = set()
    stack = [value.grad_fn] if value.grad_fn is not None else []
    if value.grad_fn is None and value.requires_grad:
        found.add(id(value))
    while stack:
        node = stack.pop()
        if node in visited:
            continue
        visited.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.add(id(variable))
        stack += [following for following, _ in node.next_functions if following is not None]
    return found


@dataclasses.dataclass(frozen=True)
class Call:
    """One floating array that a module returned.

    Attributes:
      name: as `tapped` takes it.
      shape: of the array.
      module: which returned it.
      same: whether it is what another module returned just before, or what the module was given.
    """

    name: str
    shape: tuple[int, ...]
    module: nn.Module
    same: bool


@dataclasses.dataclass(frozen=True)
class Record:
    """What was called in one pass.

    Attributes:
      calls: what modules returned, in order.
      modules: the names of the modules that were called, in the order in which their calls began.
      flattened: by the name of a matrix, the shape without the batch of the map that was flattened for it.
      given: by the name of a module, the shape of the first array that its first call was given.
    """

    calls: list[Call]
    modules: list[str]
    flattened: dict[str, tuple[int, ...]]
    given: dict[str, tuple[int, ...]]


class _Flattenings(TorchFunctionMode):
    """Notes what is flattened into which matrix product, whatever happens to single values in between."""

    def __init__(self, module: nn.Module, found: dict[str, tuple[int, ...]]):
        super().__init__()
        self._names = {id(value): name for name, value in module.named_parameters()}
        self._found = found
        self._maps: dict[int, tuple[torch.Tensor, tuple[int, ...]]] = {}  # by the id of a flat tensor, kept alive

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        x = args[0] if args and isinstance(args[0], torch.Tensor) else None
        _, shape = self._maps.get(id(x), (None, ()))
        if func is nn.functional.linear and shape and id(args[1]) in self._names:
            self._found.setdefault(self._names[id(args[1])], shape)
        out = func(*args, **(kwargs or {}))
        if x is not None and isinstance(out, torch.Tensor) and out.ndim == 2:
            if x.ndim > 2 and out.shape == (x.shape[0], math.prod(x.shape[1:])):
                self._maps[id(out)] = out, tuple(x.shape[1:])
            elif shape and out.shape == x.shape:
                self._maps[id(out)] = out, shape
        return out


class Exact(TorchFunctionMode):
    """Inside, float64 is float64: PyTorch's gradient of hardsigmoid has a sixth of float32's digits otherwise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("hardsigmoid", "hardsigmoid_") and args[0].dtype == torch.float64:
            exact = nn.functional.relu6(args[0] + 3) / 6
            inplace = func.__name__.endswith("_") or (*args[1:], (kwargs or {}).get("inplace")).count(True)
            return args[0].copy_(exact) if inplace else exact
        return func(*args, **(kwargs or {}))


def record(module: nn.Module, inputs: Any) -> Record:
    """One pass of a network in evaluation mode, without gradients."""
    found = Record([], [], {}, {})
    counts: dict[str, int] = {}
    known: dict[int, torch.Tensor] = {}  # kept alive, so that an id stays one tensor's

    def begin(path: str) -> Callable[..., None]:
        def call(_module: nn.Module, args: Any) -> None:
            if path not in found.modules:
                found.modules.append(path)
                if args and isinstance(args[0], torch.Tensor):
                    found.given[path] = tuple(args[0].shape)

        return call

    def end(path: str) -> Callable[..., None]:
        def call(part: nn.Module, _args: Any, out: Any) -> None:
            counts[path] = counts.get(path, 0) + 1

            def leaf(where: str, value: torch.Tensor) -> torch.Tensor:
                name = numbered((path or OUTPUT) + where, counts[path])
                found.calls.append(Call(name, tuple(value.shape), part, id(value) in known))
                known[id(value)] = value
                return value

            replaced(out, leaf)

        return call

    handles = [part.register_forward_pre_hook(begin(path)) for path, part in module.named_modules()]
    handles += [part.register_forward_hook(end(path)) for path, part in module.named_modules()]
    try:
        with torch.no_grad(), mode(module, train=False), _Flattenings(module, found.flattened):
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
