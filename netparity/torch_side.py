"""The PyTorch side of a comparison: named intermediates and vector-Jacobian products, as NumPy arrays.

The network is used unchanged: forward hooks on its named modules record, perturb or replace each output, so a layer
in isolation is the module itself. All arrays are in the common layout, which is JAX's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from netparity.jax_side import Gradients, Isolated
from netparity.layouts import Layout, usual
from netparity.measure import Arrays, ParityError

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_PLAIN = (
    *_DROPOUTS,
    *(nn.Conv2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity, nn.Flatten, nn.LocalResponseNorm),
)

Tap = Callable[[str, torch.Tensor], torch.Tensor]
Convert = Callable[[Arrays], Arrays]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (logits, labels) -> scalar


@dataclasses.dataclass(frozen=True, eq=False)
class TorchSide:
    """A network in PyTorch. Its module keeps its weights and its mode, whatever is computed with it.

    Attributes:
      module: takes ``[batch, channel, height, width]`` and returns logits. Its parameters are not used: each method
        is given some.
      stages: the module (dotted name) whose output each stage is, in the order of the network.
      to_common: arrays by PyTorch's parameter names to arrays by common name and layout.
      from_common: its inverse.
      loss: ``(logits, labels) -> scalar``.
      device: where it is computed; arguments and results are NumPy arrays in any case.
      layouts: by stage, how its output lies; a stage that is not named has the usual layout.

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

    def __post_init__(self) -> None:
        known = dict(self.module.named_modules())
        unknown = [f"{stage}: the PyTorch network has no module {name!r}" for stage, name in self.stages.items()
                   if name not in known]  # fmt: skip
        if unknown:
            raise ParityError("the table of stages does not fit: " + "; ".join(unknown))

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The module of every stage, in order."""
        return {stage: self.module.get_submodule(name) for stage, name in self.stages.items()}

    @property
    def max_pools(self) -> dict[str, tuple[int, int]]:
        """Window and stride of the stages that are max-poolings."""
        pools = {stage: module for stage, module in self.modules.items() if isinstance(module, nn.MaxPool2d)}
        sizes = {stage: (module.kernel_size, module.stride) for stage, module in pools.items()}
        return {stage: (np.max(kernel).item(), np.min(stride).item()) for stage, (kernel, stride) in sizes.items()}

    @property
    def plain(self) -> set[str]:
        """The stages that sum products, choose, or keep: what `netparity.bounds` has a bound for."""
        return {stage for stage, module in self.modules.items() if isinstance(module, _PLAIN)}

    def shapes(
        self, params: Arrays, images: np.ndarray, fed: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
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
            self._call_meta(params, images, tap)
        except RuntimeError:
            if list(seen.items()) == list(fed.items())[: len(seen)]:  # another reason than what differs
                raise
        return seen

    def own_shapes(self, params: Arrays, images: np.ndarray) -> dict[str, tuple[int, ...]]:
        """Shape of every stage's output as PyTorch has it, up to where the network can go; nothing is computed."""
        seen: dict[str, tuple[int, ...]] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = tuple(value.shape)
            return value

        with contextlib.suppress(RuntimeError):  # `shapes` tells it, stage by stage
            self._call_meta(params, images, tap)
        return seen

    def _call_meta(self, params: Arrays, images: np.ndarray, tap: Tap) -> None:
        weights = {name: torch.empty(value.shape, device="meta") for name, value in self.from_common(params).items()}
        self._call(weights, self.tensor(images).to("meta"), tap, None)

    def forward(self, params: Arrays, images: np.ndarray, masks: Arrays | None = None) -> Arrays:
        """Every intermediate, in order: in training mode if there are dropout ``masks``, else in evaluation mode."""
        seen: dict[str, torch.Tensor] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = value.clone()  # a later layer may work in place
            return value

        with torch.no_grad():
            self._call(self._weights(params), self.tensor(images), tap, masks)
        return {name: self._to_common(name, value) for name, value in seen.items()}

    def isolated(
        self, params: Arrays, images: np.ndarray, inputs: Arrays, cotangents: Arrays, masks: Arrays | None = None
    ) -> Isolated:
        """As `netparity.jax_side.JaxSide.isolated`."""
        fed = {name: self._to_torch(name, value).requires_grad_() for name, value in inputs.items()}
        seen: dict[str, torch.Tensor] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = value
            return fed[name].clone()

        weights = {name: value.requires_grad_() for name, value in self._weights(params).items()}
        first = self.tensor(images).requires_grad_()
        self._call(weights, first, tap, masks)
        self._require_all(seen)
        names = list(self.stages)
        leaves = [first, *(fed[name] for name in names[:-1]), *weights.values()]
        grads = _grad([seen[name] for name in names], leaves, [self._to_torch(n, cotangents[n]) for n in names])
        vjp_inputs = {names[0]: _images_to_common(grads[0])}  # a stage's input is the output of the one before
        for (before, name), grad in zip(itertools.pairwise(names), grads[1 : len(names)], strict=True):
            vjp_inputs[name] = self._to_common(before, grad)
        outputs = {name: self._to_common(name, seen[name]) for name in names}
        return Isolated(outputs, vjp_inputs, self._params(weights, grads[len(names) :]))

    def gradients(
        self, params: Arrays, images: np.ndarray, labels: np.ndarray, masks: Arrays | None = None
    ) -> Gradients:
        """As `netparity.jax_side.JaxSide.gradients`."""
        seen: dict[str, torch.Tensor] = {}

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = value
            return value.clone()

        weights = {name: value.requires_grad_() for name, value in self._weights(params).items()}
        logits = self._call(weights, self.tensor(images), tap, masks)
        self._require_all(seen)
        loss = self.loss(logits, self.tensor(labels.astype(np.int64)))
        grads = _grad([loss], [*seen.values(), *weights.values()], [torch.ones_like(loss)])
        activations = {name: self._to_common(name, grad) for name, grad in zip(seen, grads[: len(seen)], strict=True)}
        return Gradients(float(loss.detach()), self._params(weights, grads[len(seen) :]), activations)

    def choices(self, forward: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What every ReLU and max-pooling chooses, given either side's intermediates: signs and maxima, by stage."""
        found = {}
        for before, (name, module) in itertools.pairwise(self.modules.items()):
            x = self._to_torch(before[0], forward[before[0]])
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

    def _call(
        self, weights: dict[str, torch.Tensor], images: torch.Tensor, tap: Tap, masks: Mapping[str, np.ndarray] | None
    ) -> torch.Tensor:
        """The logits of the module in training mode with ``masks``, else in evaluation mode."""
        dtype = next((value.dtype for value in weights.values()), images.dtype)
        buffers = {  # copies: batch normalisation changes its own in training
            name: value.clone().to(images.device, dtype if value.is_floating_point() else None)
            for name, value in self.module.named_buffers()
        }
        with _mode(self.module, masks is not None), self._hooked(tap, masks or {}):
            return torch.func.functional_call(self.module, {**buffers, **weights}, (images,))

    @contextlib.contextmanager
    def _hooked(self, tap: Tap, masks: Mapping[str, np.ndarray]) -> Iterator[None]:
        undropped: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def call(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                undropped[name] = args[0].clone()  # a dropout may work in place

            return call

        def hook(name: str) -> Callable[..., torch.Tensor]:
            def call(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
                if name in undropped:
                    x = undropped.pop(name)
                    out = x * self._to_torch(name, masks[name]).to(x.dtype) / (1 - module.p)  # type: ignore[operator]
                return tap(name, out)

            return call

        handles = [module.register_forward_hook(hook(name)) for name, module in self.modules.items()]
        handles += [
            module.register_forward_pre_hook(keep(name))
            for name, module in self.modules.items()
            if name in masks and isinstance(module, _DROPOUTS)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _weights(self, params: Arrays) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(np.array(value)).to(self.device) for name, value in self.from_common(params).items()
        }

    def _params(self, weights: Mapping[str, torch.Tensor], grads: list[torch.Tensor]) -> Arrays:
        return self.to_common({name: grad.cpu().numpy() for name, grad in zip(weights, grads, strict=True)})

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """A copy of images ``[b, h, w, c]`` as ``[b, c, h, w]``; other arrays as they are."""
        return self._copy(usual(array.ndim).to_torch(array))

    def _layout(self, stage: str, ndim: int) -> Layout:
        return self.layouts.get(stage, usual(ndim))

    def _to_torch(self, stage: str, array: np.ndarray) -> torch.Tensor:
        return self._copy(self._layout(stage, array.ndim).to_torch(array))

    def _to_common(self, stage: str, tensor: torch.Tensor) -> np.ndarray:
        array = tensor.detach().cpu().numpy()
        return np.ascontiguousarray(self._layout(stage, array.ndim).to_common(array))

    def _copy(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array, order="C")).to(self.device)

    def _require_all(self, seen: Mapping[str, torch.Tensor]) -> None:
        missing = [name for name in self.stages if name not in seen]
        if missing:
            raise ParityError(f"the PyTorch network never calls the modules of these stages: {', '.join(missing)}")


@contextlib.contextmanager
def _mode(module: nn.Module, train: bool) -> Iterator[None]:
    """Inside, the module is in training or in evaluation mode; afterwards each of its parts is as it was."""
    before = [(part, part.training) for part in module.modules()]
    module.train(train)
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _grad(
    outputs: list[torch.Tensor], inputs: list[torch.Tensor], cotangents: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Vector-Jacobian products; zeros where an output does not depend on an input."""
    kept = [(out, cotangent) for out, cotangent in zip(outputs, cotangents, strict=True) if out.requires_grad]
    grads = torch.autograd.grad([o for o, _ in kept], inputs, [c for _, c in kept], allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True)]


def _images_to_common(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().cpu().numpy()
    return np.ascontiguousarray(usual(array.ndim).to_common(array))
