"""Weights between .pth and .safetensors: exact, complete, and nothing let in."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_ref import export, models, train, weights

WIDTH = 0.03125
NAMES = [
    *("conv1.0.weight", "conv1.0.bias", "conv2.0.weight", "conv2.0.bias", "conv3.0.weight", "conv3.0.bias"),
    *("conv4.0.weight", "conv4.0.bias", "conv5.0.weight", "conv5.0.bias"),
    *("fc1.1.weight", "fc1.1.bias", "fc2.0.weight", "fc2.0.bias", "fc3.0.weight", "fc3.0.bias"),
]


def convert(*arguments: object) -> int:
    return export.main([str(argument) for argument in arguments])


def saved(path: Path, **changes: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = models.build(**{"name": "cifar10", "width": WIDTH, **changes}).state_dict()
    torch.save(state, path)
    return dict(state)


def parse(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A .safetensors read from its format's description: length, JSON, bytes."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    arrays = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(content[start:stop], "<f4").reshape(entry["shape"])
    return arrays, metadata


def assert_same(found: dict, expected: dict) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert np.array_equal(np.asarray(found[name]), np.asarray(value)), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    few = ["--limit-train", "40", "--limit-eval", "20", "--num-epochs", "1", "--device", "cpu"]
    run = ["--dataset", "digits", "--width", str(WIDTH), *few]
    assert train.main([*run, "--workdir", str(workdir)]) == 0
    return workdir


def test_a_trained_run_goes_there_and_back_exactly(trained, tmp_path):
    there, back = tmp_path / "there.safetensors", tmp_path / "back.pth"
    assert convert(trained / "model.pth", there) == 0
    original = torch.load(trained / "model.pth", weights_only=True)
    arrays, metadata = parse(there)
    assert_same(arrays, original)
    assert sorted(arrays) == sorted(NAMES)
    assert metadata["format"] == "jaxalex-1"
    assert (metadata["model"], metadata["dataset"]) == ("cifar10", "digits")
    values = {name: json.loads(text) for name, text in metadata.items() if name not in ("format", "model", "dataset")}
    assert values == {
        "num_classes": 10,
        "class_names": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "image_size": 32,
        "input_channels": 3,
        "width": 0.03125,
    }
    assert convert(there, back) == 0
    assert_same(torch.load(back, weights_only=True), original)


def test_a_lone_pth_is_recognised_by_its_shapes(tmp_path):
    state = saved(tmp_path / "lone.pth", name="paper", num_classes=4, input_channels=1, width=0.0123)
    target = tmp_path / "lone.safetensors"
    flags = ["--class-names", "ant, bee,cat,dog", "--mean", "0.4", "--std", "0.2", "--dataset", "zoo"]
    assert convert(tmp_path / "lone.pth", target, *flags) == 0
    arrays, metadata = parse(target)
    assert_same(arrays, state)
    assert json.loads(metadata["class_names"]) == ["ant", "bee", "cat", "dog"]
    assert (metadata["model"], metadata["dataset"], metadata["image_size"]) == ("paper", "zoo", "224")
    assert (metadata["mean"], metadata["std"]) == ("[0.4]", "[0.2]")
    again = models.build("paper", num_classes=4, input_channels=1, width=json.loads(metadata["width"]))
    again.load_state_dict(state, strict=True)


@pytest.mark.parametrize("width", [1.0, 0.3, 0.0123])
@pytest.mark.parametrize("name", ["cifar10", "paper", "original", "torchvision"])
def test_every_network_is_told_from_the_others_at_any_width(name, width):
    with torch.device("meta"):
        state = models.build(name, 7, 1, width).state_dict()
        known = weights.recognise(state)
        again = models.build(known["model"], known["num_classes"], known["input_channels"], known["width"]).state_dict()
    assert (known["model"], known["num_classes"], known["input_channels"]) == (name, 7, 1)
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in state.items()}


def test_torchvisions_weights_take_their_preprocessing_along(tmp_path, capsys):
    """The names and numbers are those of torchvision's documentation of AlexNet_Weights.IMAGENET1K_V1."""
    source, target = tmp_path / "alexnet.pth", tmp_path / "alexnet.safetensors"
    state = saved(source, name="torchvision", num_classes=1000)
    assert convert(source, target) == 0
    assert "torchvision's weights for ImageNet" in capsys.readouterr().out.splitlines()[-1]
    arrays, metadata = parse(target)
    assert_same(arrays, state)
    assert (metadata["model"], metadata["dataset"]) == ("torchvision", "imagenet")
    assert (metadata["image_size"], metadata["resize"]) == ("224", "256")
    assert (metadata["mean"], metadata["std"]) == ("[0.485, 0.456, 0.406]", "[0.229, 0.224, 0.225]")
    names = json.loads(metadata["class_names"])
    assert (len(names), names[0], names[-1]) == (1000, "tench", "toilet tissue")
    assert convert(target, tmp_path / "back.pth") == 0
    assert_same(torch.load(tmp_path / "back.pth", weights_only=True), state)
    # Whoever trained it on something else says so, and nothing is assumed.
    assert convert(source, target, "--force", "--dataset", "zoo") == 2
    assert "--class-names, --mean, --std" in one_line(capsys)
    saved(source, name="torchvision", num_classes=10)
    assert convert(source, target, "--force") == 2
    assert "--dataset" in one_line(capsys)
    assert convert(source, target, "--force", "--dataset", "cifar10", "--resize", "240") == 0
    assert parse(target)[1]["resize"] == "240"


def test_a_known_dataset_is_enough(tmp_path, capsys):
    state = saved(tmp_path / "lone.pth")
    target = tmp_path / "lone.safetensors"
    assert convert(tmp_path / "lone.pth", target) == 2
    assert "--dataset" in one_line(capsys)
    assert not target.exists()
    assert convert(tmp_path / "lone.pth", target, "--dataset", "cifar10") == 0
    _, metadata = parse(target)
    assert json.loads(metadata["class_names"])[0] == "airplane"
    again = models.build("cifar10", width=json.loads(metadata["width"]))
    again.load_state_dict(state, strict=True)


def test_half_precision_becomes_float32(tmp_path):
    state = {name: value.half() for name, value in saved(tmp_path / "a.pth").items()}
    state["fc1.1.weight"] = state["fc1.1.weight"].T.contiguous().T  # and strides become plain
    torch.save(state, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "a.safetensors", "--dataset", "cifar10") == 0
    arrays, _ = parse(tmp_path / "a.safetensors")
    assert_same(arrays, {name: value.float() for name, value in state.items()})


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    saved(tmp_path / "a.pth")
    (tmp_path / "a.safetensors").write_text("precious")
    assert convert(tmp_path / "a.pth", tmp_path / "a.safetensors", "--dataset", "cifar10") == 2
    assert "--force" in one_line(capsys)
    assert (tmp_path / "a.safetensors").read_text() == "precious"
    assert convert(tmp_path / "a.pth", tmp_path / "a.safetensors", "--dataset", "cifar10", "--force") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "a.safetensors"]


def one_line(capsys) -> str:
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    return err


class Malicious:
    """Makes the folder at ``path`` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_a_malicious_pickle_does_not_run(kind, tmp_path, capsys):
    path, sign = tmp_path / "bad.pth", tmp_path / "it-ran"
    content = {**saved(path), "conv1.0.weight": Malicious(sign)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Malicious(sign)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    assert convert(path, tmp_path / "out.safetensors", "--dataset", "cifar10") == 2
    assert "bad.pth" in one_line(capsys)
    assert not sign.exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_all_that_does_not_fit_is_listed(tmp_path, capsys):
    state = saved(tmp_path / "a.pth")
    del state["conv2.0.bias"], state["fc2.0.weight"]
    state["extra.weight"] = torch.zeros(3)
    state["conv4.0.weight"] = state["conv4.0.weight"].transpose(0, 1)
    state["conv3.0.bias"] = state["conv3.0.bias"].int()
    torch.save(state, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "out.safetensors", "--dataset", "cifar10") == 2
    line = one_line(capsys)
    assert "conv2.0.bias: missing, expected (8,)" in line
    assert "fc2.0.weight: missing, expected (128, 128)" in line
    assert "extra.weight: not expected, found (3,)" in line
    assert "conv4.0.weight: expected (8, 12, 3, 3), found (12, 8, 3, 3)" in line
    assert "conv3.0.bias: expected real numbers" in line
    assert line.count("expected") == 5


def test_weights_of_another_network_are_refused(tmp_path, capsys):
    saved(tmp_path / "a.pth")
    flags = ["--dataset", "cifar10", "--model", "paper"]
    assert convert(tmp_path / "a.pth", tmp_path / "out.safetensors", *flags) == 2
    line = one_line(capsys)
    assert "conv1.0.weight: expected" in line
    assert "11, 11" in line


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights", b"PK\x03\x04 cut off", pickle.dumps([1, 2]), pickle.dumps({"epoch": 3})],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_no_weights_are_refused(content, suffix, tmp_path, capsys):
    source = tmp_path / f"a{suffix}"
    source.write_bytes(content)
    target = tmp_path / ("b.safetensors" if suffix == ".pth" else "b.pth")
    assert convert(source, target, "--dataset", "cifar10") == 2
    assert source.name in one_line(capsys)
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "value"),
    [("model", "vgg"), ("width", "nan"), ("num_classes", "11"), ("class_names", "7"), ("mean", "["), ("resize", "31")],
)
def test_damaged_metadata_is_refused(change, value, trained, tmp_path, capsys):
    from safetensors.numpy import save_file

    assert convert(trained / "model.pth", tmp_path / "a.safetensors") == 0
    capsys.readouterr()
    arrays, metadata = parse(tmp_path / "a.safetensors")
    save_file(arrays, tmp_path / "b.safetensors", {**metadata, change: value})
    assert convert(tmp_path / "b.safetensors", tmp_path / "b.pth") == 2
    assert "damaged" in one_line(capsys)


def test_misuse_is_told_in_one_line(tmp_path, capsys):
    saved(tmp_path / "a.pth")
    assert convert(tmp_path / "no.pth", tmp_path / "b.safetensors") == 2
    assert "no.pth" in one_line(capsys)
    assert convert(tmp_path / "a.pth", tmp_path / "b.pth") == 2
    assert ".safetensors" in one_line(capsys)
    assert convert(tmp_path / "a.pth", tmp_path / "nowhere" / "b.safetensors", "--dataset", "cifar10") == 2
    assert "nowhere" in one_line(capsys)
    flags = ["--dataset", "cifar10", "--class-names", "one,two"]
    assert convert(tmp_path / "a.pth", tmp_path / "b.safetensors", *flags) == 2
    assert "10 classes" in one_line(capsys)
    with pytest.raises(SystemExit) as stop:
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", "--mean", "half")
    assert stop.value.code == 2
    assert "--mean" in one_line(capsys)
