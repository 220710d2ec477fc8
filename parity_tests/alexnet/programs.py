"""All the pieces of each side that training is made of; a planted fault replaces one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision import transforms

from jaxalex.data import stats
from jaxalex.networks import initializers
from jaxalex.training import epochs, optim, steps
from netparity.jax_side import JaxSide
from netparity.torch_side import TorchSide
from parity_tests.alexnet import networks
from parity_tests.alexnet.networks import Case
from torch_ref import training

Schedule = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class JaxProgram:
    """The product's pieces.

    Attributes:
      network: the Flax module.
      loss: ``(logits, labels) -> scalar``.
      normalize: ``(uint8 [b, h, w, c], mean, std) -> float32``.
      statistics: ``uint8 [n, h, w, c] -> (mean, std)`` by channel.
      sgd: ``(learning rate or schedule, momentum, weight_decay, nesterov) -> optax transformation``.
      train_step: ``(state, batch, key) -> (state, metrics)``.
      evaluate: ``(state, placed) -> Evaluation``.
      schemes: ``{scheme: (layer, fan in) -> LayerInit}``.
    """

    network: Any
    loss: Callable[..., Any] = networks.mean_loss
    normalize: Callable[..., Any] = steps.normalize
    statistics: Callable[..., Any] = stats.channel_statistics
    sgd: Callable[..., Any] = optim.sgd
    train_step: Callable[..., Any] = steps.train_step
    evaluate: Callable[..., Any] = epochs.evaluate
    schemes: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(initializers.SCHEMES))

    @property
    def side(self) -> JaxSide:
        """The network and its loss, to be compared."""
        return networks.jax_side(self.network, self.loss)


def torchvision_normalize(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Torchvision's ``ToTensor`` and ``Normalize``, image by image: uint8 to float32, ``[b, h, w, c]``."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean.tolist(), std.tolist())])
    return np.stack([transform(image).permute(1, 2, 0).numpy() for image in images])


def torch_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each channel, in float64, on the scale where 255 is 1."""
    mean, std = [], []
    for channel in range(images.shape[-1]):  # one at a time: all of CIFAR-10 in float64 is 1.2 GB
        pixels = torch.from_numpy(images[..., channel]).double().div_(255)
        mean.append(float(pixels.mean()))
        # Not Tensor.std: its running update is off by 2.6e-12 after 40 million pixels.
        std.append(float(pixels.sub_(mean[-1]).square_().mean().sqrt()))
    return np.array(mean), np.array(std)


def torch_sgd(params: Iterable[torch.Tensor], lr: float, momentum: float, weight_decay: float, nesterov: bool) -> Any:
    return torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def torch_rate(schedule: Schedule, step: int) -> float:
    return float(schedule(step))


def torch_evaluate(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, loss: Any) -> tuple[float, float]:
    """Mean loss and accuracy in percent over every sample, in batches of 100 whose last may be smaller."""
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=100)
    mean = training.evaluate(module, batches, loss, next(module.parameters()).device)
    return mean.loss, mean.accuracy


def _default_init(name: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """What ``nn.Conv2d`` and ``nn.Linear`` start with, from PyTorch's own layers."""
    out, into = weight.shape[:2]
    kernel = tuple(weight.shape[2:])
    layer: Any = nn.Conv2d(into, out, kernel) if kernel else nn.Linear(into, out)  # type: ignore[arg-type]
    weight.copy_(layer.weight)
    bias.copy_(layer.bias)


def _lecun_init(name: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Truncated at two standard deviations, and scaled so that the variance after that is 1/fan_in."""
    sigma = weight[0].numel() ** -0.5 / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=sigma, a=-2 * sigma, b=2 * sigma)
    nn.init.zeros_(bias)


def _he_init(name: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    nn.init.zeros_(bias)


def _paper_init(name: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
    nn.init.normal_(weight, std=0.01)
    nn.init.constant_(bias, 1 if name in ("conv2", "conv4", "conv5", "fc1", "fc2") else 0)


TORCH_SCHEMES = {"torch": _default_init, "flax": _lecun_init, "he": _he_init, "paper": _paper_init}


@dataclasses.dataclass(frozen=True)
class TorchProgram:
    """The reference's pieces.

    Attributes:
      side: the network and its loss, to be compared.
      normalize, statistics: as in `JaxProgram`.
      sgd: ``(params, lr, momentum, weight_decay, nesterov) -> torch.optim.Optimizer``.
      rate: ``(schedule, step) -> float``, the learning rate of a step counted from 0.
      evaluate: ``(module, images, labels, loss) -> (loss, accuracy)``.
      schemes: ``{scheme: (layer name, weight, bias) -> None}``, which fills both in place.
    """

    side: TorchSide
    normalize: Callable[..., Any] = torchvision_normalize
    statistics: Callable[..., Any] = torch_statistics
    sgd: Callable[..., Any] = torch_sgd
    rate: Callable[[Schedule, int], float] = torch_rate
    evaluate: Callable[..., Any] = torch_evaluate
    schemes: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(TORCH_SCHEMES))


def programs(case: Case, torch_device: str = "cpu") -> tuple[JaxProgram, TorchProgram]:
    """The right pair for a case; JAX's side runs on its default device."""
    return JaxProgram(networks.jax_network(case)), TorchProgram(networks.torch_side(case, device=torch_device))
