"""``python -m torch_ref.export A.pth B.safetensors``, and back: weights between the two kinds of file."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_ref.cli import Parser, UsageError, exit_code, integer, number, run_as_command
from torch_ref.config import MODELS

PROG = "python -m torch_ref.export"


def parser() -> Parser:
    """The command's arguments."""
    result = Parser(
        prog=PROG,
        description="Convert weights from .pth to .safetensors or back; the suffixes say which way.",
        epilog="Exit codes: 0 done, 1 failed while running, 2 bad input.",
    )
    result.add_argument("source", type=Path, help="the file to read, .pth or .safetensors")
    result.add_argument("target", type=Path, help="the file to write, of the other kind")
    result.add_argument("--force", action="store_true", help="replace the target if it exists")
    group = result.add_argument_group(
        "what the .safetensors says of the weights",
        "Taken from the config.json beside the .pth where torch_ref.train left one, and from names and shapes. "
        "For a lone .pth, --dataset cifar10 or digits gives class names and normalisation, --dataset imagenet those "
        "of torchvision's published weights and their preprocessing. 1000 classes under torchvision's names are taken "
        "for these.",
    )
    add = group.add_argument
    add("--model", choices=MODELS, help="default: the one that names and kernels fit")
    add("--width", type=number(positive=True, at_most=16), metavar="X", help="factor on all hidden sizes")
    add("--dataset", metavar="NAME", help="what it was trained on: cifar10, digits, imagenet, or another name")
    add("--class-names", type=_names, metavar="A,B,...", help="in the order of the logits")
    add("--mean", type=_numbers, metavar="X,...", help="subtracted, one a channel, on the 0..1 scale")
    add("--std", type=_numbers, metavar="X,...", help="then divided by, one a channel")
    add("--image-size", type=integer(1), metavar="N", help="height and width of the images, in pixels")
    add("--resize", type=integer(1), metavar="N", help="scale a picture's shorter side to N, then cut out the centre")
    return result


def convert(source: Path, target: Path, force: bool = False, given: dict[str, Any] | None = None) -> None:
    """Reads ``source``, checks that it is a whole network, and writes it as ``target``.

    Args:
      source, target: one ``.pth``, one ``.safetensors``.
      force: replace an existing ``target``.
      given: values for the metadata, which come before those of the source.

    Raises:
      UsageError: for unreadable or unfitting weights, metadata that is not known, or a target that exists.
    """
    from torch_ref import weights

    if {source.suffix, target.suffix} != {".pth", ".safetensors"}:
        raise UsageError(f"one file must be .pth and the other .safetensors, got {source} and {target}")
    if target.exists() and not force:
        raise UsageError(f"{target} exists: --force replaces it")
    if target.is_dir():
        raise UsageError(f"{target} is a folder")
    if not target.parent.is_dir():
        raise UsageError(f"no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"the folder {target.parent} cannot be written to")
    given = {name: value for name, value in (given or {}).items() if value is not None}
    assumed = False
    if source.suffix == ".pth":
        arrays = weights.read_pth(source)
        known = {**weights.recognise(arrays), **_beside(source), **given}
        assumed = _published(known)
        metadata = _complete({"dataset": "imagenet", **known} if assumed else known, source)
        _check(arrays, metadata, source)
        weights.write_safetensors(arrays, metadata, target)
    else:
        arrays, metadata = weights.read_safetensors(source)
        known = {**weights.recognise(arrays), **metadata, **given}
        _check(arrays, _architecture(known, source), source)
        weights.write_pth(arrays, target)
    print(f"{source} -> {target}: {sum(a.numel() for a in arrays.values()):,} parameters")
    if assumed:
        print(
            "note: described as torchvision's weights for ImageNet, with their preprocessing; --dataset says otherwise"
        )


def _check(arrays: Any, metadata: dict[str, Any], source: Path) -> None:
    from torch_ref import weights

    try:
        weights.check(arrays, metadata)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with the arguments ``argv`` (None: those of the process).

    Returns:
      The exit code: 0 done, 1 failed while running, 2 bad input.

    Raises:
      SystemExit: for arguments that can't be read (code 2), and after ``--help`` (code 0).
    """
    given = vars(parser().parse_args(argv))
    source, target, force = given.pop("source"), given.pop("target"), given.pop("force")
    return exit_code(PROG, lambda: convert(source, target, force, given))


def _beside(pth: Path) -> dict[str, Any]:
    """The metadata in the ``config.json`` of the run that ``pth`` belongs to, if it lies in one."""
    from torch_ref import weights

    path = pth.parent / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict) or "metadata" not in config:
        return {}  # another program's
    if not isinstance(config["metadata"], dict):
        raise UsageError(f"the metadata in {path} is damaged: not an object")
    return weights.checked(config["metadata"], path)


def _published(known: dict[str, Any]) -> bool:
    """Whether weights of which this is known can be taken for those that torchvision publishes."""
    undescribed = "dataset" not in known and "class_names" not in known
    return undescribed and (known.get("model"), known.get("num_classes")) == ("torchvision", 1000)


def _architecture(known: dict[str, Any], source: Path) -> dict[str, Any]:
    """``known`` with the network's own size where no width fits, so that the comparison can list the rest."""
    if "model" not in known:
        raise UsageError(
            f"{source}: holds neither features.0.weight (torchvision) nor a conv1.0.weight that fits a network here "
            "(11x11 paper and original, 3x3 cifar10): give --model to see all that differs"
        )
    return {"width": 1.0, "input_channels": 3, "num_classes": 10, **known}


def _complete(known: dict[str, Any], source: Path) -> dict[str, Any]:
    """All the metadata that a file needs, from what is known of the weights."""
    from torch_ref import weights

    known = _architecture(known, source)
    if known.get("dataset") in weights.CLASS_NAMES:
        half = [0.5] * known["input_channels"]
        known = {"class_names": weights.CLASS_NAMES[known["dataset"]], "mean": half, "std": half, **known}
    elif known.get("dataset") == "imagenet":
        known = {**weights.imagenet(), **known}
    missing = [flag for flag in ("class_names", "mean", "std") if flag not in known]
    if missing:
        flags = ", ".join("--" + flag.replace("_", "-") for flag in missing)
        raise UsageError(f"{source} doesn't say what it was trained on: give --dataset, or {flags}")
    if len(known["class_names"]) != known["num_classes"]:
        raise UsageError(
            f"{source} has {known['num_classes']} classes, but there are "
            f"{len(known['class_names'])} class names: give --class-names"
        )
    if not len(known["mean"]) == len(known["std"]) == known["input_channels"]:
        raise UsageError(f"{source} takes {known['input_channels']} channels: --mean and --std need as many numbers")
    metadata = weights.metadata_of(
        known["model"],
        known.get("dataset", "custom"),
        known["class_names"],
        known.get("image_size", weights.IMAGE_SIZES[known["model"]]),
        known["width"],
        known["mean"],
        known["std"],
        known.get("resize"),
    )
    wrong = weights.out_of_range(metadata)
    if wrong:
        raise UsageError(f"{source}: {wrong} (see --help for the flag)")
    return metadata


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _numbers(text: str) -> list[float]:
    try:
        return [number()(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between: {error}") from None


if __name__ == "__main__":
    run_as_command(main)
