"""Training and evaluation, as loops over a ``DataLoader``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from torch_ref.cli import RunError

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclasses.dataclass
class Mean:
    """Loss and accuracy over samples, however they come in batches."""

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0

    def add(self, loss: float, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds a batch: its mean loss, logits ``[batch, class]`` and labels ``[batch]``."""
        self.loss_sum += loss * len(labels)
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        self.count += len(labels)

    @property
    def loss(self) -> float:
        """Mean loss of a sample."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float:
        """Share of samples classified right, in percent."""
        return 100 * self.correct / self.count


class SoftmaxCrossEntropyLoss(nn.CrossEntropyLoss):
    """The classic mistake, for comparison: cross-entropy of a softmax.

    ``CrossEntropyLoss`` takes logits and applies log-softmax itself. Given probabilities it applies it a
    second time, and with ten classes it cannot fall below ``log(1 + 9 / e)``, 1.461.
    """

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of logits ``[batch, class]`` and labels ``[batch]``."""
        return super().forward(logits.softmax(dim=1), labels)


def train_epoch(
    model: nn.Module,
    batches: Batches,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    epoch: int,
    progress: Callable[[int, float], object] = lambda size, loss: None,
) -> Mean:
    """Trains on every batch once, in training mode.

    Args:
      model: on ``device``; its parameters are those of ``optimizer``.
      batches: images float32 ``[batch, channel, height, width]`` and labels int64 ``[batch]``.
      criterion: the mean loss of logits and labels.
      epoch: for messages.
      progress: called after each batch with its size and loss.

    Returns:
      Loss and accuracy over the epoch's samples, each as it was before its batch's step.

    Raises:
      RunError: when a loss is not finite; the parameters are as they were before that step.
    """
    model.train()
    mean = Mean()
    for step, (images, labels) in enumerate(batches, start=1):
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        logits = model(images)
        loss = criterion(logits, labels)
        value = loss.item()
        if not math.isfinite(value):
            raise RunError(f"the loss is {value} in epoch {epoch}, step {step}: try a lower learning rate")
        loss.backward()
        optimizer.step()
        mean.add(value, logits, labels)
        progress(len(labels), value)
    return mean


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, criterion: nn.Module, device: torch.device) -> Mean:
    """Loss and accuracy over all samples of ``batches``, in evaluation mode."""
    model.eval()
    mean = Mean()
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        mean.add(criterion(logits, labels).item(), logits, labels)
    return mean
