"""Weights in files: PyTorch's ``.pth`` and ``.safetensors``, always under PyTorch's names.

A ``.pth`` is only ever read with ``weights_only=True``: a pickle that would build anything but tensors and
plain containers is refused, and does not run.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from torch_ref import models
from torch_ref.cli import UsageError

Arrays = dict[str, torch.Tensor]
Metadata = dict[str, Any]

FORMAT = "jaxalex-1"
MAX_WIDTH = 16
_REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
IMAGE_SIZES = {"cifar10": 32, "paper": 224, "original": 224, "torchvision": 224}
CLASS_NAMES = {
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "digits": tuple("0123456789"),
}


def imagenet() -> Metadata:
    """What goes along with torchvision's published weights: ``class_names``, ``mean``, ``std``, ``resize``."""
    from torchvision.models import AlexNet_Weights

    published = AlexNet_Weights.IMAGENET1K_V1
    pictures = published.transforms()
    return {
        "class_names": published.meta["categories"],
        "mean": pictures.mean,
        "std": pictures.std,
        "resize": pictures.resize_size[0],
    }


def metadata_of(
    model: str,
    dataset: str,
    class_names: Sequence[str],
    image_size: int,
    width: float,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    resize: int | None = None,
) -> Metadata:
    """All that a weights file says beside its arrays, as JSON values.

    Args:
      class_names: one a class, in the order of the logits.
      image_size: height and width of the images, in pixels.
      mean, std: one a channel, on the 0..1 scale; the network is fed ``(image - mean) / std``.
      resize: what a picture's shorter side is scaled to before its centre is cut out, in pixels; None says nothing.
    """
    optional = {} if resize is None else {"resize": int(resize)}
    return optional | {
        "format": FORMAT,
        "model": model,
        "num_classes": len(class_names),
        "input_channels": len(mean),
        "width": float(width),
        "image_size": int(image_size),
        "dataset": dataset,
        "class_names": [str(name) for name in class_names],
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }


def read_pth(path: Path) -> Arrays:
    """The state dict in a ``.pth``, on the CPU.

    Raises:
      UsageError: when it can't be read, holds more than tensors, or holds no state dict.
    """
    _refuse_no_file(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # PyTorch compresses nothing: what unpacks to more than the file is a bomb.
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise UsageError(f"{path} is not a file of weights alone, and was not loaded: it is compressed")
        with warnings.catch_warnings(action="ignore"):  # of the pickle's version
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except Exception as error:  # what a damaged file raises depends on where the damage is
        # In our own words: PyTorch's advise to load it all the same, and to run what is in it.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else "it is damaged, or torch.save did not write it"
        raise UsageError(f"{path} is not a file of weights alone, and was not loaded: {reason}") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{path} holds no state dict: save model.state_dict()")
    alien = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if alien:
        raise UsageError(f"{path} holds no plain state dict: not tensors: {', '.join(alien)}")
    hollow = [str(name) for name, value in content.items() if not _holds_its_numbers(value)]
    if hollow:
        raise UsageError(f"{path} is damaged: fewer numbers than their shapes say: {', '.join(hollow)}")
    return content


def _refuse_no_file(path: Path) -> None:
    if not path.is_file():  # a pipe or device would never end
        raise UsageError(f"{path} is no regular file" if path.exists() else f"no file {path}")


def _holds_its_numbers(value: torch.Tensor) -> bool:
    """Whether a tensor is laid out plainly: with strides of 0, a few bytes could stand for terabytes."""
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def write_pth(arrays: Mapping[str, torch.Tensor], path: Path) -> None:
    """Saves a state dict as a ``.pth``, on the CPU; an older file is replaced once the new one is complete."""
    with _replacing(path) as file:
        torch.save({name: value.detach().cpu() for name, value in arrays.items()}, file)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name once it is complete; until then, one that nobody can have put a link in place of."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    with partial.open("xb") as file:
        try:
            yield file
            file.close()
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def read_safetensors(path: Path) -> tuple[Arrays, Metadata]:
    """Arrays and metadata of a ``.safetensors``; metadata is empty where the file has none of ours.

    Raises:
      UsageError: when it can't be read.
    """
    from safetensors import SafetensorError, safe_open

    _refuse_no_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            strings = file.metadata() or {}
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        raise UsageError(f"{path} is not a readable safetensors file: {error}") from error
    if strings.get("format") != FORMAT:
        return arrays, {}
    values: Metadata = dict(strings)
    try:
        for name in ("num_classes", "input_channels", "width", "image_size", "class_names", "mean", "std", "resize"):
            values[name] = json.loads(strings.get(name, "null"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the metadata of {path} is damaged: {error}") from error
    return arrays, checked(values, path)


def checked(metadata: Mapping[str, Any], path: Path) -> Metadata:
    """Metadata read from ``path``, after every value in it was checked.

    Raises:
      UsageError: a value is missing or of the wrong kind.
    """
    names = ("model", "dataset", "class_names", "image_size", "width", "mean", "std")
    try:
        result = metadata_of(**{name: metadata[name] for name in names}, resize=metadata.get("resize"))
        _shapes(result["model"], result["num_classes"], result["input_channels"], result["width"])
        wrong = out_of_range(result)
    except Exception as error:  # there is no telling what a stranger's values lead to
        raise UsageError(f"the metadata in {path} is damaged: {error!r}") from error
    if any(metadata.get(name) != result[name] for name in result):
        raise UsageError(f"the metadata in {path} is damaged: it contradicts itself")
    if wrong:
        raise UsageError(f"the metadata in {path} is damaged: {wrong}")
    return result


def out_of_range(metadata: Metadata) -> str | None:
    """The first value that no weights file may have, for people; None where all of them can be used.

    Args:
      metadata: from ``metadata_of``.
    """
    float32 = torch.finfo(torch.float32)
    smallest: int = metadata["image_size"]
    resize = metadata.get("resize", smallest)
    limits: dict[str, tuple[bool, str]] = {
        "width": (0 < metadata["width"] <= MAX_WIDTH, f"above 0 and at most {MAX_WIDTH}"),
        "num_classes": (1 <= metadata["num_classes"] <= 100_000, "from 1 to 100000"),
        "input_channels": (metadata["input_channels"] in (1, 3), "1 or 3"),
        "image_size": (1 <= metadata["image_size"] <= 4096, "from 1 to 4096"),
        "resize": (smallest <= resize <= 4096, f"from the image size, {smallest}, to 4096"),
        "dataset": (metadata["dataset"].isprintable(), "printable"),
        "class_names": (all(name.isprintable() for name in metadata["class_names"]), "printable"),
        "mean": (all(abs(x) <= float32.max for x in metadata["mean"]), "finite in float32"),
        "std": (
            all(float32.tiny <= x <= float32.max for x in metadata["std"]),
            f"from {float32.tiny:.3g} to {float32.max:.3g}, as pixels are divided by it in float32",
        ),
    }
    for name, (good, wanted) in limits.items():
        if not good:
            return f"{name} must be {wanted}, not {metadata[name]!r}"
    return None


def write_safetensors(arrays: Mapping[str, torch.Tensor], metadata: Metadata, path: Path) -> None:
    """Saves arrays as float32 with ``metadata`` (see ``metadata_of``), each value as a string."""
    from safetensors.torch import save

    # Copies: the library refuses tensors that share their memory.
    tensors = {name: value.detach().float().clone().contiguous() for name, value in arrays.items()}
    strings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    with _replacing(path) as file:
        file.write(save(tensors, strings))  # save_file would keep others from reading it


def recognise(arrays: Mapping[str, torch.Tensor]) -> Metadata:
    """Recognises the network by the names and shapes of its arrays.

    Returns:
      As many of ``model``, ``num_classes``, ``input_channels`` and ``width`` as they determine.
    """
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    by_torchvision = "features.0.weight" in shapes
    first = shapes.get("features.0.weight" if by_torchvision else "conv1.0.weight", ())
    last = shapes.get("classifier.6.weight" if by_torchvision else "fc3.0.weight", ())
    second = shapes.get("conv2.0.weight", ())
    known: Metadata = {"model": "torchvision"} if by_torchvision else {}
    if len(first) == 4:
        known["input_channels"] = first[1]
        if first[2:] == (3, 3) and not by_torchvision:
            known["model"] = "cifar10"
        elif first[2:] == (11, 11) and not by_torchvision:
            # In two towers a kernel of conv2 sees half of conv1's channels.
            known["model"] = "original" if len(second) == 4 and 2 * second[1] == first[0] else "paper"
        width = _width(shapes, known["model"]) if "model" in known else None
        if width is not None:
            known["width"] = width
    if len(last) == 2:
        known["num_classes"] = last[0]
    return known


def check(arrays: Mapping[str, torch.Tensor], metadata: Metadata) -> None:
    """Makes sure that the arrays are exactly the parameters of the network in ``metadata``.

    Raises:
      UsageError: lists every array that is missing, not expected, of another shape, or not of real numbers that are
        finite in float32; or the images' size does not fit the network.
    """
    expected = _shapes(metadata["model"], metadata["num_classes"], metadata["input_channels"], metadata["width"])
    found = {name: tuple(value.shape) for name, value in arrays.items()}
    problems = [f"{name}: missing, expected {shape}" for name, shape in expected.items() if name not in found]
    for name, shape in found.items():
        if name not in expected:
            problems.append(f"{name}: not expected, found {shape}")
        elif shape != expected[name]:
            problems.append(f"{name}: expected {expected[name]}, found {shape}")
        if arrays[name].dtype not in _REAL:
            problems.append(f"{name}: expected real numbers of 16 bits or more, found {arrays[name].dtype}")
        elif not torch.isfinite(arrays[name]).all():
            problems.append(f"{name}: holds values that are not finite")
        elif not torch.isfinite(arrays[name].float()).all():
            problems.append(f"{name}: holds values beyond the range of float32")
    if not problems and "image_size" in metadata and not _takes_images(metadata):
        problems.append(f"images of {metadata['image_size']}x{metadata['image_size']} do not fit its first dense layer")
    if problems:
        network = f"{metadata['model']} at width {metadata['width']:g}, {metadata['num_classes']} classes"
        raise UsageError(f"not the weights of {network}: {'; '.join(problems)}")


def _shapes(model: str, num_classes: int, input_channels: int, width: float) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes alone: no memory is taken
        network = models.build(model, num_classes, input_channels, width)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _takes_images(metadata: Metadata) -> bool:
    size = metadata["image_size"]
    with torch.device("meta"):
        network = models.build(*(metadata[name] for name in ("model", "num_classes", "input_channels", "width"))).eval()
        try:
            network(torch.empty(1, metadata["input_channels"], size, size))
        except RuntimeError:  # of shapes: nothing is computed
            return False
    return True


def _width(shapes: Mapping[str, tuple[int, ...]], model: str) -> float | None:
    """The roundest width factor that gives every hidden layer its number of channels or units."""
    low, high = 0.0, math.inf
    for name, published in _shapes(model, 1, 1, 1.0).items():
        if (
            name in shapes
            and shapes[name]
            and name.endswith("bias")
            and name not in ("fc3.0.bias", "classifier.6.bias")
        ):
            # The original's convolutions are made of two parts of equal size.
            parts = 2 if model == "original" and name.startswith("conv") else 1
            count = shapes[name][0]
            low = max(low, 0.0 if count == parts else (count - parts / 2) / published[0])
            high = min(high, (count + parts / 2) / published[0])
    if not low < high < math.inf:
        return None
    for digits in range(1, 8):
        width = round((low + high) / 2, digits)
        if low < width < high:
            return width
    return (low + high) / 2
