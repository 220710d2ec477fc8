"""The networks, as other programs use them: `build` makes one by name, `NETWORKS` lists them."""

from jaxalex.networks.alexnet import (
    AlexNet,
    AlexNetCifar10,
    AlexNetOriginal,
    AlexNetPaper,
    AlexNetTorchvision,
    build,
)
from jaxalex.networks.tables import NETWORKS

__all__ = ["NETWORKS", "AlexNet", "AlexNetCifar10", "AlexNetOriginal", "AlexNetPaper", "AlexNetTorchvision", "build"]
