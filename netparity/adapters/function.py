"""Networks that are functions of parameters."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from netparity.adapters.given import JaxNetwork, Mode, float32, usual_mode
from netparity.marks import mark, step


def function(forward: Callable[..., Any], params: Any, *, state: Any = None, intermediates: bool = False) -> JaxNetwork:
    """A network that is a function ``forward(params, *inputs)``.

    It takes whichever of these keyword arguments its signature names: ``key`` (of what is random; None in evaluation
    mode), ``train`` or another usual name of the mode, and ``state``. With a state it returns
    ``(outputs, new state)``. The stages are the values that it marks with ``jax.ad_checkpoint.checkpoint_name``.

    Args:
      forward: the function, not jitted.
      params: any tree of arrays.
      state: any tree of arrays that are no parameters, such as running statistics; None if there is none.
      intermediates: whether it returns ``(outputs, {name: value})`` instead: its stages in the order of the network.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    others, state_tree = jax.tree_util.tree_flatten_with_path(state)
    names = tuple(_name(path) for path, _ in leaves)
    kept = tuple(_name(path) for path, _ in others)
    kept = tuple(f"state.{name}" if name in names else name for name in kept)
    arrays = {name: float32(name, value) for name, (_, value) in zip(names, leaves, strict=True)}
    arrays |= {name: float32(name, value) for name, (_, value) in zip(kept, others, strict=True)}
    known = inspect.signature(forward).parameters
    network = _Function(
        forward, names, tree, kept, state_tree, "key" in known, "state" in known, usual_mode(forward), intermediates
    )

    def nested(flat: Mapping[str, Any]) -> Any:
        return jax.tree.unflatten(tree, [flat[name] for name in names])

    def flat(whole: Any) -> Mapping[str, Any]:
        return dict(zip(names, jax.tree.leaves(whole), strict=True))

    return JaxNetwork("function", network, arrays, nested, flat)


def _name(path: Sequence[Any]) -> str:
    """The path of a leaf, joined by dots."""
    return ".".join(str(step(part)) for part in path) or "params"


@dataclasses.dataclass(frozen=True, eq=False)
class _Function:
    """What `function` computes with; see `netparity.graph.Network`."""

    forward: Callable[..., Any]
    names: tuple[str, ...]
    tree: Any
    kept: tuple[str, ...]
    state_tree: Any
    takes_key: bool
    takes_state: bool
    mode: Mode
    intermediates: bool

    @property
    def state(self) -> frozenset[str]:
        return frozenset(self.kept)

    def __call__(
        self, arrays: Mapping[str, jax.Array], inputs: Sequence[jax.Array], key: jax.Array | None
    ) -> tuple[Any, Mapping[str, jax.Array], Mapping[str, jax.Array]]:
        params = jax.tree.unflatten(self.tree, [arrays[name] for name in self.names])
        keywords = {**self.mode(key is not None), **({"key": key} if self.takes_key else {})}
        if self.takes_state:
            keywords["state"] = jax.tree.unflatten(self.state_tree, [arrays[name] for name in self.kept])
        outputs, named, state = self.forward(params, *inputs, **keywords), {}, {}
        if self.takes_state:
            outputs, after = outputs
            state = dict(zip(self.kept, jax.tree.leaves(after), strict=True))
        if self.intermediates:
            outputs, named = outputs
            return outputs, state, named
        return mark(outputs, "output"), state, named
