"""Weights of PyTorch's in the JAX program: the same pixels, logits, first class and first loss as PyTorch's."""

from __future__ import annotations

import json
import os
import pathlib
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import transforms
from torchvision.models import AlexNet_Weights

from jaxalex import data, predict, train
from jaxalex.predict import read_picture
from jaxalex.training import pretrained, steps
from torch_ref import export, models

WIDTH = 1 / 16


def _photographs(folder: pathlib.Path) -> list[pathlib.Path]:
    """Real ones, where there are some, and made-up ones: enlarged, reduced, wide, tall, and hardly a strip."""
    found = pathlib.Path(os.environ.get("JAXALEX_DATA_DIR", folder)) / "imagenette-224" / "val"
    paths = sorted(found.glob("*/*.JPEG"))[::125]
    rng = np.random.default_rng(0)
    for height, width in [(256, 256), (700, 1001), (1203, 640), (90, 131), (224, 640), (3, 700), (1023, 1)]:
        # Noise in squares of a few pixels has edges as well as areas.
        coarse = rng.integers(0, 256, (-(-height // 3), -(-width // 3), 3), dtype=np.uint8)
        path = folder / f"{height}x{width}.png"
        Image.fromarray(np.kron(coarse, np.ones((3, 3, 1), np.uint8))[:height, :width]).save(path)
        paths.append(path)
    return paths


def test_pictures_for_imagenets_weights_are_torchvisions_bit_for_bit(tmp_path) -> None:
    bilinear = transforms.InterpolationMode.BILINEAR
    paths = _photographs(tmp_path)
    for size, resize in [(224, 256), (224, 224), (63, 70)]:
        prepare = transforms.Compose([transforms.Resize(resize, bilinear), transforms.CenterCrop(size)])
        for path in paths:
            with Image.open(path) as picture:
                expected = np.asarray(prepare(picture.convert("RGB")))
            np.testing.assert_array_equal(read_picture(path, size, 3, resize), expected, str(path))


@pytest.mark.parametrize("width", [1 / 16, pytest.param(1.0, marks=pytest.mark.slow)])
def test_torchvisions_weights_from_end_to_end(width: float, tmp_path, capsys) -> None:
    """From the .pth that torchvision's own network loads to the same logits and the same first class."""
    torch.manual_seed(0)
    network = models.build("torchvision", 1000, width=width).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.5)  # as they start, all logits are nearly equal
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    weights = tmp_path / "alexnet.safetensors"
    assert export.main([str(tmp_path / "alexnet.pth"), str(weights)]) == 0

    paths = _photographs(tmp_path)[:6]
    published = AlexNet_Weights.IMAGENET1K_V1
    prepare = published.transforms()
    with torch.no_grad():
        pictures = torch.stack([prepare(Image.open(path).convert("RGB")) for path in paths])
        expected = network(pictures).numpy()

    loaded = pretrained.load(weights, "cpu")
    d = loaded.description
    images = np.stack([read_picture(path, d.image_size, d.input_channels, d.resize) for path in paths])
    data = {"image": images, "label": np.zeros(len(paths), np.int32)}
    _, logits = steps.eval_step(loaded.state, data, np.arange(len(paths), dtype=np.int32))
    assert expected.std(axis=0).max() > 0.1, "the pictures make a difference"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())

    capsys.readouterr()
    assert predict.main([str(weights), "--top", "1", *map(str, paths)]) == 0
    shares = torch.tensor(expected).softmax(dim=1)
    first = [f"{100 * row.max():6.2f}%  {published.meta['categories'][row.argmax()]}" for row in shares]
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[1::2]] == [line.strip() for line in first]


def test_a_bare_state_dict_of_torchvisions(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    network = models.build("torchvision", 1000, width=1 / 16).eval()
    bare = tmp_path / "bare.safetensors"
    save_file(network.state_dict(), bare)
    path = _photographs(tmp_path)[-6]
    with torch.no_grad(), Image.open(path) as picture:
        best = int(network(AlexNet_Weights.IMAGENET1K_V1.transforms()(picture)[None]).argmax())
    assert predict.main([str(bare), str(path), "--model", "torchvision", "--width", "0.0625", "--top", "1"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(rf".*: *\d+\.\d\d%  class {best}", captured.out.replace("\n", ""))
    assert re.fullmatch(rf"note: {bare} does not describe itself: .* ImageNet .* numbered\n", captured.err)
    assert predict.main([str(bare), str(path)]) == 2
    assert capsys.readouterr().err.endswith("give --model --dataset --normalize\n")
    save_file(models.build("torchvision", 10, width=1 / 16).state_dict(), bare)
    assert predict.main([str(bare), str(path), "--model", "torchvision", "--width", "0.0625"]) == 2
    assert capsys.readouterr().err.endswith("give --dataset --normalize\n")


def _loss(network: nn.Module, size: int) -> float:
    """PyTorch's loss on the first test images, normalised to -1..1 and enlarged as the training step does it."""
    test = data.load("digits", None, 0, limit_eval=50).test
    images = torch.tensor(test.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if size != 32:
        images = nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    with torch.no_grad():
        return nn.functional.cross_entropy(network(images), torch.tensor(test.labels).long()).item()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("cifar10", 32), ("original", 224), ("torchvision", 224)])
def test_a_run_starts_as_pytorchs_network(name: str, size: int, tmp_path, capsys) -> None:
    torch.manual_seed(0)
    network = models.build(name, 10, width=WIDTH).eval()
    bare = tmp_path / "bare.safetensors"
    save_file(network.state_dict(), bare)
    run = tmp_path / "run"
    flags = ["--dataset", "digits", "--limit-train", "8", "--limit-eval", "50", "--batch-size", "4"]
    # The smallest learning rate that float32 holds: two steps with it leave every parameter as it was.
    flags += ["--num-epochs", "1", "--learning-rate", "1.1755e-38", "--momentum", "0"]
    flags += ["--model", name, "--width", str(WIDTH), "--weights", str(bare), "--workdir", str(run)]
    assert train.main(flags) == 0
    assert f"weights    {bare}: every layer\n" in capsys.readouterr().out
    arrays = load_file(run / "model.safetensors")
    assert arrays.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        assert torch.equal(arrays[key], value), key
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_loss"] == pytest.approx(_loss(network, size), rel=1e-6)
