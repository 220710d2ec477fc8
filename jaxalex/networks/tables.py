"""The networks as tables: every layer, in the order in which it is computed.

`NETWORKS` is the one list of networks. It is plain Python, so that commands can offer its names without loading JAX.
``docs/variants.md`` says how they differ, with the source of every difference.
"""

from __future__ import annotations

import dataclasses

from jaxalex.networks.rows import (
    LRN,
    AdaptiveAvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layers,
    Logits,
    Pool,
    ReLU,
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A published network.

    Attributes:
      name: by which commands and files know it.
      layers: the table.
      image_size: height and width in pixels of the images it was published for.
      num_classes: the published number.
    """

    name: str
    layers: Layers
    image_size: int
    num_classes: int


# Krizhevsky et al. 2012 in one tower, without grouped convolutions and without local response normalisation.
PAPER = Network(
    name="paper",
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, padding=2),
        ReLU("relu1"),
        Pool("pool1", kernel=3, stride=2),
        Conv("conv2", 256, kernel=5, padding=2),
        ReLU("relu2"),
        Pool("pool2", kernel=3, stride=2),
        Conv("conv3", 384, kernel=3, padding=1),
        ReLU("relu3"),
        Conv("conv4", 384, kernel=3, padding=1),
        ReLU("relu4"),
        Conv("conv5", 256, kernel=3, padding=1),
        ReLU("relu5"),
        Pool("pool3", kernel=3, stride=2),
        Flatten(),
        Dense("fc1", 4096),
        ReLU("relu6"),
        Dropout("drop1", rate=0.5),
        Dense("fc2", 4096),
        ReLU("relu7"),
        Dropout("drop2", rate=0.5),
        Logits("fc3"),
    ),
    image_size=224,
    num_classes=1000,
)

CIFAR10 = Network(
    name="cifar10",
    layers=(
        Conv("conv1", 64, kernel=3, padding=1),
        ReLU("relu1"),
        Pool("pool1", kernel=2, stride=2),
        Conv("conv2", 256, kernel=3, padding=1),
        ReLU("relu2"),
        Pool("pool2", kernel=2, stride=2),
        Conv("conv3", 384, kernel=3, padding=1),
        ReLU("relu3"),
        Conv("conv4", 256, kernel=3, padding=1),
        ReLU("relu4"),
        Conv("conv5", 256, kernel=3, padding=1),
        ReLU("relu5"),
        Pool("pool3", kernel=2, stride=2),
        Flatten(),
        Dense("fc1", 4096),
        ReLU("relu6"),
        Dropout("drop1", rate=0.5),
        Dense("fc2", 4096),
        ReLU("relu7"),
        Dropout("drop2", rate=0.5),
        Logits("fc3"),
    ),
    image_size=32,
    num_classes=10,
)

# Krizhevsky et al. 2012, section 3 and figure 2. Two GPUs held half of the channels each: conv2, conv4 and conv5 see
# only the half on their own, conv3 sees both. 224 with padding 2 gives the paper's 55, which 224 alone does not.
ORIGINAL = Network(
    name="original",
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, padding=2),
        ReLU("relu1"),
        LRN("norm1"),
        Pool("pool1", kernel=3, stride=2),
        Conv("conv2", 256, kernel=5, padding=2, groups=2),
        ReLU("relu2"),
        LRN("norm2"),
        Pool("pool2", kernel=3, stride=2),
        Conv("conv3", 384, kernel=3, padding=1),
        ReLU("relu3"),
        Conv("conv4", 384, kernel=3, padding=1, groups=2),
        ReLU("relu4"),
        Conv("conv5", 256, kernel=3, padding=1, groups=2),
        ReLU("relu5"),
        Pool("pool3", kernel=3, stride=2),
        Flatten(),
        Dense("fc1", 4096),
        ReLU("relu6"),
        Dropout("drop1", rate=0.5),
        Dense("fc2", 4096),
        ReLU("relu7"),
        Dropout("drop2", rate=0.5),
        Logits("fc3"),
    ),
    image_size=224,
    num_classes=1000,
)

# Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", as torchvision's ``alexnet`` has
# it: one tower, fewer filters, and dropout before the dense layers instead of after them.
TORCHVISION = Network(
    name="torchvision",
    layers=(
        Conv("conv1", 64, kernel=11, stride=4, padding=2),
        ReLU("relu1"),
        Pool("pool1", kernel=3, stride=2),
        Conv("conv2", 192, kernel=5, padding=2),
        ReLU("relu2"),
        Pool("pool2", kernel=3, stride=2),
        Conv("conv3", 384, kernel=3, padding=1),
        ReLU("relu3"),
        Conv("conv4", 256, kernel=3, padding=1),
        ReLU("relu4"),
        Conv("conv5", 256, kernel=3, padding=1),
        ReLU("relu5"),
        Pool("pool3", kernel=3, stride=2),
        AdaptiveAvgPool("avgpool", 6),
        Flatten(),
        Dropout("drop1", rate=0.5),
        Dense("fc1", 4096),
        ReLU("relu6"),
        Dropout("drop2", rate=0.5),
        Dense("fc2", 4096),
        ReLU("relu7"),
        Logits("fc3"),
    ),
    image_size=224,
    num_classes=1000,
)

NETWORKS: dict[str, Network] = {network.name: network for network in (CIFAR10, PAPER, ORIGINAL, TORCHVISION)}
