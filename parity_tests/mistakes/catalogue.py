"""All mistakes, network by network."""

from __future__ import annotations

from parity_tests.mistakes import (
    in_alexnet,
    in_blocks,
    in_convnext,
    in_gpt,
    in_lenet,
    in_lstm,
    in_mobilenet,
    in_others,
    in_resnet,
    in_training,
    in_vit,
)
from parity_tests.mistakes.networks import NETWORKS
from parity_tests.mistakes.planting import Mistake

_PLACES = (
    in_lenet,
    in_alexnet,
    in_resnet,
    in_mobilenet,
    in_vit,
    in_convnext,
    in_lstm,
    in_gpt,
    in_blocks,
    in_others,
    in_training,
)
_NETWORKS = list(NETWORKS)
MISTAKES: tuple[Mistake, ...] = tuple(  # network by network, since those of one share what is compiled
    sorted((one for place in _PLACES for one in place.MISTAKES), key=lambda one: _NETWORKS.index(one.network))
)
