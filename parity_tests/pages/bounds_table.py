"""``python -m parity_tests.pages.bounds_table``: the contraction lengths and bounds in ``docs/bounds.md``."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxalex.networks.rows import Flatten, Pool
from jaxalex.networks.tables import NETWORKS
from netparity import bounds
from parity_tests.alexnet.networks import Case, jax_network

_QUANTITIES = ("output", "vjp_input", "vjp_kernel", "vjp_bias")


def table(model: str, batch_size: int = 2) -> str:
    """A Markdown table of a published network: n and the bound of every quantity that sums anything."""
    case = Case(model, batch_size=batch_size)
    network = jax_network(case)
    images = jnp.zeros((batch_size, *case.image_shape))
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    seen = jax.eval_shape(lambda p, x: network.apply({"params": p}, x, capture=True)[1], params, images)
    lines = ["| stage | output | vjp_input | vjp_kernel | vjp_bias |", "| --- | --- | --- | --- | --- |"]
    pools = {layer.name: (layer.kernel, layer.stride) for layer in network.layers if isinstance(layer, Pool)}
    before = images.shape
    for stage in (layer.name for layer in network.layers if not isinstance(layer, Flatten)):
        kernel = params[stage]["kernel"].shape if stage in params else None
        shape = seen[stage].shape
        quantities = _QUANTITIES if kernel else _QUANTITIES[:2]
        lengths = [bounds.contraction_length(name, before, shape, kernel, pools.get(stage)) for name in quantities]
        cells = [f"{n:,} ({bounds.bound(n):.1e})" for n in lengths] + [""] * (4 - len(lengths))
        if kernel or max(lengths) > 1:
            lines.append(f"| {stage} | " + " | ".join(cells) + " |")
        before = shape
    return "\n".join(line.replace("|  |", "| |").replace("|  |", "| |") for line in lines)


if __name__ == "__main__":
    for name in NETWORKS:
        print(f"{name}:\n\n{table(name)}\n")
