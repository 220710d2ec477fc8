"""Photographs: sets of encoded pictures, in a folder or prepared by tensorflow-datasets.

A reader (`folder`, `prepared`) gives an `Encoded` set, of which nothing is decoded yet. `load` chooses which pictures
are wanted and sees whether they fit into memory: then it decodes them once, else they are decoded whenever they are
wanted (`streamed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jaxalex.data.photographs.encoded import Encoded
from jaxalex.data.splits import Images, Splits, split_indices
from jaxalex.errors import UsageError
from jaxalex.system import memory

if TYPE_CHECKING:
    import numpy as np

_Chosen = dict[str, tuple[str, "np.ndarray"]]  # by split: which part, and which of its pictures
_FIXED_SEED = 0  # of what must not depend on the run's own seed


def load(
    encoded: Encoded,
    seed: int,
    image_size: int,
    *,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    skip_bad: bool = False,
    only_test: bool = False,
    room: int | None = None,
    workers: int = 0,
    notify: Callable[[str], None] = print,
) -> Splits[Any]:
    """Splits an encoded set, and decodes it if it fits, as squares of ``image_size``.

    Args:
      encoded: what a reader found.
      seed: of the split, in ``[0, 2**32)``.
      image_size: height and width in pixels; see `jaxalex.data.pictures.square`.
      limit_train: how many pictures of the shuffled train split to keep, from its start; None keeps all.
      limit_eval: the same for eval, and for test.
      skip_bad: leave out pictures that cannot be decoded, instead of refusing the set.
      only_test: of the test set only; the others hold nothing.
      room: bytes that decoded pictures may take. Of a set that needs more, none is decoded here. None: as many as are
        free, and a set that needs more is refused.
      workers: processes that decode what isn't decoded here; 0 for threads.
      notify: gets a line where pictures were left out.

    Raises:
      UsageError: the pictures don't fit into memory; one cannot be decoded; none of a part can.
    """
    chosen, told = _choose({name: part.size for name, part in encoded.parts.items()}, seed)
    limits = {"train": limit_train, "eval": limit_eval, "test": limit_eval}
    chosen = {
        split: (part, indices[: 0 if only_test and split != "test" else limits[split]])
        for split, (part, indices) in chosen.items()
    }
    count = sum(len(indices) for _, indices in chosen.values())
    needed = count * image_size * image_size * 3
    if room is not None and needed > room:
        return _streamed(encoded, chosen, told, image_size, skip_bad, workers)
    _check_memory(f"{encoded.name}: its {count:,} pictures of {image_size}x{image_size}", needed)
    return _decoded(encoded, chosen, told, image_size, skip_bad, notify)


def _streamed(
    encoded: Encoded, chosen: _Chosen, told: str, image_size: int, skip_bad: bool, workers: int
) -> Splits[Any]:
    from jaxalex.data.photographs.streamed import StreamedSet

    sets = {
        split: StreamedSet(encoded.parts[part], indices, image_size, skip_bad, workers)
        for split, (part, indices) in chosen.items()
    }
    return _splits(encoded, sets, f"{told}; decoded anew in each epoch", decoded="in each epoch")


def _decoded(
    encoded: Encoded,
    chosen: _Chosen,
    told: str,
    image_size: int,
    skip_bad: bool,
    notify: Callable[[str], None],
) -> Splits[Any]:
    from jaxalex.data.photographs.decoding import decode

    decoded: dict[str, Images] = {}
    bad: list[str] = []
    for split, (part, indices) in chosen.items():
        decoded[split], some = decode(encoded.parts[part], indices, image_size, skip_bad, f"decoding {split}")
        if some and not len(decoded[split]):
            raise UsageError(f"{encoded.name}: none of the {split} pictures can be read; the first: {some[0]}")
        bad += some
    if bad:
        notify(f"note: unreadable pictures left out: {len(bad):,}; the first: {bad[0]}")
    return _splits(encoded, decoded, told, bad_images=len(bad))


def _splits(encoded: Encoded, sets: Mapping[str, Images], told: str, bad_images: int = 0, **record: Any) -> Splits[Any]:
    return Splits(
        name=encoded.name,
        source=told,
        **sets,
        class_names=encoded.class_names,
        bad_images=bad_images,
        record={"classes": list(encoded.class_names), "bad_images": bad_images, **record, **encoded.fingerprint()},
    )


def _choose(sizes: dict[str, int], seed: int) -> tuple[_Chosen, str]:
    """Which pictures of which part are train, eval and test, and the same in words.

    Eval decides things while a run trains (which checkpoint is the best, when a learning rate falls), and test is what
    the run is judged by; so no picture is ever in both. Where a set has only one part beside train, that is the test
    set, and a fifth of train is held out for eval, as with CIFAR-10.

    Args:
      sizes: of ``train`` and any of ``val`` and ``test``.
      seed: of the split of train, and of its order. The order of what comes from other parts is always the same, and
        mixed, so that the first of them are of every class.
    """
    import numpy as np

    def mixed(part: str) -> np.ndarray:
        return np.random.RandomState(_FIXED_SEED).permutation(sizes[part])

    if "val" in sizes and "test" in sizes:
        order = np.random.RandomState(seed).permutation(sizes["train"])
        chosen = {"train": ("train", order), "eval": ("val", mixed("val")), "test": ("test", mixed("test"))}
        return chosen, "val is eval"
    if "val" not in sizes and "test" not in sizes:
        order = mixed("train")
        held_out = math.ceil(len(order) / 5)
        test, rest = order[:held_out], order[held_out:]
        train, evaluation = (rest[indices] for indices in split_indices(len(rest), seed))
        chosen = {"train": ("train", train), "eval": ("train", evaluation), "test": ("train", test)}
        return chosen, "a fifth of train is test, a fifth of the rest eval"
    part = "val" if "val" in sizes else "test"
    train, evaluation = split_indices(sizes["train"], seed)
    chosen = {"train": ("train", train), "eval": ("train", evaluation), "test": (part, mixed(part))}
    return chosen, f"a fifth of train is eval, {part} is test"


def _check_memory(what: str, needed: int) -> None:
    """Refuses what does not fit into memory, before any of it is decoded.

    Raises:
      UsageError: the message says how much is needed and how much is free.
    """
    free = memory.free_host_bytes()
    if free is not None and needed > free:
        raise UsageError(
            f"{what} are kept in memory and need "
            f"{memory.gigabytes(needed)}, {memory.gigabytes(free)} are free: use --keep-decoded auto, or fewer of them "
            "with --limit-train and --limit-eval"
        )
