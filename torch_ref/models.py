"""The two AlexNets as blocks of ``nn.Sequential``, each layer's numbers written where it is made.

Source of the layers: A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet Classification with Deep
Convolutional Neural Networks", 2012, section 3.5, in one tower and without local response normalisation;
and the same network for 32x32 images, with 3x3 kernels throughout. Parameters start as PyTorch's layers
leave them. Output sizes follow ``floor((size - kernel + 2 * padding) / stride) + 1``.
"""

from __future__ import annotations

import math

import torch
from torch import nn

# The layers of every block, in order, by the name that their output has; the Flatten has none.
BLOCKS: dict[str, tuple[str | None, ...]] = {
    "conv1": ("conv1", "relu1", "pool1"),
    "conv2": ("conv2", "relu2", "pool2"),
    "conv3": ("conv3", "relu3"),
    "conv4": ("conv4", "relu4"),
    "conv5": ("conv5", "relu5", "pool3"),
    "fc1": (None, "fc1", "relu6", "drop1"),
    "fc2": ("fc2", "relu7", "drop2"),
    "fc3": ("fc3",),
}


def scaled(count: int, width: float) -> int:
    """``count`` channels or units at the width factor ``width``: rounded, and never fewer than one."""
    return max(1, round(count * width))


class AlexNet(nn.Module):
    """What both networks share: eight blocks, applied one after the other."""

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
          The logits, and a dict in the order of computation: conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3
          conv4 relu4 conv5 relu5 pool3 (``[batch, channel, height, width]``), fc1 relu6 drop1 fc2 relu7 drop2
          fc3 (``[batch, unit]``). The tensors are part of the graph: gradients flow through them.
        """
        intermediates = {}
        x = images
        for block, names in BLOCKS.items():
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


def build(
    name: str, num_classes: int | None = None, input_channels: int = 3, width: float = 1.0
) -> AlexNetPaper | AlexNetCifar10:
    """The network called ``name``.

    Args:
      name: ``"paper"`` or ``"cifar10"``.
      num_classes: number of logits; None takes the network's own (1000, 10).
      input_channels, width: as for the classes.

    Raises:
      ValueError: for an unknown name, a count below 1, or a width that is not finite and positive.
    """
    if name == "paper":
        return AlexNetPaper(input_channels, 1000 if num_classes is None else num_classes, width)
    if name == "cifar10":
        return AlexNetCifar10(input_channels, 10 if num_classes is None else num_classes, width)
    raise ValueError(f"unknown model {name!r}: there are 'paper' and 'cifar10'")


def _check(input_channels: int, num_classes: int, width: float) -> None:
    if input_channels < 1 or num_classes < 1:
        raise ValueError(f"input_channels and num_classes must be at least 1, got {input_channels} and {num_classes}")
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be finite and positive, got {width}")
