"""Faults planted in everything around the networks: loss, optimizer, data, metrics, training step, initialisers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.nn import initializers as jax_init
from torch import nn
from torch.nn import functional as F

from jaxalex.networks import initializers
from jaxalex.training import epochs, optim, steps
from parity_tests.alexnet import networks, programs
from parity_tests.faults.planting import Fault, InJax, InTorch, InTorchLoss
from torch_ref.training import SoftmaxCrossEntropyLoss

# --- optimizers ------------------------------------------------------------------------------------------------------


def _jax_sgd(build: Any) -> Any:
    """``build(scale by rate, momentum, weight_decay, nesterov) -> list of transformations``."""

    def sgd(rate: Any, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False) -> Any:
        return optax.chain(*build(optax.scale_by_learning_rate(rate), momentum, weight_decay, nesterov))

    return sgd


def _trace(momentum: float, nesterov: bool = False) -> Any:
    return optax.trace(momentum, nesterov) if momentum else optax.identity()


def _decay_after_trace(rate: Any, m: float, wd: float, nesterov: bool) -> list[Any]:
    return [_trace(m, nesterov), optax.add_decayed_weights(wd), rate]


def _decay_after_rate(rate: Any, m: float, wd: float, nesterov: bool) -> list[Any]:
    return [_trace(m, nesterov), rate, optax.add_decayed_weights(-wd)]


def _decay_left_out(rate: Any, m: float, wd: float, nesterov: bool) -> list[Any]:
    return [_trace(m, nesterov), rate]


def _rate_inside(rate: Any, m: float, wd: float, nesterov: bool) -> list[Any]:
    return [optax.add_decayed_weights(wd), rate, _trace(m, nesterov)]


def _always_nesterov(rate: Any, m: float, wd: float, nesterov: bool) -> list[Any]:
    return [optax.add_decayed_weights(wd), _trace(m, True), rate]


def _jax_schedule_early(rate: Any, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False) -> Any:
    schedule = (lambda step: rate(step + 1)) if callable(rate) else rate
    return optim.sgd(schedule, momentum, weight_decay, nesterov)


class _EmaSGD(torch.optim.SGD):
    """The velocity as an average: ``v = m v + (1 - m) g``."""

    def step(self) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        with torch.no_grad():
            for p in group["params"]:
                grad = p.grad + group["weight_decay"] * p
                if group["momentum"]:
                    v = self.state[p].get("momentum_buffer", torch.zeros_like(p))
                    grad = group["momentum"] * v + (1 - group["momentum"]) * grad
                    self.state[p]["momentum_buffer"] = grad.clone()
                p -= group["lr"] * grad


class _KeepsGradients(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        del set_to_none


def _torch_sgd(kind: Any = torch.optim.SGD, **changes: Any) -> Any:
    """`programs.torch_sgd` with some of its settings changed: each a function of the settings."""

    def sgd(params: Any, lr: float, momentum: float, weight_decay: float, nesterov: bool) -> Any:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        settings.update({name: change(settings) for name, change in changes.items()})
        return kind(params, **settings)

    return sgd


# --- data and metrics ------------------------------------------------------------------------------------------------


def _batch_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the batches' standard deviations, instead of that of all pixels."""
    pixels = images / 255
    parts = [pixels[i : i + 64].std((0, 1, 2)) for i in range(0, len(pixels), 64)]
    return pixels.mean((0, 1, 2)), np.mean(parts, 0)


def _bessel(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = torch.from_numpy(images).reshape(-1, images.shape[-1]).double() / 255
    return pixels.mean(0).numpy(), pixels.std(0).numpy()


def _normalizer(change: Any) -> Any:
    return lambda images, mean, std: change(images, mean, std).astype(np.float32)


def _evaluator(kind: str) -> Any:
    """A wrong mean over batches of 100."""

    @torch.no_grad()
    def evaluate(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, loss: Any) -> tuple[float, float]:
        module.train(kind == "training mode")
        batches = list(zip(images.split(100), labels.split(100), strict=True))
        if kind == "last batch dropped":
            batches = [b for b in batches if len(b[1]) == 100]
        losses, rights, counts = [], [], []
        for x, y in batches:
            logits = module(x)
            losses.append(float(loss(logits, y)))
            rights.append(int((logits.argmax(1) == y).sum()))
            counts.append(len(y))
        if kind == "mean of batch means":
            return float(np.mean(losses)), 100 * float(np.mean([r / c for r, c in zip(rights, counts, strict=True)]))
        total = 100 * len(counts) if kind == "padding counted" else sum(counts)
        return float(np.dot(losses, counts)) / total, 100 * sum(rights) / total

    return evaluate


def _jax_evaluate_padding(state: Any, placed: Any) -> Any:
    """JAX's evaluation with the padding of the last batch counted."""
    found = epochs.evaluate(state, placed)
    size = len(placed)
    padded = -(-size // epochs.EVAL_BATCH_SIZE) * epochs.EVAL_BATCH_SIZE
    return dataclasses.replace(found, loss=found.loss * size / padded, accuracy=found.accuracy * size / padded)


# --- the training step -----------------------------------------------------------------------------------------------


def _padding_trained(state: Any, batch: Any, key: Any) -> Any:
    return steps.train_step(state, {**batch, "mask": np.ones_like(batch["mask"])}, key)


def _same_mask(state: Any, batch: Any, key: Any) -> Any:
    """Every step draws the dropout of step 0."""
    step = state.step
    state, metrics = steps.train_step(state.replace(step=jnp.zeros_like(step)), batch, key)
    return state.replace(step=step + 1), metrics


# --- initialisers ----------------------------------------------------------------------------------------------------


def _jax_schemes(**changes: Any) -> Any:
    return InJax({"schemes": {**initializers.SCHEMES, **changes}})


def _uniform(bound: float) -> Any:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _paper_without_ones(name: str, fan_in: int) -> Any:
    del name, fan_in
    return initializers.LayerInit(jax_init.normal(0.01), jax_init.zeros)


def _torch_zero_bias(name: str, fan_in: int) -> Any:
    return initializers.LayerInit(initializers.torch_init(name, fan_in).kernel, jax_init.zeros)


def _kaiming(name: str, fan_in: int) -> Any:
    bias = initializers.torch_init(name, fan_in).bias
    return initializers.LayerInit(_uniform(math.sqrt(6 / fan_in)), bias)


def _untruncated(name: str, fan_in: int) -> Any:
    del name
    return initializers.LayerInit(jax_init.normal(fan_in**-0.5), jax_init.zeros)


def _fan_out_he(name: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(bias)


_ce = F.cross_entropy
_IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

TRAINING: tuple[Fault, ...] = (
    Fault("loss summed over the batch", "loss reduction", "loss",
          InTorchLoss(lambda z, y: _ce(z, y, reduction="sum"))),
    Fault("loss summed over the batch", "loss reduction", "loss",
          InJax({"loss": lambda z, y: networks.mean_loss(z, y) * len(y)})),
    Fault("label smoothing 0.1", "label smoothing", "loss",
          InTorchLoss(lambda z, y: _ce(z, y, label_smoothing=0.1))),
    Fault("softmax before the cross-entropy", "double softmax", "loss",
          InTorchLoss(SoftmaxCrossEntropyLoss())),
    Fault("loss in bits", "loss", "loss", InTorchLoss(lambda z, y: _ce(z, y) / math.log(2))),
    Fault("labels off by one", "loss", "loss",
          InTorchLoss(lambda z, y: _ce(z, (y + 1) % z.shape[1]))),
    Fault("weight decay after the momentum trace", "weight decay's place", "weight decay",
          InJax({"sgd": _jax_sgd(_decay_after_trace)})),
    Fault("weight decay after the learning rate", "weight decay's place", "weight decay",
          InJax({"sgd": _jax_sgd(_decay_after_rate)})),
    Fault("weight decay left out", "weight decay's place", "weight decay",
          InJax({"sgd": _jax_sgd(_decay_left_out)})),
    Fault("weight decay halved", "weight decay's place", "weight decay",
          InTorch({"sgd": _torch_sgd(weight_decay=lambda s: s["weight_decay"] / 2)})),
    Fault("learning rate inside the velocity", "velocity form", "momentum",
          InJax({"sgd": _jax_sgd(_rate_inside)})),
    Fault("velocity as an average", "velocity form", "momentum", InTorch({"sgd": _torch_sgd(_EmaSGD)})),
    Fault("dampening 0.1", "velocity form", "momentum",
          InTorch({"sgd": _torch_sgd(dampening=lambda s: 0.0 if s["nesterov"] or not s["momentum"] else 0.1)})),
    Fault("momentum 0.99 for 0.9", "velocity form", "momentum",
          InTorch({"sgd": _torch_sgd(momentum=lambda s: 0.99 if s["momentum"] else 0.0)})),
    Fault("Nesterov's form where it was not asked for", "Nesterov form", "momentum",
          InJax({"sgd": _jax_sgd(_always_nesterov)})),
    Fault("Nesterov's form left out", "Nesterov form", "nesterov",
          InTorch({"sgd": _torch_sgd(nesterov=lambda s: False)})),
    Fault("learning rate off by one part in a million", "learning rate", "learning rate",
          InTorch({"sgd": _torch_sgd(lr=lambda s: s["lr"] * (1 + 1e-6))})),
    Fault("the gradient's sign", "learning rate", "learning rate",
          InTorch({"sgd": _torch_sgd(maximize=lambda s: True)})),
    Fault("schedule one step early", "schedule off by one", "schedule", InJax({"sgd": _jax_schedule_early})),
    Fault("schedule one step late", "schedule off by one", "schedule",
          InTorch({"rate": lambda schedule, step: float(schedule(step - 1))})),
    Fault("ImageNet's mean and standard deviation", "normalisation constants", "normalisation",
          InTorch({"normalize": _normalizer(lambda x, m, s: (x / 255 - _IMAGENET[0]) / _IMAGENET[1])})),
    Fault("pixels not divided by 255", "uint8 scaling", "normalisation",
          InTorch({"normalize": _normalizer(lambda x, m, s: (x - m) / s)})),
    Fault("pixels divided by 256", "uint8 scaling", "normalisation",
          InJax({"normalize": _normalizer(lambda x, m, s: (x / 256 - m) / s)})),
    Fault("standard deviation left out", "normalisation constants", "normalisation",
          InTorch({"normalize": _normalizer(lambda x, m, s: x / 255 - m)})),
    Fault("channels in the order blue, green, red", "channel order", "normalisation",
          InTorch({"normalize": _normalizer(lambda x, m, s: (x[..., ::-1] / 255 - m) / s)})),
    Fault("height and width swapped", "channel order", "normalisation",
          InTorch({"normalize": _normalizer(lambda x, m, s: (x.transpose(0, 2, 1, 3) / 255 - m) / s)})),
    Fault("mean of the batches' standard deviations", "statistics", "statistics",
          InTorch({"statistics": _batch_std})),
    Fault("Bessel's correction", "statistics", "statistics", InTorch({"statistics": _bessel})),
    Fault("last partial batch dropped", "last batch", "metrics",
          InTorch({"evaluate": _evaluator("last batch dropped")})),
    Fault("mean of batch means", "last batch", "metrics",
          InTorch({"evaluate": _evaluator("mean of batch means")})),
    Fault("padding counted", "last batch", "metrics", InJax({"evaluate": _jax_evaluate_padding})),
    Fault("evaluation in training mode", "dropout's place", "metrics",
          InTorch({"evaluate": _evaluator("training mode")})),
    Fault("padding trained on", "last batch", "training", InJax({"train_step": _padding_trained})),
    Fault("the same dropout mask at every step", "dropout's place", "training",
          InJax({"train_step": _same_mask})),
    Fault("gradients not reset between steps", "gradient", "training",
          InTorch({"sgd": _torch_sgd(_KeepsGradients)})),
    Fault("PyTorch's scheme with Kaiming's own bound", "initial scale", "torch", _jax_schemes(torch=_kaiming)),
    Fault("PyTorch's scheme without biases", "initial bias", "torch", _jax_schemes(torch=_torch_zero_bias)),
    Fault("Flax's scheme not truncated", "initial scale", "flax", _jax_schemes(flax=_untruncated)),
    Fault("He's scheme by fan out", "initial scale", "he",
          InTorch({"schemes": {**programs.TORCH_SCHEMES, "he": _fan_out_he}})),
    Fault("the paper's scheme without its ones", "initial bias", "paper",
          _jax_schemes(paper=_paper_without_ones)),
)  # fmt: skip

CHANGES_NOTHING: tuple[tuple[str, str], ...] = (
    ("ReLU after max-pooling instead of before", "both are monotone: max(relu(x)) = relu(max(x)), gradient included"),
    ("ReLU after dropout instead of before", "dropout's factors 0 and 2 are not negative, and relu(2 x) = 2 relu(x)"),
    ("pooling padded with zeros instead of minus infinity", "no pool of these networks is padded, and after a ReLU no "
     "value is below zero"),
    ("sizes of pools rounded up at the published sizes", "every division is exact: 55, 27 and 13 with window 3 and "
     "stride 2, 32, 16 and 8 with window 2; planted at 131x99 and 36x28"),
    ("\"SAME\" in the 3x3 and 5x5 convolutions", "with stride 1 and an odd kernel it is the explicit padding"),
    ("adaptive pooling left out at the published size", "the map is 6x6 already; planted at 160x128, where it is 4x3"),
    ("a softmax before the argmax", "softmax keeps the order of the logits: accuracy is the same"),
    ("one channel's mean and standard deviation for all", "with normalisation by halves they are equal"),
    ("gradient to another of the tied zeros after a ReLU", "the ReLU's gradient is zero there, so nothing behind it "
     "changes; the pool itself is judged in isolation, where it shows"),
)  # fmt: skip
