"""Networks in Flax Linen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util

from netparity import marks
from netparity.adapters.given import JaxModule, JaxNetwork, Mode, described, drops, float32, floating, usual_mode
from netparity.measure import ParityError

_OF_A_CALL = ("intermediates", "perturbations", "losses", "metrics")  # collections that are no state


def linen(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    mode: Mode | None = None,
    method: str = "__call__",
    rngs: Sequence[str] = ("dropout",),
) -> JaxNetwork:
    """A Flax Linen network, as it is.

    Args:
      module: the network.
      variables: what ``module.init`` returned: ``params``, and ``batch_stats`` or whatever else it keeps.
      mode: keyword arguments by whether it trains, ``lambda train: {"deterministic": not train}``; None finds the
        usual ones (``train``, ``training``, ``deterministic`` …) in the method's signature.
      method: the name of the method that is called.
      rngs: the streams of random numbers that training draws from.

    Raises:
      ParityError: if ``variables`` are not variables.
    """
    if not isinstance(module, nn.Module):
        raise ParityError(f"netparity.linen takes a flax.linen.Module and its variables, not {type(module).__name__}")
    plain = nn.unbox(variables)
    if not isinstance(plain, Mapping) or ("params" not in plain and module_has_params(plain)):
        raise ParityError("netparity.linen takes what module.init returned: {'params': …, 'batch_stats': …}")
    paths = _paths({name: value for name, value in plain.items() if name not in _OF_A_CALL})
    arrays = {name: float32(name, value) for name, (_, value) in paths.items()}
    keys = tuple((name, path) for name, (path, _) in paths.items())
    modules: dict[str, JaxModule] = {}
    network = _Linen(module, keys, method, tuple(rngs), mode or usual_mode(getattr(type(module), method)), modules)
    trained = {name: path[1:] for name, path in keys if path[0] == "params"}

    def nested(flat: Mapping[str, Any]) -> Any:
        return traverse_util.unflatten_dict({trained[name]: value for name, value in flat.items()})

    def flat(tree: Any) -> Mapping[str, Any]:
        by_path = traverse_util.flatten_dict(tree)
        return {name: by_path[path] for name, path in trained.items() if path in by_path}

    return JaxNetwork("linen", network, arrays, nested, flat, modules=modules)


def module_has_params(variables: Any) -> bool:
    """Whether a mapping without ``params`` looks as if it were the parameters themselves."""
    return bool(variables) and all(not hasattr(value, "shape") for value in variables.values())


def _paths(variables: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Arrays with their paths by name: ``params``' path joined by dots, the collection before it where two collide."""
    found: dict[str, tuple[tuple[str, ...], Any]] = {}
    for path, value in traverse_util.flatten_dict(dict(variables)).items():
        if value is traverse_util.empty_node:
            continue
        name = ".".join(map(str, path[1:]))
        found[name if name not in found else ".".join(map(str, path))] = (path, value)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Linen:
    """What `linen` computes with; see `netparity.graph.Network`.

    A compact module makes its submodules when it is called: ``modules`` gets them, by path, whenever it is.
    """

    module: nn.Module
    paths: tuple[tuple[str, tuple[str, ...]], ...]
    method: str
    rngs: tuple[str, ...]
    mode: Mode
    modules: dict[str, JaxModule]

    @property
    def state(self) -> frozenset[str]:
        return frozenset(name for name, path in self.paths if path[0] != "params")

    def __call__(
        self, arrays: Mapping[str, jax.Array], inputs: Sequence[jax.Array], key: jax.Array | None
    ) -> tuple[Any, Mapping[str, jax.Array], Mapping[str, jax.Array]]:
        variables = traverse_util.unflatten_dict({path: arrays[name] for name, path in self.paths})
        rngs = {} if key is None else dict.fromkeys(self.rngs, key)
        mutable = sorted({path[0] for _, path in self.paths} - {"params"}) if key is not None else False
        train = key is not None
        with nn.intercept_methods(functools.partial(self._marked, floating(arrays), train)):
            found = self.module.apply(
                variables, *inputs, rngs=rngs, mutable=mutable, method=self.method, **self.mode(train)
            )
        outputs, changed = found if mutable is not False else (found, {})
        by_path = traverse_util.flatten_dict(dict(changed))
        return outputs, {name: by_path[path] for name, path in self.paths if path in by_path}, {}

    def _marked(self, dtype: Any, train: bool, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        called = context.method_name == "__call__"
        if called and isinstance(context.module, nn.RNN) and kwargs.get("initial_carry") is None:
            kwargs = {**kwargs, "initial_carry": _carry(context.module, args[0], dtype)}
        if called and train and args and drops(context.module):
            args = (marks.mark(args[0], f"{'.'.join(context.module.path)}.input"), *args[1:])
        out = call(*args, **kwargs)
        own = self.method if not context.module.path else "__call__"
        if context.method_name != own:
            return out
        name = ".".join(context.module.path) or "output"
        self.modules.setdefault(name, _described(context.module))
        return marks.mark(out, name)


def _described(module: nn.Module) -> JaxModule:
    names = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    return described(module, {name: getattr(module, name) for name in names})


def _carry(layer: nn.RNN, x: jax.Array, dtype: Any) -> Any:
    """Where a recurrence begins: what its cell says, which is of float32 whatever the parameters are now."""
    time = (0 if layer.time_major else x.ndim - layer.cell.num_feature_axes - 1) % x.ndim
    shape = (*x.shape[:time], *x.shape[time + 1 :])
    return jax.tree.map(lambda a: a.astype(dtype), layer.cell.initialize_carry(jax.random.key(0), shape))
