"""Whether a network fits into memory, counted before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxalex.data import Splits
from jaxalex.errors import RunError
from jaxalex.system.memory import gigabytes
from jaxalex.training.state import TrainState

# The widths that are suggested leave so much of the memory to the activations and the initialisation.
_SPARE = 0.2


def check(create: Callable[[float], TrainState], width: float, splits: Splits, free: int | None) -> None:
    """Refuses a network that cannot be trained in the memory that is free.

    Counted is what every training needs at the least: the parameters, the optimizer's state, a gradient of the
    parameters' size and the data. `jaxalex.training.epochs.compile_epoch` checks what its programs need on top.

    Args:
      create: makes a fresh state at a width. It is only traced, so that nothing is computed or allocated.
      width: the run's factor on hidden channels and units.
      splits: the data; what is in memory goes to the device, too.
      free: bytes that are free on the device; None where the system does not tell.

    Raises:
      RunError: it does not fit; the message names a smaller width.
    """
    data_bytes = sum(part.nbytes for part in (splits.train, splits.eval, splits.test))
    needed = _needed(create, width) + data_bytes
    if free is None or needed <= free:
        return
    problem = (
        f"out of memory: --width {width:g} needs {gigabytes(needed)} for the parameters, their gradient, the "
        f"optimizer's state and the data, {gigabytes(free)} are free"
    )
    fitting = width
    while fitting > 0.01:
        # The dense layers, most of a network, grow with the square of the width; so this comes down in a few rounds.
        fitting = float(f"{min(0.9 * fitting, fitting * ((1 - _SPARE) * free / needed) ** 0.5):.2g}")
        needed = _needed(create, fitting) + data_bytes
        if needed <= (1 - _SPARE) * free:
            raise RunError(f"{problem}; --width {fitting:g} needs {gigabytes(needed)}")
    raise RunError(f"{problem}; try a machine with more memory")


def _needed(create: Callable[[float], TrainState], width: float) -> int:
    state = jax.eval_shape(lambda: create(width))
    return _bytes(state) + _bytes(state.params)


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
