"""Images to train on: torchvision's CIFAR-10, or scikit-learn's digits at the same size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, random_split
from torchvision import datasets, transforms
from torchvision.datasets.utils import check_integrity

from torch_ref.cli import UsageError

# On the 0..1 scale of ToTensor, one number a channel: images come out in -1..1.
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


class Digits(Dataset[Any]):
    """scikit-learn's 1,797 handwritten digits as 32x32 RGB pictures, used like a torchvision data set.

    The 8x8 originals hold 0..16, which becomes ``round(value * 255 / 16)``; PIL enlarges them bilinearly.

    Args:
      train: the 1,437 digits to train on, or the 360 to test with. Which they are never changes.
      transform: applied to each PIL image.
    """

    classes = tuple("0123456789")

    def __init__(self, train: bool, transform: Any = None) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
        # RandomState's stream never changes (NEP 19), so the test set is the same everywhere.
        order = np.random.RandomState(0).permutation(len(pixels))
        chosen = order[360:] if train else order[:360]
        self.images = [
            Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR).convert("RGB")
            for image in pixels[chosen]
        ]
        self.targets = digits.target[chosen].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image: Any = self.images[index]
        if self.transform is not None:
            image = self.transform(image)
        return image, self.targets[index]


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data set, ready for a ``DataLoader``: items are ``(float32 [3, size, size], label)``."""

    train: Subset[Any]
    eval: Subset[Any]
    test: Subset[Any]
    class_names: Sequence[str]


def load(
    name: str,
    data_dir: str | Path | None = None,
    image_size: int = 32,
    seed: int = 0,
    limit_train: int | None = None,
    limit_eval: int | None = None,
) -> Splits:
    """Reads a data set and splits its training images 80/20 into train and eval.

    Args:
      name: ``"cifar10"`` or ``"digits"``.
      data_dir: folder that holds ``cifar-10-batches-py/``; the digits need none.
      image_size: height and width of the images; 32 leaves them as they are.
      seed: decides the split.
      limit_train: keep the first so many of the shuffled train split.
      limit_eval: keep the first so many of eval and of test.

    Raises:
      UsageError: when CIFAR-10 is not in ``data_dir`` or a file of it is damaged, or for an unknown name.
    """
    steps: list[Any] = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if image_size != 32:
        steps.insert(0, transforms.Resize((image_size, image_size)))
    transform = transforms.Compose(steps)
    if name == "cifar10":
        full, test = _cifar10(data_dir, transform)
    elif name == "digits":
        full, test = Digits(train=True, transform=transform), Digits(train=False, transform=transform)
    else:
        raise UsageError(f"unknown dataset {name!r}: there are 'cifar10' and 'digits'")
    eval_size = -(-len(full) // 5)  # a fifth, rounded up
    generator = torch.Generator().manual_seed(seed)
    train, evaluation = random_split(full, [len(full) - eval_size, eval_size], generator=generator)
    return Splits(
        train=_first(train, limit_train),
        eval=_first(evaluation, limit_eval),
        test=_first(test, limit_eval),
        class_names=tuple(full.classes),
    )


def _first(dataset: Any, limit: int | None) -> Subset[Any]:
    return Subset(dataset, range(len(dataset))[:limit])


def _cifar10(data_dir: str | Path | None, transform: Any) -> tuple[Any, Any]:
    """torchvision's CIFAR-10, training and test images, from what lies in ``data_dir``."""
    if data_dir is None:
        raise UsageError(
            "no data folder: give --data-dir or set JAXALEX_DATA_DIR to the folder that holds "
            "cifar-10-batches-py, or take --dataset digits, which needs none"
        )
    source = datasets.CIFAR10
    folder = Path(data_dir) / source.base_folder
    if not folder.is_dir():
        raise UsageError(
            f"no CIFAR-10 in {data_dir}: it must hold the folder {source.base_folder} "
            "(unpacked from cifar-10-python.tar.gz)"
        )
    # torchvision checks every file's MD5 before it unpickles any, but doesn't say which one is at fault.
    checksums = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    bad = [name for name, md5 in checksums if not check_integrity(folder / name, md5)]
    if bad:
        raise UsageError(f"missing or damaged (MD5 differs) in {folder}: {', '.join(bad)}")
    return (
        source(data_dir, train=True, transform=transform, download=False),
        source(data_dir, train=False, transform=transform, download=False),
    )
