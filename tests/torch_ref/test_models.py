"""The PyTorch networks against the published tables, written out again here."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from torch_ref import models

NAMES = [
    *("conv1.0.weight", "conv1.0.bias", "conv2.0.weight", "conv2.0.bias", "conv3.0.weight", "conv3.0.bias"),
    *("conv4.0.weight", "conv4.0.bias", "conv5.0.weight", "conv5.0.bias"),
    *("fc1.1.weight", "fc1.1.bias", "fc2.0.weight", "fc2.0.bias", "fc3.0.weight", "fc3.0.bias"),
]
INTERMEDIATES = [
    *("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4", "relu4"),
    *("conv5", "relu5", "pool3", "fc1", "relu6", "drop1", "fc2", "relu7", "drop2", "fc3"),
]


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("paper", {}, 62_378_344),
        ("cifar10", {}, 36_113_290),
        ("cifar10", {"num_classes": 100}, 36_113_290 + 90 * 4097),
        ("paper", {"input_channels": 1}, 62_378_344 - 2 * 11 * 11 * 96),
        ("original", {}, 60_965_224),
        ("torchvision", {}, 61_100_840),
        ("torchvision", {"num_classes": 10, "input_channels": 1}, 61_100_840 - 990 * 4097 - 2 * 11 * 11 * 64),
    ],
)
def test_number_of_parameters(name, arguments, parameters):
    with torch.device("meta"):
        model = models.build(name, **arguments)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_shapes_of_the_paper_network():
    with torch.device("meta"):
        found = shapes(models.AlexNetPaper())
    assert list(found) == NAMES
    assert found["conv1.0.weight"] == (96, 3, 11, 11)
    assert found["conv2.0.weight"] == (256, 96, 5, 5)
    assert found["conv3.0.weight"] == (384, 256, 3, 3)
    assert found["conv4.0.weight"] == (384, 384, 3, 3)
    assert found["conv5.0.weight"] == (256, 384, 3, 3)
    assert found["fc1.1.weight"] == (4096, 9216)
    assert found["fc2.0.weight"] == (4096, 4096)
    assert found["fc3.0.weight"] == (1000, 4096)


def test_shapes_of_the_cifar10_network():
    with torch.device("meta"):
        found = shapes(models.AlexNetCifar10())
    assert list(found) == NAMES
    assert found["conv1.0.weight"] == (64, 3, 3, 3)
    assert found["conv2.0.weight"] == (256, 64, 3, 3)
    assert found["conv3.0.weight"] == (384, 256, 3, 3)
    assert found["conv4.0.weight"] == (256, 384, 3, 3)
    assert found["conv5.0.weight"] == (256, 256, 3, 3)
    assert found["fc1.1.weight"] == (4096, 4096)
    assert found["fc2.0.weight"] == (4096, 4096)
    assert found["fc3.0.weight"] == (10, 4096)


def test_shapes_of_the_two_towers():
    """A filter of conv2, conv4 and conv5 sees the 48 or 192 channels on its own GPU."""
    with torch.device("meta"):
        found = shapes(models.AlexNetOriginal())
    assert list(found) == NAMES
    assert [found[f"conv{i}.0.weight"] for i in range(1, 6)] == [
        *((96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3))
    ]
    assert [found[f"{name}.weight"] for name in ("fc1.1", "fc2.0", "fc3.0")] == [
        (4096, 9216),
        (4096, 4096),
        (1000, 4096),
    ]


def test_torchvisions_network_is_torchvisions():
    """At full width its own class and layers; another width or number of channels changes sizes, and nothing else."""
    with torch.device("meta"):
        own = models.build("torchvision")
        other = models.build("torchvision", num_classes=7, input_channels=4)
        narrow = shapes(models.build("torchvision", num_classes=7, width=0.0625))
    assert type(own) is type(other) is torchvision.models.AlexNet
    assert str(own) == str(torchvision.models.alexnet())
    changed = str(own).replace("Conv2d(3, ", "Conv2d(4, ").replace("out_features=1000", "out_features=7")
    assert str(other) == changed
    assert [size[0] for name, size in narrow.items() if name.endswith("bias")] == [4, 12, 24, 16, 16, 256, 256, 7]
    assert set(models.TORCHVISION_STAGES.values()) == {
        name for name, module in own.named_modules() if not list(module.children())
    }


def test_width_scales_hidden_sizes_alone():
    found = shapes(models.build("paper", num_classes=7, input_channels=2, width=0.0625))
    biases = [found[name][0] for name in NAMES if name.endswith("bias")]
    assert biases == [6, 16, 24, 24, 16, 256, 256, 7]
    assert found["conv1.0.weight"][1] == 2
    smallest = shapes(models.build("cifar10", width=1e-6))
    assert smallest["fc1.1.weight"] == (1, 16)
    assert smallest["fc3.0.weight"] == (10, 1)


@pytest.mark.parametrize(
    ("name", "side", "sizes"),
    [
        ("paper", 224, [55, 55, 27, 27, 27, 13, 13, 13, 13, 13, 13, 13, 6]),
        ("cifar10", 32, [32, 32, 16, 16, 16, 8, 8, 8, 8, 8, 8, 8, 4]),
    ],
)
def test_every_intermediate_has_its_published_size(name, side, sizes):
    model = models.build(name, num_classes=9, width=0.03125)
    channels = {"paper": [3, 8, 12, 12, 8], "cifar10": [2, 8, 12, 8, 8]}[name]
    logits, seen = model.forward_with_intermediates(torch.zeros(2, 3, side, side))
    assert list(seen) == INTERMEDIATES
    per_layer = [channels[int(layer[-1]) - 1] for layer in INTERMEDIATES[:12]] + [channels[4]]
    per_layer[2], per_layer[5] = channels[0], channels[1]
    for layer, count, size in zip(INTERMEDIATES[:13], per_layer, sizes, strict=True):
        assert tuple(seen[layer].shape) == (2, count, size, size), layer
    for layer in INTERMEDIATES[13:19]:
        assert tuple(seen[layer].shape) == (2, 128), layer
    assert tuple(logits.shape) == tuple(seen["fc3"].shape) == (2, 9)


@pytest.mark.parametrize(
    ("name", "images", "blocks"),
    [
        ("paper", (224, 160), [(27, 19), (13, 9), (13, 9), (13, 9), (6, 4)]),
        ("cifar10", (32, 48), [(16, 24), (8, 12), (8, 12), (8, 12), (4, 6)]),
    ],
)
def test_height_and_width_are_not_confused(name, images, blocks):
    model = models.build(name, width=0.03125)
    x = torch.zeros(1, 3, *images)
    for block, size in zip((model.conv1, model.conv2, model.conv3, model.conv4, model.conv5), blocks, strict=True):
        x = block(x)
        assert tuple(x.shape[2:]) == size


# Kernel sizes show in the weights; stride, padding, pooling's kernel and stride have to be written again.
TABLE = {
    "paper": [(4, 2, (3, 2)), (1, 2, (3, 2)), (1, 1, None), (1, 1, None), (1, 1, (3, 2))],
    "cifar10": [(1, 1, (2, 2)), (1, 1, (2, 2)), (1, 1, None), (1, 1, None), (1, 1, (2, 2))],
}


@pytest.mark.parametrize(("name", "size"), [("paper", (224, 227)), ("cifar10", (32, 33))])
def test_forward_is_the_table_written_as_functions(name, size):
    torch.manual_seed(0)
    model = models.build(name, num_classes=5, width=0.05).double().eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    weights = model.state_dict()
    x, steps = images, []
    for i, (stride, padding, pool) in enumerate(TABLE[name], start=1):
        kernel, bias = weights[f"conv{i}.0.weight"], weights[f"conv{i}.0.bias"]
        steps.append(F.conv2d(x, kernel, bias, stride=stride, padding=padding))
        x = steps[-1].clamp(min=0)
        steps.append(x)
        if pool:
            x = F.max_pool2d(x, *pool)
            steps.append(x)
    x = x.reshape(2, -1)  # channel, then height, then width
    for layer in ("fc1.1", "fc2.0"):
        steps.append(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
        x = steps[-1].clamp(min=0)
        steps += [x, x]
    steps.append(x @ weights["fc3.0.weight"].T + weights["fc3.0.bias"])

    logits, seen = model.forward_with_intermediates(images)
    for layer, expected in zip(INTERMEDIATES, steps, strict=True):
        torch.testing.assert_close(seen[layer], expected, rtol=1e-12, atol=1e-14, msg=layer)
    assert torch.equal(model(images), logits)
    assert torch.equal(seen["fc3"], logits)


def test_the_original_is_the_paper_s_table_in_two_towers():
    """Section 3.5's layers as functions: each tower on its own, and section 3.3's normalisation as it is written."""
    torch.manual_seed(0)
    model = models.build("original", num_classes=5, width=0.05).double().eval()
    images = 4 * torch.randn(2, 3, 71, 96, dtype=torch.float64)
    model.fc1[1] = nn.Linear(2 * 12, 205, dtype=torch.float64)
    weights = model.state_dict()
    x = images
    for i, (stride, padding, pool) in enumerate(TABLE["paper"], start=1):
        kernel, bias = weights[f"conv{i}.0.weight"], weights[f"conv{i}.0.bias"]
        towers = 2 if i in (2, 4, 5) else 1
        parts = zip(x.chunk(towers, 1), kernel.chunk(towers), bias.chunk(towers), strict=True)
        x = torch.cat([F.conv2d(a, k, b, stride=stride, padding=padding) for a, k, b in parts], 1).clamp(min=0)
        if i in (1, 2):
            n = x.shape[1]
            sums = [sum(x[:, j] ** 2 for j in range(max(0, c - 2), min(n, c + 3))) for c in range(n)]
            x = torch.stack([x[:, c] / (2 + 1e-4 * sums[c]) ** 0.75 for c in range(n)], 1)
        if pool:
            x = F.max_pool2d(x, *pool)
    for layer in ("fc1.1", "fc2.0"):
        x = (x.flatten(1) @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]).clamp(min=0)
    expected = x @ weights["fc3.0.weight"].T + weights["fc3.0.bias"]
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-14)


def test_output_is_logits():
    torch.manual_seed(0)
    model = models.build("cifar10", width=0.05).eval()
    images = torch.randn(4, 3, 32, 32)
    logits = model(images)
    assert (logits < 0).any()
    with torch.no_grad():
        model.fc3[0].weight *= 8
        model.fc3[0].bias *= 8
    assert torch.equal(model(images), 8 * logits)


def test_intermediates_are_kept_apart():
    torch.manual_seed(0)
    model = models.build("cifar10", width=0.05).eval()
    _, seen = model.forward_with_intermediates(torch.randn(2, 3, 32, 32))
    for before, after in [("conv1", "relu1"), ("conv5", "relu5"), ("fc1", "relu6"), ("fc2", "relu7")]:
        assert (seen[before] < 0).any(), before
        assert torch.equal(seen[after], seen[before].clamp(min=0))


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    model = models.build("cifar10", width=0.25)
    images = torch.randn(4, 3, 32, 32)
    _, seen = model.eval().forward_with_intermediates(images)
    assert torch.equal(seen["drop1"], seen["relu6"])
    assert torch.equal(seen["drop2"], seen["relu7"])
    _, seen = model.train().forward_with_intermediates(images)
    for before, after in [("relu6", "drop1"), ("relu7", "drop2")]:
        active = seen[before] > 0
        kept = seen[after] > 0
        assert not (kept & ~active).any()
        assert torch.equal(seen[after][kept], 2 * seen[before][kept])
        assert 0.4 < kept.sum() / active.sum() < 0.6


def test_gradients_reach_intermediates():
    model = models.build("cifar10", width=0.05)
    logits, seen = model.forward_with_intermediates(torch.randn(2, 3, 32, 32))
    (gradient,) = torch.autograd.grad(logits.sum(), seen["pool1"])
    assert gradient.abs().max() > 0


def test_weights_that_a_plain_script_saved_load_as_they_are(tmp_path):
    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU()]

    plain = nn.Module()
    plain.conv1 = nn.Sequential(*conv(3, 4), nn.MaxPool2d(2, 2))
    plain.conv2 = nn.Sequential(*conv(4, 16), nn.MaxPool2d(2, 2))
    plain.conv3 = nn.Sequential(*conv(16, 24))
    plain.conv4 = nn.Sequential(*conv(24, 16))
    plain.conv5 = nn.Sequential(*conv(16, 16), nn.MaxPool2d(2, 2))
    plain.fc1 = nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5))
    plain.fc2 = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5))
    plain.fc3 = nn.Sequential(nn.Linear(256, 10))
    torch.save(plain.state_dict(), tmp_path / "plain.pth")

    model = models.build("cifar10", width=0.0625).eval()
    model.load_state_dict(torch.load(tmp_path / "plain.pth", weights_only=True), strict=True)
    images = torch.randn(2, 3, 32, 32)
    expected = nn.Sequential(*plain.children()).eval()(images)
    assert torch.equal(model(images), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "vgg"},
        {"name": "cifar10", "width": 0.0},
        {"name": "cifar10", "width": float("nan")},
        {"name": "paper", "width": float("inf")},
        {"name": "paper", "num_classes": 0},
        {"name": "paper", "input_channels": 0},
        {"name": "torchvision", "num_classes": 0},
        {"name": "original", "width": -1.0},
    ],
)
def test_impossible_networks_are_refused(arguments):
    with pytest.raises(ValueError, match=r"vgg|width|at least 1"):
        models.build(**arguments)
