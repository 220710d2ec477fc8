"""``--weights``: a run that starts from the parameters in a file, and the files that none can start from."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxalex import config as config_lib
from jaxalex import convert, evaluate, models, train
from jaxalex.training import finetuning
from jaxalex.weights.safetensors import Description, save_weights

pytestmark = pytest.mark.usefixtures("small_pictures")

WIDTH = 1 / 16
FEW = ["--dataset", "digits", "--width", str(WIDTH), "--limit-train", "8", "--limit-eval", "50", "--batch-size", "4"]
# The smallest that float32 holds: two steps with it leave every parameter as it was.
STILL = ["--num-epochs", "1", "--learning-rate", "1.1755e-38", "--momentum", "0"]


@functools.cache
def _params(name: str, classes: int) -> Any:
    """Parameters of a narrow network, drawn at random."""
    model = models.build(name, classes, WIDTH)
    size = models.NETWORKS[name].image_size
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes)


def _state(name: str = "cifar10", classes: int = 10) -> dict[str, np.ndarray]:
    return convert.to_torch(_params(name, classes), name)


def _imagenet(folder: pathlib.Path) -> pathlib.Path:
    """Weights that describe themselves as torchvision's published ones do."""
    names = tuple(f"thing {number}" for number in range(1000))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    said = Description("torchvision", WIDTH, 1000, names, "imagenet", 224, 3, mean, std, resize=256)
    save_weights(folder / "imagenet.safetensors", _params("torchvision", 1000), said)
    return folder / "imagenet.safetensors"


def _arrays(run: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(run / "model.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_other_classes_and_what_the_file_says(tmp_path, capsys, monkeypatch) -> None:
    """fc3 alone is initialised; the file's normalisation is used; the run goes on when the file is gone."""
    file, run, state = tmp_path / "start.safetensors", tmp_path / "run", _state(classes=7)
    said = Description("cifar10", WIDTH, 7, tuple("abcdefg"), "seven", 32, 3, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    save_weights(file, _params("cifar10", 7), said)
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
            np.testing.assert_array_equal(arrays[key], value, key)
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


def test_a_trained_network_that_was_normalised_otherwise(tmp_path) -> None:
    """What the header says: theirs, ours, and what to do; of a run that was killed before its first checkpoint, too."""
    file = _imagenet(tmp_path)
    wanted = config_lib.TrainConfig(model="torchvision", width=WIDTH, weights=str(file))
    start = finetuning.read(wanted, tmp_path, resume=True)
    half = np.full(3, 0.5, np.float32)
    lines = finetuning.header_lines(wanted, start, [str(n) for n in range(1000)], (half, half))
    assert lines == [
        f"weights    {file} (imagenet, 1,000 classes): every layer; fc3 too, whose classes had other names",
        "note: it was trained with mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225; --normalize half gives mean "
        "0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5; --normalize weights takes the file's",
    ]
    assert len(finetuning.header_lines(wanted, start, ["a", "b"], finetuning.scale(start))) == 1
    assert start is not None
    bare = dataclasses.replace(start, description=None)
    (line,) = finetuning.header_lines(wanted, bare, ["a", "b"], (half, half))[1:]
    assert line.startswith("note: the file does not say with which mean and std it was trained; --normalize half gives")


def _broken(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Weights files that no run can start from."""
    state = _state()
    found = {}
    for name, change in {
        "missing": {"fc3.0.bias": None, "extra.weight": np.zeros(3, np.float32)},
        "nan": {"fc2.0.bias": np.full(256, np.nan, np.float32)},
        "bytes": {"fc2.0.bias": np.zeros(256, np.uint8)},
        "good": {},
    }.items():
        arrays = {key: value for key, value in {**state, **change}.items() if value is not None}
        found[name] = folder / f"{name}.safetensors"
        save_file(arrays, found[name])
    for name in ("torchvision", "paper"):
        found[name] = folder / f"{name}.safetensors"
        save_file(_state(name), found[name])
    found["none"], found["text"] = folder / "none.safetensors", folder / "text.safetensors"
    found["text"].write_text("hello")
    return found


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, capsys) -> None:
    files = _broken(tmp_path)
    described = _imagenet(tmp_path)
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


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_floating_point_type_becomes_float32(dtype: Any, tmp_path) -> None:
    state = {name: value.astype(dtype) for name, value in _state().items()}
    save_file(state, tmp_path / "bare.safetensors")
    wanted = config_lib.TrainConfig(width=WIDTH, weights=str(tmp_path / "bare.safetensors"))
    start = finetuning.read(wanted, None, False)
    assert start is not None
    kernel = start.params["fc2"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.T, state["fc2.0.weight"].astype(np.float32))


def test_a_resize_that_no_picture_can_have(tmp_path, capsys) -> None:
    file = _imagenet(tmp_path)
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    for value in ("223", "4097", "null", "[256]", "x", "9" * 5000):
        save_file(load_file(file), file, metadata | {"resize": value})
        assert evaluate.main([str(file)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {file}: its metadata has no usable 'resize': ")
        assert error.count("\n") == 1
