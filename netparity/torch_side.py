"""The PyTorch side of a comparison: named values and vector-Jacobian products, as NumPy arrays.

The network is used unchanged: forward hooks on its named modules record, perturb or replace what they give, so a
layer in isolation is the module itself. All arrays are in the common layout, which is JAX's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from netparity import bounds, calls
from netparity.calls import Tap
from netparity.graph import input_names
from netparity.jax_side import Gradients, Groups, Inputs, Isolated, as_tuple
from netparity.layouts import ChannelsFirst, Layout, usual
from netparity.measure import Arrays, ParityError
from netparity.watching import Watch

RANDOM = ("StochasticDepth", "DropPath", "DropBlock2d")  # modules of others that drop as dropout does, by their name
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_PLAIN = (
    *DROPOUTS,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity, nn.Flatten),
    *(nn.LocalResponseNorm, nn.Embedding),
)

Convert = Callable[[Arrays], Arrays]
Change = Callable[..., torch.Tensor] | str
Loss = Callable[[Any, Any], torch.Tensor]  # (outputs, labels) -> scalar


def _used(name: str, leaves: Mapping[str, torch.Tensor], change: Mapping[str, Change]) -> torch.Tensor:
    """What stands where a value is used: itself, another one, or what a change makes of it."""
    own = change.get(name, name)
    return leaves[own].clone() if isinstance(own, str) else own(leaves[name])


class _Reached(Exception):
    """The stage that is wanted has been computed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Leaves:
    """What a network is fed, as PyTorch's tensors. A network that is run does not change them.

    Attributes:
      values: what stands for the stages' values, and the floating inputs, by name, with gradients.
      trained: the parameters by PyTorch's names, with gradients.
      weights: the same and the buffers.
      inputs: of the network.
    """

    values: dict[str, torch.Tensor]
    trained: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    inputs: list[torch.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Alone:
    """One stage in isolation, as PyTorch's tensors.

    Attributes:
      output: of the stage, in PyTorch's layout.
      leaves: what it may be computed from, stages and inputs by name.
      weights: PyTorch's parameters by their own names.
    """

    output: torch.Tensor
    leaves: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class TorchSide:
    """A network in PyTorch. Its module keeps its weights and its mode, whatever is computed with it.

    Attributes:
      module: its parameters are not used, and no buffer that is given either: each method is given some.
      stages: what each stage is the output of, in the order of the network: a module (its dotted name), its second
        call (``"relu#2"``), a part of what it returns (``"lstm[0]"``), or the network (``"output"``).
      to_common: arrays by PyTorch's names to arrays by common name and layout.
      from_common: its inverse.
      loss: ``(outputs, labels) -> scalar``.
      device: where it is computed; arguments and results are NumPy arrays in any case.
      layouts: by stage or input, how it lies; one that is not named has the usual layout.
      pull_back: gradients by PyTorch's names to gradients by common name; None is ``to_common``.

    Raises:
      ParityError: listing every stage whose module is not there.
    """

    module: nn.Module
    stages: Mapping[str, str]
    to_common: Convert
    from_common: Convert
    loss: Loss = nn.functional.cross_entropy
    device: str = "cpu"
    layouts: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    pull_back: Convert | None = None

    def __post_init__(self) -> None:
        known = dict(self.module.named_modules())
        unknown = [f"{stage}: the PyTorch network has no module {name!r}" for stage, name in self.stages.items()
                   if calls.module_of(name) not in known]  # fmt: skip
        if unknown:
            raise ParityError("the table of stages does not fit: " + "; ".join(unknown))

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The module of every stage, in order."""
        return {stage: self.module.get_submodule(calls.module_of(name)) for stage, name in self.stages.items()}

    @property
    def max_pools(self) -> dict[str, tuple[int, int]]:
        """Window and stride of the stages that are max-poolings."""
        pools = {stage: module for stage, module in self.modules.items() if isinstance(module, nn.MaxPool2d)}
        sizes = {stage: (module.kernel_size, module.stride) for stage, module in pools.items()}
        return {stage: (np.max(kernel).item(), np.min(stride).item()) for stage, (kernel, stride) in sizes.items()}

    def dropped_together(self, stage: str, ndim: int) -> tuple[int, ...] | None:
        """Along which axes of the common layout a dropout keeps or drops everything; None where that is not known."""
        module = self.modules[stage]
        if isinstance(module, nn.Dropout):
            return ()
        if isinstance(module, DROPOUTS) and ndim > 2:
            channel = ndim - 1 if isinstance(self._layout(stage, ndim), ChannelsFirst) else 1
            return tuple(axis for axis in range(1, ndim) if axis != channel)
        if type(module).__name__ in ("StochasticDepth", "DropPath"):
            return tuple(range(int(getattr(module, "mode", "row") == "row"), ndim))  # "batch": all of it or nothing
        return None

    @property
    def plain(self) -> set[str]:
        """The stages that sum products, choose, or keep: what `netparity.bounds` has a bound for."""
        return {stage for stage, module in self.modules.items() if isinstance(module, _PLAIN)}

    def own_functions(self, stage: str) -> frozenset[str]:
        """What a `plain` stage's module, or one that drops, has itself of `netparity.bounds.FUNCTIONS`."""
        module = self.modules[stage]
        if isinstance(module, nn.LocalResponseNorm):
            return bounds.FUNCTIONS
        if isinstance(module, (*DROPOUTS, nn.AvgPool2d)) or type(module).__name__ in RANDOM:
            return frozenset({"div", "reduce_sum", "reduce_window_sum"})
        return frozenset()

    def shapes(self, arrays: Arrays, inputs: Inputs, fed: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shape of every stage's output when the stage before has the shape ``fed``; nothing is computed.

        Ends with the first stage that differs from ``fed`` where the network cannot go on after it.
        """
        seen: dict[str, tuple[int, ...]] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            out = np.broadcast_to(np.zeros((), np.bool_), value.shape)  # a view: nothing is computed
            seen[name] = self._layout(name, value.ndim).to_common(out).shape
            if name not in fed:
                return value
            given = np.broadcast_to(np.zeros((), np.bool_), fed[name])
            return torch.empty(self._layout(name, given.ndim).to_torch(given).shape, device="meta")

        try:
            self._call_meta(arrays, inputs, tap)
        except RuntimeError:
            if list(seen.items()) == list(fed.items())[: len(seen)]:  # another reason than what differs
                raise
        return seen

    def own_shapes(self, arrays: Arrays, inputs: Inputs) -> dict[str, tuple[int, ...]]:
        """Shape of every stage's output as PyTorch has it, up to where the network can go; nothing is computed."""
        seen: dict[str, tuple[int, ...]] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = tuple(value.shape)
            return value

        with contextlib.suppress(RuntimeError):  # `shapes` tells it, stage by stage
            self._call_meta(arrays, inputs, tap)
        return seen

    def _call_meta(self, arrays: Arrays, inputs: Inputs, tap: Tap) -> None:
        weights = {
            name: torch.empty(value.shape, dtype=torch.from_numpy(np.zeros((), value.dtype)).dtype, device="meta")
            for name, value in self.from_common(arrays).items()
        }
        self._call(weights, [x.to("meta") for x in self.tensors(inputs)], tap, None)

    def forward(self, arrays: Arrays, inputs: Inputs, masks: Arrays | None = None) -> Arrays:
        """Every stage's output, in order: in training mode if there are dropout ``masks``, else in evaluation mode."""
        seen: dict[str, torch.Tensor] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = value.clone()  # a later layer may work in place
            return value

        with torch.no_grad():
            self._call(self._weights(arrays), self.tensors(inputs), tap, masks)
        return {name: self._to_common(name, value) for name, value in seen.items()}

    def drawing(self, arrays: Arrays, inputs: Inputs, masks: Arrays) -> str | None:
        """The first stage of training mode before whose end random numbers are drawn, in spite of the masks."""
        before, found = torch.get_rng_state(), []

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            if not torch.equal(torch.get_rng_state(), before):
                found.append(name)
            return value

        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self._call(self._weights(arrays), self.tensors(inputs), tap, masks)
            drawn = not torch.equal(torch.get_rng_state(), before)
        return next(iter(found), calls.OUTPUT) if drawn else None

    def isolated(
        self,
        arrays: Arrays,
        inputs: Inputs,
        fed: Arrays,
        cotangents: Arrays,
        masks: Arrays | None = None,
        groups: Groups | None = None,
    ) -> Isolated:
        """As `netparity.jax_side.JaxSide.isolated`; without ``groups`` there are outputs alone."""
        seen, leaves, weights = self._fed(arrays, inputs, fed, masks)
        self._require_all(seen)
        products: dict[tuple[str, str], np.ndarray] = {}
        for group in groups or ():
            outputs = [seen[stage] for stage, _, _ in group]
            wanted = list(dict.fromkeys(name for _, parents, _ in group for name in parents))
            given = [self._to_torch(stage, cotangents[stage]) for stage, _, _ in group]
            grads = _grad(outputs, [*(leaves[name] for name in wanted), *weights.values()], given)
            by_parent = dict(zip(wanted, grads, strict=False))
            by_param = self._gradients(weights, grads[len(wanted) :]) if any(params for _, _, params in group) else {}
            for stage, parents, params in group:
                products |= {(stage, name): self._to_common(name, by_parent[name]) for name in parents}
                products |= {(stage, name): by_param[name] for name in params}
        names = [name for name in self.stages if groups is None or any(name == row[0] for g in groups for row in g)]
        return Isolated({name: self._to_common(name, seen[name]) for name in names}, products)

    def parents(
        self, arrays: Arrays, inputs: Inputs, fed: Arrays, masks: Arrays | None = None
    ) -> dict[str, tuple[str, ...]]:
        """What each stage is computed from, as far as gradients go: other stages and inputs."""
        seen, leaves, _ = self._fed(arrays, inputs, fed, masks)
        names = {id(leaf): name for name, leaf in leaves.items()}
        found = {}
        for stage, value in seen.items():
            reached = calls.leaves(value)
            found[stage] = tuple(names[one] for one in names if one in reached)
        return found

    def _fed(
        self, arrays: Arrays, inputs: Inputs, fed: Arrays, masks: Arrays | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Every stage's output when fed; what it was fed and the inputs, both with gradients; and the parameters."""
        leaves = self.leaves(arrays, inputs, fed)
        seen: dict[str, torch.Tensor] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = value
            return leaves.values[name].clone()

        self._call(leaves.weights, leaves.inputs, tap, masks)
        return seen, leaves.values, leaves.trained

    def leaves(self, arrays: Arrays, inputs: Inputs, fed: Arrays) -> Leaves:
        """What the network is fed, as tensors; see `isolated`."""
        values = {name: self._to_torch(name, value).requires_grad_() for name, value in fed.items()}
        weights = self._weights(arrays)
        trained = {name: weights[name].requires_grad_() for name, _ in self._parameters() if name in weights}
        given = self.tensors(inputs)
        named = zip(input_names(len(given)), given, strict=True)
        values |= {name: x.requires_grad_() for name, x in named if x.is_floating_point()}
        return Leaves(values, trained, weights, given)

    def alone(
        self,
        stage: str,
        leaves: Leaves,
        masks: Arrays | None = None,
        watch: Watch | None = None,
        change: Mapping[str, Change] | None = None,
    ) -> Alone:
        """One stage in isolation, as in `isolated`, and nothing after it; what comes before is not computed.

        Args:
          stage: of `stages`.
          leaves: what the network is fed; nothing is needed for the stage itself and for those after it.
          masks: as of `isolated`.
          watch: entered around the call.
          change: by name of a stage, what is done with its value where it is used, or whose value is used instead.

        Raises:
          ParityError: if the network ends before the stage.
        """
        names = input_names(len(leaves.inputs))
        given = [
            _used(name, leaves.values, change or {}) if name in leaves.values else x
            for name, x in zip(names, leaves.inputs, strict=True)
        ]
        if watch is not None:
            watch.leaves, watch.weights = leaves.values, leaves.trained
        output = self.until(stage, leaves.values, leaves.weights, given, masks, watch, change)
        return Alone(output, leaves.values, leaves.trained)

    def until(
        self,
        stage: str,
        leaves: Mapping[str, torch.Tensor],
        weights: dict[str, torch.Tensor],
        inputs: Sequence[torch.Tensor],
        masks: Arrays | None,
        watch: Watch | None = None,
        change: Mapping[str, Change] | None = None,
    ) -> torch.Tensor:
        """A stage's output, of tensors that stand for the values of the stages before; see `alone`."""
        found: list[torch.Tensor] = []

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            if name == stage:
                found.append(value)
                raise _Reached
            return _used(name, leaves, change or {})

        values = {name: leaves[one] for one, name in self.stages.items() if one in leaves}
        with calls.skipped(self.module, values, calls.module_of(self.stages[stage])):
            try:
                self._call(weights, inputs, tap, masks, watch=watch)
            except _Reached:
                return found[0]
        raise ParityError(f"the PyTorch network never calls the module of {stage}")

    def products(self, alone: Alone, parents: Sequence[str], params: Sequence[str], cotangent: torch.Tensor) -> Arrays:
        """Vector-Jacobian products of one stage, by parent and parameter, in the common layout."""
        wanted = [alone.leaves[name] for name in parents]
        grads = _grad([alone.output], [*wanted, *alone.weights.values()], [cotangent])
        found = {name: self._to_common(name, grad) for name, grad in zip(parents, grads, strict=False)}
        if params:
            by_param = self._gradients(alone.weights, grads[len(wanted) :])
            found |= {name: by_param[name] for name in params}
        return found

    def gradients(self, arrays: Arrays, inputs: Inputs, labels: Any, masks: Arrays | None = None) -> Gradients:
        """As `netparity.jax_side.JaxSide.gradients`."""
        seen: dict[str, torch.Tensor] = {}
        values: dict[str, torch.Tensor] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            # A copy: what else uses the module's own tensor is before the mark, as on the JAX side.
            copy = value.clone()
            seen[name] = copy if copy.requires_grad else copy.requires_grad_()
            values[name] = copy.detach()
            return copy.clone()  # a later layer may work in place

        weights = self._weights(arrays)
        trained = {name: weights[name].requires_grad_() for name, _ in self._parameters() if name in weights}
        state: dict[str, torch.Tensor] = {}
        outputs = self._call(weights, self.tensors(inputs), tap, masks, state)
        self._require_all(seen)
        loss = self.loss(outputs, self._labels(labels))
        grads = _grad([loss], [*seen.values(), *trained.values()], [torch.ones_like(loss)])
        activations = {name: self._to_common(name, grad) for name, grad in zip(seen, grads, strict=False)}
        by_param = self._gradients(trained, grads[len(seen) :])
        kept = {name: value.detach().cpu().numpy() for name, value in state.items() if name in weights}
        return Gradients(
            float(loss.detach()),
            by_param,
            activations,
            {name: self._to_common(name, value) for name, value in values.items()},
            self.to_common(kept) if kept else {},
        )

    def losses(
        self, arrays: Arrays, inputs: Inputs, labels: Any, masks: Arrays | None
    ) -> Callable[[contextlib.AbstractContextManager[Any]], float]:
        """Runs the network once; what is returned computes the loss of its outputs inside a context."""
        with torch.no_grad():
            outputs = self._call(self._weights(arrays), self.tensors(inputs), lambda name, value: value, masks)
        wanted = self._labels(labels)

        def loss(watch: contextlib.AbstractContextManager[Any]) -> float:
            with torch.no_grad(), watch:
                return float(self.loss(outputs, wanted))

        return loss

    def choices(self, forward: Mapping[str, np.ndarray], parents: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """What every ReLU and max-pooling chooses, given either side's values: signs and maxima, by stage."""
        found = {}
        for name, module in self.modules.items():
            if len(parents[name]) != 1 or parents[name][0] not in forward:
                continue
            (before,) = parents[name]
            x = self._to_torch(before, forward[before])
            if isinstance(module, nn.ReLU):
                found[name] = (x > 0).cpu().numpy()
            elif isinstance(module, nn.MaxPool2d):
                args = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
                found[name] = nn.functional.max_pool2d(x, *args, return_indices=True)[1].cpu().numpy()
        return found

    @contextlib.contextmanager
    def masked(self, masks: Mapping[str, np.ndarray]) -> Iterator[None]:
        """Inside, dropouts in training mode keep what ``masks`` says, scaled by their own rate."""
        with self._hooked(lambda name, value: value, masks):
            yield

    def loss_of(self, inputs: Inputs, labels: Any, masks: Mapping[str, np.ndarray]) -> torch.Tensor:
        """The loss of the module as it is, with its own weights, in training mode and with these masks."""
        self.module.train()
        with self.masked(masks), calls.Exact():
            return self.loss(self.module(*self.tensors(inputs)), self._labels(labels))

    def _call(
        self,
        weights: dict[str, torch.Tensor],
        inputs: Sequence[torch.Tensor],
        tap: Tap,
        masks: Mapping[str, np.ndarray] | None,
        state: dict[str, torch.Tensor] | None = None,
        watch: Watch | None = None,
    ) -> Any:
        """What the module returns in training mode with ``masks``, else in evaluation mode.

        ``state`` gets the buffers afterwards; ``watch`` is entered around the call itself.
        """
        floating = [x.dtype for x in (*weights.values(), *inputs) if x.is_floating_point()]
        device = inputs[0].device
        buffers = {  # copies: batch normalisation changes its own in training
            name: value.clone().to(device, floating[0] if floating and value.is_floating_point() else None)
            for name, value in self.module.named_buffers()
        }
        buffers |= {name: value.clone() for name, value in weights.items() if name in buffers}
        given = {**weights, **buffers}
        with (
            calls.mode(self.module, masks is not None),
            self._hooked(tap, masks or {}),
            calls.own_weights(self.module),
            calls.Exact(),
            watch or contextlib.nullcontext(),
        ):
            outputs = torch.func.functional_call(self.module, given, tuple(inputs))
        if state is not None:
            state |= {name: given[name] for name in buffers}
        return outputs

    @contextlib.contextmanager
    def _hooked(self, tap: Tap, masks: Mapping[str, np.ndarray]) -> Iterator[None]:
        dropped = {
            stage: module
            for stage, module in self.modules.items()
            if stage in masks and (isinstance(module, DROPOUTS) or type(module).__name__ in RANDOM)
        }

        def masked(stage: str, x: torch.Tensor) -> torch.Tensor:
            keep = self._to_torch(stage, masks[stage]).to(x.dtype)
            return x * keep / (1 - dropped[stage].p)  # type: ignore[operator]

        names = {name: stage for stage, name in self.stages.items()}
        by_call: dict[nn.Module, dict[int, str]] = {}
        for stage, module in dropped.items():
            by_call.setdefault(module, {})[calls.call_of(self.stages[stage])] = stage
        with (
            calls.dropping(by_call, masked),
            calls.tapped(self.module, names, tap),
        ):
            yield

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters()

    def _weights(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(np.array(value)).to(self.device) for name, value in self.from_common(arrays).items()
        }

    def _gradients(self, weights: Mapping[str, torch.Tensor], grads: list[torch.Tensor]) -> Arrays:
        pull_back = self.pull_back or self.to_common
        return pull_back({name: grad.cpu().numpy() for name, grad in zip(weights, grads, strict=True)})

    def tensors(self, inputs: Inputs) -> list[torch.Tensor]:
        """The inputs in PyTorch's layout."""
        given = as_tuple(inputs)
        return [self._to_torch(name, x) for name, x in zip(input_names(len(given)), given, strict=True)]

    def _labels(self, labels: Any) -> Any:
        if isinstance(labels, np.ndarray):
            return self.tensor(labels.astype(np.int64) if labels.dtype.kind in "iu" else labels)
        return labels

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """A copy of images ``[b, h, w, c]`` as ``[b, c, h, w]``; other arrays as they are."""
        return self._copy(usual(array.ndim).to_torch(array))

    def _layout(self, name: str, ndim: int) -> Layout:
        return self.layouts.get(name, usual(ndim))

    def _to_torch(self, name: str, array: np.ndarray) -> torch.Tensor:
        return self._copy(self._layout(name, array.ndim).to_torch(array))

    def _to_common(self, name: str, tensor: torch.Tensor) -> np.ndarray:
        array = tensor.detach().cpu().numpy()
        return np.ascontiguousarray(self._layout(name, array.ndim).to_common(array))

    def _copy(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array, order="C")).to(self.device)

    def _require_all(self, seen: Mapping[str, torch.Tensor]) -> None:
        missing = [name for name in self.stages if name not in seen]
        if missing:
            raise ParityError(f"the PyTorch network never calls the modules of these stages: {', '.join(missing)}")


def _grad(
    outputs: list[torch.Tensor], inputs: list[torch.Tensor], cotangents: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Vector-Jacobian products; zeros where an output does not depend on an input."""
    kept = [(out, cotangent) for out, cotangent in zip(outputs, cotangents, strict=True) if out.requires_grad]
    if not kept:
        return [torch.zeros_like(x) for x in inputs]
    grads = torch.autograd.grad(
        [o for o, _ in kept], inputs, [c for _, c in kept], allow_unused=True, retain_graph=True
    )
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True)]
