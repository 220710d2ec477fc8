"""The loops and the data beneath the command."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from torch_ref import data, models, training


def test_every_sample_counts_the_same():
    images = torch.arange(5.0)[:, None] * torch.tensor([1.0, -1.0])
    labels = torch.tensor([0, 0, 0, 1, 1])
    # logits (k, -k): the loss is log(1 + exp(-2k)) for class 0 and log(1 + exp(2k)) for class 1
    expected = sum(math.log1p(math.exp(-2 * k if k < 3 else 2 * k)) for k in range(5)) / 5
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    mean = training.evaluate(nn.Identity(), batches, nn.CrossEntropyLoss(), torch.device("cpu"))
    assert mean.loss == pytest.approx(expected, rel=1e-6)
    assert mean.accuracy == 60
    assert mean.count == 5


def test_the_loss_of_a_softmax_cannot_fall_below_its_floor():
    perfect = 1000 * torch.eye(10)
    loss = training.SoftmaxCrossEntropyLoss()(perfect, torch.arange(10))
    assert loss.item() == pytest.approx(1.461, abs=5e-4)
    assert nn.CrossEntropyLoss()(perfect, torch.arange(10)).item() == 0


@pytest.mark.slow
def test_it_learns_the_digits():
    torch.manual_seed(0)
    model = models.build("cifar10", width=0.05)
    for parameter in model.parameters():  # He's start: PyTorch's own stays at ln 10 for many epochs
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
    splits = data.load("digits", limit_train=600)
    loader = DataLoader(splits.train, 16, shuffle=True, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion, cpu = nn.CrossEntropyLoss(), torch.device("cpu")
    losses = [training.train_epoch(model, loader, criterion, optimizer, cpu, epoch).loss for epoch in range(1, 11)]
    assert losses[0] > 2
    assert losses[-1] < 1.4
    assert training.evaluate(model, DataLoader(splits.test, 100), criterion, cpu).accuracy > 55


def test_modes_are_set_and_evaluation_takes_no_gradients():
    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.seen: list[tuple[bool, bool]] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append((self.training, torch.is_grad_enabled()))
            return self.scale * x

    model, criterion, cpu = Spy(), nn.CrossEntropyLoss(), torch.device("cpu")
    batches = [(torch.eye(2), torch.tensor([0, 1]))]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    training.evaluate(model, batches, criterion, cpu)
    training.train_epoch(model, batches, criterion, optimizer, cpu, 1)
    training.evaluate(model, batches, criterion, cpu)
    assert model.seen == [(False, False), (True, True), (False, False)]
    # loss = log(1 + exp(-s)), so at s = 1 the gradient is -1 / (1 + e)
    assert model.scale.item() == pytest.approx(1 + 1 / (1 + math.e), rel=1e-6)


def test_digits_are_split_once_and_for_all():
    splits = data.load("digits", seed=0)
    assert (len(splits.train), len(splits.eval), len(splits.test)) == (1149, 288, 360)
    image, label = splits.train[0]
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert torch.equal(image[0], image[1])
    assert 0 <= label < 10
    everything = torch.stack([image for image, _ in splits.train])
    assert everything.min() == -1
    assert everything.max() > 0.9

    def numbers(subset) -> list[int]:
        return [subset.dataset.indices[i] for i in subset.indices]

    assert sorted(numbers(splits.train) + numbers(splits.eval)) == list(range(1437))
    short = data.load("digits", seed=0, limit_train=10)
    assert numbers(short.train) == numbers(splits.train)[:10]
    other = data.load("digits", seed=1)
    assert numbers(other.train) != numbers(splits.train)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(other.test, splits.test, strict=True))
