"""LeNet-5 in PyTorch.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, with plain average pooling and a
linear output layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class LeNet5(nn.Module):
    """Two convolutions and three dense layers, for images float ``[batch, 1, height, width]``; returns logits."""

    def __init__(self, num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> None:
        super().__init__()
        height, width = ((size // 2 - 2) // 2 - 2 for size in image_size)  # each: a 5x5 convolution, halved
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = torch.tanh(self.fc1(x))
        x = torch.tanh(self.fc2(x))
        return self.fc3(x)
