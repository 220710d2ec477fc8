"""All mistakes, network by network."""

from __future__ import annotations

from parity_tests.mistakes import in_blocks, in_gpt, in_lenet, in_lstm, in_resnet, in_training, in_vit
from parity_tests.mistakes.planting import Mistake

_PLACES = (in_lenet, in_resnet, in_vit, in_lstm, in_gpt, in_blocks, in_training)
MISTAKES: tuple[Mistake, ...] = tuple(mistake for place in _PLACES for mistake in place.MISTAKES)
