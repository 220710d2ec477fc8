"""The AlexNet family, each layer's numbers written where it is made; ``torchvision`` is torchvision's own.

Sources of the layers: A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", 2012, section 3 (``original``); the same in one tower and without local response normalisation
(``paper``); the same for 32x32 images, with 3x3 kernels throughout (``cifar10``). Parameters start as PyTorch's layers
leave them. Output sizes follow ``floor((size - kernel + 2 * padding) / stride) + 1``.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from torch_ref.config import MODELS

# Where the output of each layer of torchvision's network comes from.
TORCHVISION_STAGES = {
    "conv1": "features.0",
    "relu1": "features.1",
    "pool1": "features.2",
    "conv2": "features.3",
    "relu2": "features.4",
    "pool2": "features.5",
    "conv3": "features.6",
    "relu3": "features.7",
    "conv4": "features.8",
    "relu4": "features.9",
    "conv5": "features.10",
    "relu5": "features.11",
    "pool3": "features.12",
    "avgpool": "avgpool",
    "drop1": "classifier.0",
    "fc1": "classifier.1",
    "relu6": "classifier.2",
    "drop2": "classifier.3",
    "fc2": "classifier.4",
    "relu7": "classifier.5",
    "fc3": "classifier.6",
}


def scaled(count: int, width: float, parts: int = 1) -> int:
    """``count`` channels or units at the width factor ``width``: rounded so that ``parts`` of equal size make them up,
    and none of them is empty."""
    return parts * max(1, round(count * width / parts))


class AlexNet(nn.Module):
    """What the networks in blocks share: eight of them, applied one after the other.

    Attributes:
      blocks: the layers of every block, in order, by the name that their output has; the Flatten has none.
    """

    blocks: ClassVar[dict[str, tuple[str | None, ...]]] = {
        "conv1": ("conv1", "relu1", "pool1"),
        "conv2": ("conv2", "relu2", "pool2"),
        "conv3": ("conv3", "relu3"),
        "conv4": ("conv4", "relu4"),
        "conv5": ("conv5", "relu5", "pool3"),
        "fc1": (None, "fc1", "relu6", "drop1"),
        "fc2": ("fc2", "relu7", "drop2"),
        "fc3": ("fc3",),
    }
    conv1: nn.Sequential
    conv2: nn.Sequential
    conv3: nn.Sequential
    conv4: nn.Sequential
    conv5: nn.Sequential
    fc1: nn.Sequential
    fc2: nn.Sequential
    fc3: nn.Sequential

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores before any softmax.

        Args:
          images: ``[batch, channel, height, width]``, of the parameters' dtype.

        Returns:
          Logits ``[batch, num_classes]``, of the same dtype.
        """
        x = self.conv1(images)
        x = self.conv2(x)
        x = self.conv3(x)
        x = self.conv4(x)
        x = self.conv5(x)
        x = self.fc1(x)
        x = self.fc2(x)
        return self.fc3(x)

    def forward_with_intermediates(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """``forward``, and every layer's output on the way.

        Args:
          images: as for ``forward``.

        Returns:
          The logits, and a dict by the names in ``blocks``, in the order of computation: images as
          ``[batch, channel, height, width]``, rows as ``[batch, unit]``. The tensors are part of the graph: gradients
          flow through them.
        """
        intermediates = {}
        x = images
        for block, names in self.blocks.items():
            for layer, name in zip(getattr(self, block), names, strict=True):
                x = layer(x)
                if name is not None:
                    intermediates[name] = x
        return x, intermediates


class AlexNetPaper(AlexNet):
    """AlexNet for 224x224 images; 62,378,344 parameters at its defaults.

    Args:
      input_channels: channels of the images, at least 1.
      num_classes: number of logits, at least 1.
      width: factor on every hidden channel and unit count; 1 is the published network.

    Raises:
      ValueError: for a count below 1, or a width that is not finite and positive.
    """

    def __init__(self, input_channels: int = 3, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        _check(input_channels, num_classes, width)
        c1, c2, c3 = scaled(96, width), scaled(256, width), scaled(384, width)
        c4, c5, units = scaled(384, width), scaled(256, width), scaled(4096, width)
        self.conv1 = nn.Sequential(  # 224 -> 55 -> 27
            nn.Conv2d(input_channels, c1, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.conv2 = nn.Sequential(  # 27 -> 27 -> 13
            nn.Conv2d(c1, c2, kernel_size=5, stride=1, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.conv3 = nn.Sequential(nn.Conv2d(c2, c3, kernel_size=3, stride=1, padding=1), nn.ReLU())
        self.conv4 = nn.Sequential(nn.Conv2d(c3, c4, kernel_size=3, stride=1, padding=1), nn.ReLU())
        self.conv5 = nn.Sequential(  # 13 -> 13 -> 6
            nn.Conv2d(c4, c5, kernel_size=3, stride=1, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.fc1 = nn.Sequential(nn.Flatten(), nn.Linear(c5 * 6 * 6, units), nn.ReLU(), nn.Dropout(0.5))
        self.fc2 = nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Dropout(0.5))
        self.fc3 = nn.Sequential(nn.Linear(units, num_classes))


class AlexNetCifar10(AlexNet):
    """AlexNet for 32x32 images; 36,113,290 parameters at its defaults.

    Args:
      input_channels: channels of the images, at least 1.
      num_classes: number of logits, at least 1.
      width: factor on every hidden channel and unit count; 1 is the published network.

    Raises:
      ValueError: for a count below 1, or a width that is not finite and positive.
    """

    def __init__(self, input_channels: int = 3, num_classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        _check(input_channels, num_classes, width)
        c1, c2, c3 = scaled(64, width), scaled(256, width), scaled(384, width)
        c4, c5, units = scaled(256, width), scaled(256, width), scaled(4096, width)
        self.conv1 = nn.Sequential(  # 32 -> 32 -> 16
            nn.Conv2d(input_channels, c1, kernel_size=3, stride=1, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.conv2 = nn.Sequential(  # 16 -> 16 -> 8
            nn.Conv2d(c1, c2, kernel_size=3, stride=1, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.conv3 = nn.Sequential(nn.Conv2d(c2, c3, kernel_size=3, stride=1, padding=1), nn.ReLU())
        self.conv4 = nn.Sequential(nn.Conv2d(c3, c4, kernel_size=3, stride=1, padding=1), nn.ReLU())
        self.conv5 = nn.Sequential(  # 8 -> 8 -> 4
            nn.Conv2d(c4, c5, kernel_size=3, stride=1, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.fc1 = nn.Sequential(nn.Flatten(), nn.Linear(c5 * 4 * 4, units), nn.ReLU(), nn.Dropout(0.5))
        self.fc2 = nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Dropout(0.5))
        self.fc3 = nn.Sequential(nn.Linear(units, num_classes))


class AlexNetOriginal(AlexNet):
    """AlexNet as published in 2012, for 224x224 images; 60,965,224 parameters at its defaults.

    Two GPUs held half of the channels each: conv2, conv4 and conv5 see only the half on their own. The normalisation's
    alpha is the paper's 1e-4 times 5, as PyTorch divides it by the number of channels that it sums over.


    Args:
      input_channels: channels of the images, at least 1.
      num_classes: number of logits, at least 1.
      width: factor on every hidden channel and unit count; 1 is the published network.

    Raises:
      ValueError: for a count below 1, or a width that is not finite and positive.
    """

    blocks: ClassVar[dict[str, tuple[str | None, ...]]] = AlexNet.blocks | {
        "conv1": ("conv1", "relu1", "norm1", "pool1"),
        "conv2": ("conv2", "relu2", "norm2", "pool2"),
    }

    def __init__(self, input_channels: int = 3, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        _check(input_channels, num_classes, width)
        c1, c2, c3 = (scaled(count, width, parts=2) for count in (96, 256, 384))
        c4, c5, units = scaled(384, width, parts=2), scaled(256, width, parts=2), scaled(4096, width)
        self.conv1 = nn.Sequential(  # 224 -> 55 -> 27
            nn.Conv2d(input_channels, c1, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.conv2 = nn.Sequential(  # 27 -> 27 -> 13
            nn.Conv2d(c1, c2, kernel_size=5, stride=1, padding=2, groups=2),
            nn.ReLU(),
            nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.conv3 = nn.Sequential(nn.Conv2d(c2, c3, kernel_size=3, stride=1, padding=1), nn.ReLU())
        self.conv4 = nn.Sequential(nn.Conv2d(c3, c4, kernel_size=3, stride=1, padding=1, groups=2), nn.ReLU())
        self.conv5 = nn.Sequential(  # 13 -> 13 -> 6
            nn.Conv2d(c4, c5, kernel_size=3, stride=1, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.fc1 = nn.Sequential(nn.Flatten(), nn.Linear(c5 * 6 * 6, units), nn.ReLU(), nn.Dropout(0.5))
        self.fc2 = nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Dropout(0.5))
        self.fc3 = nn.Sequential(nn.Linear(units, num_classes))


def build(name: str, num_classes: int | None = None, input_channels: int = 3, width: float = 1.0) -> nn.Module:
    """The network called ``name``.

    Args:
      name: one of ``torch_ref.config.MODELS``.
      num_classes: number of logits; None takes the network's own (10 for ``"cifar10"``, else 1000).
      input_channels, width: as for the classes.

    Raises:
      ValueError: for an unknown name, a count below 1, or a width that is not finite and positive.
    """
    if name == "cifar10":
        return AlexNetCifar10(input_channels, 10 if num_classes is None else num_classes, width)
    classes = 1000 if num_classes is None else num_classes
    if name == "paper":
        return AlexNetPaper(input_channels, classes, width)
    if name == "original":
        return AlexNetOriginal(input_channels, classes, width)
    if name == "torchvision":
        return _torchvision(input_channels, classes, width)
    raise ValueError(f"unknown model {name!r}: there are {', '.join(MODELS)}")


def stages(network: nn.Module) -> dict[str, str]:
    """The module of every named intermediate of a network made by ``build``: ``{"conv1": "conv1.0", …}``."""
    if not isinstance(network, AlexNet):
        return dict(TORCHVISION_STAGES)
    return {
        name: f"{block}.{i}"
        for block, names in network.blocks.items()
        for i, name in enumerate(names)
        if name is not None
    }


def _torchvision(input_channels: int, num_classes: int, width: float) -> nn.Module:
    """torchvision's ``alexnet``; where it is to be narrower or to see other images, with its layers' sizes changed."""
    from torchvision.models import alexnet

    _check(input_channels, num_classes, width)
    if (input_channels, width) == (3, 1.0):
        return alexnet(num_classes=num_classes)
    with torch.device("meta"):
        network = alexnet(num_classes=num_classes)
    # What each layer with parameters takes and gives; the feature map is 6x6.
    c1, c2, c3, c4, c5 = (scaled(count, width) for count in (64, 192, 384, 256, 256))
    units = scaled(4096, width)
    sizes = {"features.0": (input_channels, c1), "features.3": (c1, c2), "features.6": (c2, c3), "features.8": (c3, c4)}
    sizes |= {"features.10": (c4, c5), "classifier.1": (c5 * 36, units), "classifier.4": (units, units)}
    sizes |= {"classifier.6": (units, num_classes)}
    for name, (into, out) in sizes.items():
        old = network.get_submodule(name)
        if isinstance(old, nn.Conv2d):
            new: nn.Module = nn.Conv2d(into, out, old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
        else:
            new = nn.Linear(into, out)
        network.set_submodule(name, new)
    return network


def _check(input_channels: int, num_classes: int, width: float) -> None:
    if input_channels < 1 or num_classes < 1:
        raise ValueError(f"input_channels and num_classes must be at least 1, got {input_channels} and {num_classes}")
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be finite and positive, got {width}")
