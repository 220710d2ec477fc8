"""How fast photographs are decoded: ``python -m benchmarks.decoding FOLDER``.

The bare decoders that are installed, and the loader that training has, on the same files: in turn, each in a process of
its own, in as many threads as there are cores. Every rate includes reading the files.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import pathlib
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from benchmarks import flags, result
from benchmarks.figures import spread
from jaxalex import cli
from jaxalex.errors import UsageError
from jaxalex.system import environment

_AT_ONCE = 32  # pictures to a task, and to a batch of the loader
_WARM_UP = 8  # tasks before the clock starts
_LOADER = "the loader of training"

Decoder = Callable[[bytes], Any]


def _pillow() -> Decoder:
    import io

    import numpy as np
    from PIL import Image

    return lambda content: np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _simplejpeg() -> Decoder:
    import simplejpeg

    return simplejpeg.decode_jpeg


def _opencv() -> Decoder:
    import cv2
    import numpy as np

    cv2.setNumThreads(0)  # the threads are ours
    return lambda content: cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)


def _torchvision() -> Decoder:
    import torch
    import torchvision

    def decode(content: bytes) -> torch.Tensor:
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return torchvision.io.decode_jpeg(encoded, mode=torchvision.io.ImageReadMode.RGB)

    return decode


# By name, the module that must be installed, and what makes the decoder.
_DECODERS: dict[str, tuple[str, Callable[[], Decoder]]] = {
    "Pillow": ("PIL", _pillow),
    "simplejpeg": ("simplejpeg", _simplejpeg),
    "OpenCV": ("cv2", _opencv),
    "torchvision": ("torchvision", _torchvision),
}


def _bare(name: str, paths: Sequence[pathlib.Path]) -> float:
    """Pictures a second of one decoder."""
    warnings.simplefilter("ignore")  # torchvision's decoders are deprecated, and say so
    decoder = _DECODERS[name][1]()
    tasks = [paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)]

    def decode(some: Sequence[pathlib.Path]) -> None:
        for path in some:
            decoder(path.read_bytes())

    with ThreadPoolExecutor(environment.cpu_count()) as pool:
        list(pool.map(decode, tasks[:_WARM_UP]))
        start = time.perf_counter()
        list(pool.map(decode, tasks))
        return len(paths) / (time.perf_counter() - start)


def _loaded(folder: pathlib.Path, image_size: int) -> float:
    """Pictures a second that come out of the loader, as squares of ``image_size``."""
    import numpy as np

    from jaxalex.data.photographs.folder import find
    from jaxalex.data.photographs.streamed import StreamedSet
    from jaxalex.data.pictures import strict

    part = find(folder).parts["train"]
    images = StreamedSet(part, np.arange(part.size), image_size, skip_bad=False)
    rows = np.arange(part.size // _AT_ONCE * _AT_ONCE, dtype=np.int32).reshape(-1, _AT_ONCE)
    with strict():
        for _ in images.batches(rows[:_WARM_UP]):
            pass
        start = time.perf_counter()
        count = sum(len(batch.labels) for batch in images.batches(rows))
        return count / (time.perf_counter() - start)


def measure(folder: pathlib.Path, image_size: int, repeats: int) -> dict[str, Any]:
    """Pictures a second of each way, and its ratio to Pillow alone, by medians over ``repeats`` rounds.

    Raises:
      UsageError: the folder isn't laid out as ``--dataset folder:PATH`` wants it, or holds no JPEG.
    """
    from jaxalex.data.photographs.folder import find

    find(folder)
    paths = sorted(path for path in (folder / "train").rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(paths) < _AT_ONCE:
        raise UsageError(f"{folder}: needs at least {_AT_ONCE} pictures in train that end in .jpg or .jpeg")
    names = [name for name, (module, _) in _DECODERS.items() if importlib.util.find_spec(module)]
    rates: dict[str, list[float]] = {name: [] for name in (*names, _LOADER)}
    for _ in range(repeats):
        for name, found in rates.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                if name == _LOADER:
                    found.append(process.submit(_loaded, folder, image_size).result())
                else:
                    found.append(process.submit(_bare, name, paths).result())
    rows = []
    for name, found in rates.items():
        ratios = [rate / pillow for rate, pillow in zip(found, rates["Pillow"], strict=True)]
        rows.append(
            {
                "what": name,
                "images_per_second": statistics.median(found),
                "ratio": statistics.median(ratios),
                "quartiles": spread(ratios),
                "n": repeats,
            }
        )
    return {"pictures": len(paths), "image_size": image_size, "threads": environment.cpu_count(), "rows": rows}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        parser = cli.Parser("python -m benchmarks.decoding", __doc__ or "")
        parser.add_argument("folder", metavar="FOLDER", help="photographs in FOLDER/train/CLASS")
        parser.add_argument("--image-size", type=int, default=224, metavar="N", help="of the loader (default 224)")
        parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default 5)")
        parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result there")
        args = parser.parse(argv)
        flags.check(args)
        folder = pathlib.Path(args.folder).absolute()
        found = measure(folder, args.image_size, args.repeats)
        for row in found["rows"]:
            quartiles = " ({:.2f} to {:.2f})".format(*row["quartiles"]) if row["quartiles"] else ""
            rate = f"{row['images_per_second']:8,.0f} images/s"
            print(f"{row['what']:24}{rate}   {row['ratio']:.2f} of Pillow's{quartiles}")
        if args.json:
            environment_found = result.describe({**vars(args), "folder": folder.name}, None)
            result.write(args.json, {"environment": environment_found, "decoding": found})

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
