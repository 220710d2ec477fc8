"""The PyTorch originals that torchvision does not have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class LeNet5(nn.Module):
    """LeNet-5 for images [batch, 1, h, w] of the size given, to logits [batch, num_classes].

    Source: LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, 1998, with the plain average
    pooling and the full second convolution that it is taught with today.
    """

    def __init__(self, height: int = 28, width: int = 28, num_classes: int = 10, padding: int = 2) -> None:
        super().__init__()
        height, width = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in (height, width))
        self.conv1 = nn.Conv2d(1, 6, 5, padding=padding)
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


class LSTMClassifier(nn.Module):
    """Integer tokens [batch, time] to logits [batch, num_classes], read off the last step's output."""

    def __init__(self, vocabulary: int = 10_000, features: int = 128, hidden: int = 256, num_classes: int = 10) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, features)
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.lstm(self.embedding(tokens))
        return self.head(outputs[:, -1])
