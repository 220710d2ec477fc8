"""The options of a training run."""

from __future__ import annotations

import dataclasses

MODELS = ("cifar10", "paper", "original", "torchvision")


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of a run; the defaults are the plain PyTorch job.

    Attributes:
      model: one of ``MODELS``.
      width: factor on every hidden channel and unit count, above 0.
      softmax_in_network: the classic mistake, for comparison: a softmax before the cross-entropy.
      dataset: ``"cifar10"`` or ``"digits"``.
      data_dir: folder that holds ``cifar-10-batches-py/``.
      limit_train: use the first so many images of the shuffled train split.
      limit_eval: use the first so many images of the eval split and of the test set.
      batch_size: images a step; an epoch's last batch may be smaller.
      num_epochs: passes over the train split.
      learning_rate: SGD's, above 0.
      momentum: SGD's, in ``[0, 1)``.
      weight_decay: SGD's, added to the gradient (L2), at least 0.
      seed: of parameters, dropout, split and shuffling, in ``[0, 2**32)``.
      device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
    """

    model: str = "cifar10"
    width: float = 1.0
    softmax_in_network: bool = False
    dataset: str = "cifar10"
    data_dir: str | None = None
    limit_train: int | None = None
    limit_eval: int | None = None
    batch_size: int = 32
    num_epochs: int = 20
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    seed: int = 0
    device: str = "auto"
