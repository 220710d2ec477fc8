"""``--weights``: a run that starts from PyTorch's parameters: the layers are PyTorch's, and so is the first loss."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from jaxalex import data, evaluate, train
from torch_ref import export, models

WIDTH = 1 / 16
FEW = ["--dataset", "digits", "--width", str(WIDTH), "--limit-train", "8", "--limit-eval", "50", "--batch-size", "4"]
# The smallest that float32 holds: two steps with it leave every parameter as it was.
STILL = ["--num-epochs", "1", "--learning-rate", "1.1755e-38", "--momentum", "0"]


def _network(name: str = "cifar10", classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return models.build(name, classes, width=WIDTH).eval()


def _described(folder: pathlib.Path, name: str, classes: int, *flags: str) -> tuple[pathlib.Path, dict]:
    """A .safetensors that the reference's command has made of a state dict, and the state dict."""
    state = _network(name, classes).state_dict()
    torch.save(state, folder / "start.pth")
    target = folder / "start.safetensors"
    assert export.main([str(folder / "start.pth"), str(target), *flags]) == 0
    return target, state


def _arrays(run: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(run / "model.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def _loss(network: nn.Module, size: int) -> float:
    """PyTorch's loss on the first test images, normalised to -1..1 and enlarged as the training step does it."""
    test = data.load("digits", None, 0, limit_eval=50).test
    images = torch.tensor(test.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if size != 32:
        images = nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    with torch.no_grad():
        return nn.functional.cross_entropy(network(images), torch.tensor(test.labels).long()).item()


@pytest.mark.parametrize(
    ("name", "size"),
    [("cifar10", 32), *(pytest.param(name, 224, marks=pytest.mark.slow) for name in ("original", "torchvision"))],
)
def test_a_run_starts_as_pytorchs_network(name: str, size: int, tmp_path, capsys) -> None:
    network = _network(name)
    bare = tmp_path / "bare.safetensors"
    save_file(network.state_dict(), bare)
    run = tmp_path / "run"
    flags = [*FEW, *STILL, "--model", name, "--weights", str(bare), "--workdir", str(run)]
    assert train.main(flags) == 0
    assert f"weights    {bare}: every layer\n" in capsys.readouterr().out
    arrays, _ = _arrays(run)
    assert arrays.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        np.testing.assert_array_equal(arrays[key], value.numpy(), key)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_loss"] == pytest.approx(_loss(network, size), rel=1e-6)


def test_other_classes_and_what_the_file_says(tmp_path, capsys, monkeypatch) -> None:
    """fc3 alone is initialised; the file's normalisation is used; the run goes on when the file is gone."""
    about = ["--class-names", "a,b,c,d,e,f,g", "--mean", "0.4,0.5,0.6", "--std", "0.1,0.2,0.3", "--dataset", "seven"]
    file, state = _described(tmp_path, "cifar10", 7, *about)
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)  # and a name that is stored as it is from everywhere
    flags = [*FEW, "--weights", file.name, "--normalize", "weights"]
    assert train.main([*flags, *STILL, "--workdir", str(run)]) == 0
    assert (
        f"weights    {file} (seven, 7 classes): every layer but fc3, which starts from a new torch initialisation for "
        "10 classes instead of 7\n"
    ) in capsys.readouterr().out
    arrays, metadata = _arrays(run)
    for key, value in state.items():
        if key.startswith("fc3"):
            # PyTorch's initialisation is uniform within 1/sqrt(256).
            assert arrays[key].shape == (10, *value.shape[1:])
            assert 0.9 / 16 < np.abs(arrays["fc3.0.weight"]).max() <= 1 / 16
        else:
            np.testing.assert_array_equal(arrays[key], value.numpy(), key)
    np.testing.assert_allclose(json.loads(metadata["mean"]), [0.4, 0.5, 0.6], rtol=1e-7)
    np.testing.assert_allclose(json.loads(metadata["std"]), [0.1, 0.2, 0.3], rtol=1e-7)
    assert json.loads(metadata["class_names"]) == list("0123456789")

    file.unlink()
    assert train.main(["--resume", str(run), "--weights", "other.safetensors"]) == 2
    assert f"--weights is {file} in the run, not {tmp_path / 'other.safetensors'}" in capsys.readouterr().err
    assert train.main(["--resume", str(run), "--num-epochs", "2", "--weights", file.name]) == 0
    assert f"weights    {file} was the start" in capsys.readouterr().out
    again, metadata = _arrays(run)
    np.testing.assert_array_equal(again["conv1.0.weight"], arrays["conv1.0.weight"])
    np.testing.assert_allclose(json.loads(metadata["mean"]), [0.4, 0.5, 0.6], rtol=1e-7)


def test_a_run_without_a_checkpoint_reads_the_file_again(tmp_path, capsys) -> None:
    """A process may be killed before anything of its run is saved."""
    save_file(_network().state_dict(), tmp_path / "bare.safetensors")
    run = tmp_path / "run"
    flags = [*FEW, *STILL, "--weights", str(tmp_path / "bare.safetensors")]
    from jaxalex import config

    run.mkdir()
    values = {"dataset": "digits", "width": WIDTH, "limit_train": 8, "limit_eval": 50, "batch_size": 4, "num_epochs": 1}
    values |= {"learning_rate": 1.1755e-38, "momentum": 0.0, "weights": str(tmp_path / "bare.safetensors")}
    (run / "config.json").write_text(config.to_json(config.from_recipe("baseline", values)))
    assert train.main([*flags, "--resume", str(run)]) == 0
    np.testing.assert_array_equal(_arrays(run)[0]["conv1.0.weight"], _network().state_dict()["conv1.0.weight"].numpy())
    assert "the file does not say with which mean and std" in capsys.readouterr().out


def test_a_trained_network_that_was_normalised_otherwise(tmp_path) -> None:
    """What the header says: theirs, ours, and what to do."""
    from jaxalex import config
    from jaxalex.training import finetuning

    file, _ = _described(tmp_path, "torchvision", 1000)
    wanted = config.TrainConfig(model="torchvision", width=WIDTH, weights=str(file))
    start = finetuning.read(wanted, None, False)
    half = np.full(3, 0.5, np.float32)
    lines = finetuning.header_lines(wanted, start, [str(n) for n in range(1000)], (half, half))
    assert lines == [
        f"weights    {file} (imagenet, 1,000 classes): every layer; fc3 too, whose classes had other names",
        "note: it was trained with mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225; --normalize half gives mean "
        "0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5; --normalize weights takes the file's",
    ]
    assert len(finetuning.header_lines(wanted, start, ["a", "b"], finetuning.scale(start))) == 1


def _broken(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Weights files that no run can start from."""
    state = dict(_network().state_dict())
    found = {}
    for name, change in {
        "missing": {"fc3.0.bias": None, "extra.weight": torch.zeros(3)},
        "nan": {"fc2.0.bias": torch.full((256,), float("nan"))},
        "bytes": {"fc2.0.bias": torch.zeros(256, dtype=torch.uint8)},
        "good": {},
    }.items():
        arrays = {key: value for key, value in {**state, **change}.items() if value is not None}
        found[name] = folder / f"{name}.safetensors"
        save_file(arrays, found[name])
    for name in ("torchvision", "paper"):
        found[name] = folder / f"{name}.safetensors"
        save_file(_network(name).state_dict(), found[name])
    found["none"], found["text"] = folder / "none.safetensors", folder / "text.safetensors"
    found["text"].write_text("hello")
    return found


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, capsys) -> None:
    files = _broken(tmp_path)
    described, _ = _described(tmp_path, "torchvision", 1000)
    cases = [
        ([files["none"]], "none.safetensors: no such file"),
        ([tmp_path], "is not a regular file"),
        ([files["text"]], "not a readable .safetensors file"),
        ([files["nan"]], "fc2.0.bias holds values that are not finite"),
        ([files["bytes"]], "fc2.0.bias holds U8, not floating-point numbers"),
        ([files["missing"]], "fc3.0.bias: missing; extra.weight: unknown"),
        ([files["torchvision"]], "not of the network 'cifar10': their names are of torchvision"),
        ([files["good"], "--model", "torchvision"], "their names are of cifar10, paper, original"),
        ([files["paper"]], "conv1.0.weight: expected (6, 3, 3, 3), found (6, 3, 11, 11); conv2.0.weight: expected"),
        ([files["paper"], "--model", "original"], "conv2.0.weight: expected (16, 3, 5, 5), found (16, 6, 5, 5); conv4"),
        ([files["good"], "--width", "0.1"], "conv1.0.weight: expected (6, 3, 3, 3), found (4, 3, 3, 3); conv1.0.bias"),
        ([described, "--width", "1"], "holds the network 'torchvision', not 'cifar10': give --model torchvision --wid"),
        ([files["good"], "--normalize", "weights"], "does not say with which mean and std it was trained"),
    ]
    for (file, *flags), message in cases:
        assert train.main([*FEW, "--weights", str(file), *flags, "--workdir", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith(f"error: {file}: ")
        assert error.count("\n") == 1
    assert train.main([*FEW, "--normalize", "weights", "--workdir", str(tmp_path / "run")]) == 2
    assert "give --weights FILE" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert evaluate.main([str(described), "--dataset", "digits"]) == 2
    assert "knows 1000 classes, digits has 10" in capsys.readouterr().err
    assert evaluate.main([str(described)]) == 2
    assert "was trained on imagenet, which is not here: give --dataset" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_type_becomes_float32(dtype: torch.dtype, tmp_path) -> None:
    from jaxalex import config
    from jaxalex.training import finetuning

    state = {name: value.to(dtype) for name, value in _network().state_dict().items()}
    save_file(state, tmp_path / "bare.safetensors")
    wanted = config.TrainConfig(width=WIDTH, weights=str(tmp_path / "bare.safetensors"))
    start = finetuning.read(wanted, None, False)
    assert start is not None
    kernel = start.params["fc2"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.T, state["fc2.0.weight"].float().numpy())


def test_a_resize_that_no_picture_can_have(tmp_path, capsys) -> None:
    from safetensors.numpy import load_file, save_file

    file, _ = _described(tmp_path, "torchvision", 1000)
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    for value in ("223", "4097", "null", "[256]", "x", "9" * 5000):
        save_file(load_file(file), file, metadata | {"resize": value})
        assert evaluate.main([str(file)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {file}: its metadata has no usable 'resize': ")
        assert error.count("\n") == 1
