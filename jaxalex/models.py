"""The networks, as other programs use them: `build` makes one by name."""

from jaxalex.networks.alexnet import MODELS, AlexNet, AlexNetCifar10, AlexNetPaper, build

__all__ = ["MODELS", "AlexNet", "AlexNetCifar10", "AlexNetPaper", "build"]
