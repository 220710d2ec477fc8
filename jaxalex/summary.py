"""``python -m jaxalex.summary``: a network's table, read off the real network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxalex import cli
from jaxalex import config as config_lib
from jaxalex.errors import UsageError
from jaxalex.system import settings

if TYPE_CHECKING:
    from jaxalex.networks.alexnet import AlexNet


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m jaxalex.summary",
        "Prints a network's layers with output sizes, parameters and multiply-adds for one image.",
        "example:\n  python -m jaxalex.summary --model paper --image-size 227",
    )
    parser.add_argument("--model", choices=config_lib.MODELS, default="cifar10", help="the network (default cifar10)")
    parser.add_argument("--image-size", type=int, metavar="N", help="height and width (default: the published one)")
    parser.add_argument("--num-classes", type=int, metavar="N", help="default: the published number")
    parser.add_argument("--input-channels", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--width", type=float, default=1.0, metavar="F", help="factor on hidden channels and units")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of the table")
    return parser


def summarize(model: AlexNet, name: str, image_size: int, input_channels: int = 3) -> dict[str, Any]:
    """The table of a network, from the shapes of its real parameters and intermediates (nothing is computed).

    Returns:
      ``{"model", "image_size", "layers": [{"name", "out_size", "channels", "kernel", "padding", "stride",
      "groups", "parameters", "macs"}], "parameters", "macs"}``; ``macs`` are multiply-adds for one image.

    Raises:
      UsageError: if the images are too small, showing where the arithmetic fails.
    """
    import jax
    import jax.numpy as jnp

    from jaxalex.networks.rows import LRN, AdaptiveAvgPool, Conv, Dense, Logits, Pool

    images = jax.ShapeDtypeStruct((1, image_size, image_size, input_channels), jnp.float32)

    def trace(key: jax.Array, images: jax.Array) -> Any:
        params = model.init(key, images)["params"]
        return params, model.apply({"params": params}, images, capture=True)[1]

    params, seen = jax.eval_shape(trace, jax.random.key(0), images)
    rows = []
    for layer in model.layers:
        if not isinstance(layer, Conv | LRN | Pool | AdaptiveAvgPool | Dense | Logits):
            continue
        window = layer if isinstance(layer, Conv | Pool) else None
        is_map = not isinstance(layer, Dense | Logits)
        out, arrays = seen[layer.name].shape, params.get(layer.name, {})
        rows.append(
            {
                "name": layer.name,
                "out_size": list(out[1:3]) if is_map else None,
                "channels": out[-1],
                "kernel": window.kernel if window else None,
                "padding": window.padding if window else None,
                "stride": window.stride if window else None,
                "groups": layer.groups if isinstance(layer, Conv) else None,
                "parameters": sum(array.size for array in arrays.values()),
                "macs": (arrays["kernel"].size if arrays else 0) * math.prod(out[1:-1]),
            }
        )
    totals = {key: sum(row[key] for row in rows) for key in ("parameters", "macs")}
    return {"model": name, "image_size": image_size, "layers": rows, **totals}


def format_table(summary: dict[str, Any]) -> str:
    """The summary as a table for people."""
    size = summary["image_size"]
    lines = [
        f"{summary['model']} at {size}x{size}",
        f"{'layer':<7} {'out size':>9} {'channels':>9} {'kernel':>7} {'padding':>8} {'stride':>7} {'groups':>7} "
        f"{'parameters':>12} {'multiply-adds':>15}",
    ]
    lines.append("-" * len(lines[1]))
    for row in summary["layers"]:
        out = "x".join(map(str, row["out_size"])) if row["out_size"] else ""
        columns = ("kernel", "padding", "stride", "groups")
        kernel, padding, stride, groups = ("" if row[name] is None else row[name] for name in columns)
        lines.append(
            f"{row['name']:<7} {out:>9} {row['channels']:>9} {kernel:>7} {padding:>8} {stride:>7} {groups:>7} "
            f"{row['parameters']:>12,} {row['macs']:>15,}"
        )
    lines.append("-" * len(lines[1]))
    lines.append(f"{'total':<7} {'':>52} {summary['parameters']:>12,} {summary['macs']:>15,}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        flags = _parser().parse(argv)
        for name in ("image_size", "input_channels", "num_classes"):
            value = getattr(flags, name)
            if value is not None and not 1 <= value <= 100_000:
                raise UsageError(f"--{name.replace('_', '-')} must be from 1 to 100000, not {value}")
        config_lib.check_range("width", flags.width)
        settings.start_jax()
        from jaxalex.networks.alexnet import build
        from jaxalex.networks.tables import NETWORKS
        from jaxalex.system.devices import choose_device

        choose_device("auto", "float32")  # nothing is computed, but JAX starts here
        model = build(flags.model, flags.num_classes, flags.width)
        image_size = flags.image_size or NETWORKS[flags.model].image_size
        summary = summarize(model, flags.model, image_size, flags.input_channels)
        if flags.json:
            import json

            print(json.dumps(summary, indent=2))
        else:
            print(format_table(summary))

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
