"""A script that shows one stage's difference alone, with nothing but JAX, PyTorch and NumPy.

Both sides of the stage are taken out of their networks as they are: JAX's as an exported program, PyTorch's as the
operations that its calls come to.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch

from netparity import graph, jax_side, layouts
from netparity.diagnosis.stage import Stage
from netparity.layouts import ChannelsFirst, Flattened, Layout, Regrouped
from netparity.measure import Arrays

_SCRIPT = '''"""{title}

    python {name}

prints how far the two sides are apart, and ends with exit code 1 if they are. Everything is float64.

JAX's side of the stage (an exported program in {jax_file}):

{jaxpr}
"""

import pathlib
import sys

import jax
import jax.export
import numpy as np
import torch

jax.config.update("jax_enable_x64", True)
HERE = pathlib.Path(__file__).parent
ARRAYS = np.load(HERE / "{arrays_file}")


def torch_stage({arguments}):
    """PyTorch's side of the stage, in PyTorch's layout."""
{code}

def jax_products():
    """JAX's output, and its products with a random cotangent."""
    exported = jax.export.deserialize(bytearray((HERE / "{jax_file}").read_bytes()))
    arrays = [ARRAYS[name] for name in {jax_arguments}]
    return {{name: np.asarray(x) for name, x in zip({quantities}, exported.call(*arrays))}}


def torch_products():
    """The same of PyTorch."""
    given = {{name: torch.from_numpy(ARRAYS["torch/" + name]) for name in TORCH_ARGUMENTS}}
    leaves = {{name: x.requires_grad_() for name, x in given.items() if x.is_floating_point()}}
    output = torch_stage(*given.values())
    cotangent = torch.from_numpy(ARRAYS["torch/cotangent"])
    grads = torch.autograd.grad(output, list(leaves.values()), cotangent, materialize_grads=True, allow_unused=True)
    by_name = dict(zip(leaves, (grad.numpy() for grad in grads)))
    x = output.detach().numpy()
    found = {{"output": {to_common}}}
    found |= {{name: turn(by_name[argument]) for name, (argument, turn) in PARENTS.items()}}
    # A parameter of JAX's is made of numbers of PyTorch's: where each of them lies, all of PyTorch's end to end.
    whole = np.concatenate([by_name[name].ravel() for name in TORCH_PARAMETERS] or [np.zeros(0)])
    return found | {{name: whole[ARRAYS["places/" + name]] for name in PARAMETERS}}


TORCH_ARGUMENTS = {torch_arguments}
TORCH_PARAMETERS = {torch_parameters}
PARAMETERS = {parameters}
# By quantity, PyTorch's argument and how its layout becomes JAX's.
PARENTS = {{{parents}}}


def main():
    ours, theirs = jax_products(), torch_products()
    differs = False
    for name in theirs:
        a, b = ours[name], theirs[name]
        if a.shape != b.shape:
            print(f"{{name}}: shape {{a.shape}} in JAX, {{b.shape}} in PyTorch")
            differs = True
            continue
        error = float(np.abs(a - b).max() / (np.abs(b).max() or 1.0))
        place = tuple(map(int, np.unravel_index(np.abs(a - b).argmax(), a.shape)))
        print(f"{{name}}: relative error {{error:.1e}}; at {{place}} JAX {{a[place]:.10g}}, PyTorch {{b[place]:.10g}}")
        differs |= not error <= 1e-12
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
'''


def write(one: Stage, folder: pathlib.Path, title: str) -> pathlib.Path:
    """Writes ``repro.py`` and the two files that it reads into a folder, which is made if need be.

    Args:
      one: the stage.
      folder: where.
      title: what it shows, for people.

    Returns:
      the path of the script.

    Raises:
      OSError: if it cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"jax_file": "jax_stage.bin", "arrays_file": "arrays.npz"}
    arrays, exported, jaxpr, jax_arguments, quantities = _jax(one)
    code, constants, torch_arguments = _torch(one)
    given = one.given
    for name, value in {**one.before, **given}.items():
        arrays[f"torch/{name}"] = np.ascontiguousarray(_layout(one, name, value.ndim).to_torch(value))
    for name, value in one.pair.torch.from_common(one.pair.params_as("float64")).items():
        arrays[f"torch/{name}"] = value
    arrays |= {f"torch/{name}": value for name, value in constants.items()}
    output = one.run().output.detach().numpy()
    layout = one.layout(output)
    arrays["torch/cotangent"] = np.array(layout.to_torch(arrays["cotangent"]), order="C").reshape(output.shape)
    torch_parameters = [name for name in torch_arguments if name in dict(one.pair.torch.module.named_parameters())]
    places = _places(one, torch_parameters)
    arrays |= {f"places/{name}": where for name, where in places.items()}
    kept = {f"torch/{name}" for name in (*torch_arguments, "cotangent")} | set(jax_arguments)
    kept |= {f"places/{name}" for name in places}
    parents = [
        f'"{one.quantity(name)}": ("{name}", lambda x: {_expression(_layout(one, name, given[name].ndim))})'
        for name in one.parents
        if name in torch_arguments
    ]
    script = _SCRIPT.format(
        title=title,
        name="repro.py",
        jaxpr=_indented(jaxpr),
        arguments=", ".join(_identifier(name) for name in torch_arguments),
        code=_indented(code),
        jax_arguments=jax_arguments,
        quantities=quantities,
        torch_arguments=torch_arguments,
        torch_parameters=torch_parameters,
        parameters=list(places),
        to_common=_expression(layout),
        parents=", ".join(parents),
        **files,
    )
    saved: dict[str, Any] = {name: value for name, value in arrays.items() if name in kept}
    np.savez(folder / files["arrays_file"], **saved)
    (folder / files["jax_file"]).write_bytes(exported)
    path = folder / "repro.py"
    path.write_text(script, encoding="utf-8")
    return path


def _places(one: Stage, parameters: list[str]) -> dict[str, np.ndarray]:
    """Where each number of a JAX parameter's product lies among PyTorch's, where it is one of them."""
    side, alone = one.pair.torch, one.run()
    zeros = {name: np.zeros(weight.shape) for name, weight in alone.weights.items()}
    if not set(parameters) <= set(zeros) or not one.params:
        return {}
    first, numbered = 1, {}
    for name in parameters:
        size = zeros[name].size
        numbered[name] = np.arange(first, first + size, dtype=np.float64).reshape(zeros[name].shape)
        first += size
    back = side.pull_back or side.to_common
    places = back({**zeros, **numbered})
    grads = torch.autograd.grad(
        alone.output, [alone.weights[name] for name in parameters], torch.ones_like(alone.output),
        allow_unused=True, materialize_grads=True,
    ) if parameters else ()  # fmt: skip
    true = back({**zeros, **{name: grad.numpy() for name, grad in zip(parameters, grads, strict=True)}})
    whole = np.concatenate([np.zeros(1), *(grad.numpy().ravel() for grad in grads)])
    found = {}
    for name in one.params:
        where = places[name].astype(np.int64)
        if where.min() >= 1 and where.max() < len(whole) and np.array_equal(whole[where], true[name]):
            found[one.quantity(name)] = where - 1
    return found


def _params(one: Stage) -> Arrays:
    everything = one.pair.params_as("float64")
    return {name: everything[name] for name in one.pair.graph(one.mode).params[one.name]}


def _jax(one: Stage) -> tuple[Arrays, bytes, str, list[str], list[str]]:
    """JAX's side: arrays by name, the exported program, its text, the names of its arguments and results."""
    pair = one.pair
    arrays, inputs = pair.params_as("float64"), jax_side.as_tuple(pair.inputs_as("float64"))
    fed, given, params = one.fed.as_dtype("float64")[0], one.given, _params(one)
    cotangent = one.fed.cotangents[one.name].astype(np.float64)
    names, wanted = graph.input_names(len(inputs)), [*one.parents, *one.params]
    with jax.enable_x64(True):
        key = jax.random.key(pair.seed) if one.mode == "training" else None
        traced = graph.trace(pair.jax.network, arrays, inputs, key, pair.jax.stages)

        def output(by_name: Mapping[str, Any]) -> Any:
            seen = {}

            def tap(name: str, value: Any) -> Any:
                seen[name] = value
                return by_name.get(name, fed[name])

            own = tuple(by_name.get(name, x) for name, x in zip(names, inputs, strict=True))
            traced.run(tap, {name: by_name.get(name, x) for name, x in arrays.items()}, own, key)
            return seen[one.name]

        def products(*args: Any) -> list[Any]:
            by_name = dict(zip([*given, *params], args[:-1], strict=True))
            out, pull = jax.vjp(lambda moved: output({**by_name, **moved}), {n: by_name[n] for n in wanted})
            (grads,) = pull(args[-1])
            return [out, *(grads[name] for name in wanted)]

        values = [*given.values(), *params.values(), cotangent]
        exported = bytes(jax.export.export(jax.jit(products))(*values).serialize())
        text = _needed(
            jax.make_jaxpr(lambda *args: output(dict(zip([*given, *params], args, strict=True))))(*values[:-1])
        )
    named = {**given, **{f"param {name}": value for name, value in params.items()}, "cotangent": cotangent}
    return dict(named), exported, text, list(named), ["output", *map(one.quantity, wanted)]


def _needed(jaxpr: Any) -> str:
    """The text of those equations that the result comes from."""
    inner, kept = jaxpr.jaxpr, list[Any]()
    alive = {id(var) for var in inner.outvars}
    for equation in reversed(inner.eqns):
        if any(id(var) in alive for var in equation.outvars):
            kept.append(equation)
            alive |= {id(var) for var in equation.invars}
    constants = [var for var in inner.constvars if id(var) in alive]
    return str(inner.replace(eqns=kept[::-1], constvars=constants))


def _torch(one: Stage) -> tuple[str, Arrays, list[str]]:
    """PyTorch's side: the body of a function, the constants in it, and the names of its arguments."""
    from torch.fx.experimental.proxy_tensor import make_fx

    side, pair = one.pair.torch, one.pair
    before = one.before
    masks = one.masks
    weights = {name: torch.from_numpy(np.array(x)) for name, x in side.from_common(pair.params_as("float64")).items()}
    inputs = side.tensors(pair.inputs_as("float64"))
    stages = {name: torch.from_numpy(np.array(_layout(one, name, x.ndim).to_torch(x))) for name, x in before.items()}
    own = dict(zip(graph.input_names(len(inputs)), inputs, strict=True))
    names, first = [*stages, *weights, *own], len(stages) + len(weights)

    def run(*args: torch.Tensor) -> torch.Tensor:
        images = args[first:]
        leaves = {**dict(zip(stages, args, strict=False)), **dict(zip(own, images, strict=True))}
        given = dict(zip(weights, args[len(stages) : first], strict=True))
        return side.until(one.name, leaves, given, images, masks)

    module = make_fx(run)(*stages.values(), *weights.values(), *inputs)
    needed = _needed_nodes(module.graph)
    constants: Arrays = {}
    lines, arguments = [], []
    renamed: dict[str, str] = {}
    for node, name in zip([n for n in module.graph.nodes if n.op == "placeholder"], names, strict=True):
        if node in needed:
            arguments.append(name)
            renamed[node.name] = _identifier(name)
    for node in module.graph.nodes:
        if node not in needed:
            continue
        if node.op == "get_attr":
            name = f"constant {len(constants)}"
            constants[name] = getattr(module, node.target).detach().numpy()
            arguments.append(name)
            renamed[node.name] = _identifier(name)
        elif node.op == "call_function":
            args = ", ".join([*map(_text, node.args), *(f"{k}={_text(v)}" for k, v in node.kwargs.items())])
            lines.append(f"{node.name} = {_function(node.target)}({args})")
        elif node.op == "output":
            lines.append(f"return {_text(node.args[0])}")
    code = "\n".join(lines)
    for name, better in renamed.items():
        code = re.sub(rf"\b{re.escape(name)}\b", better, code)
    return code, constants, arguments


_VIEWS = ("view", "transpose", "select", "slice", "unbind", "getitem", "split", "permute", "t", "expand", "squeeze",
          "unsqueeze", "detach", "alias", "unsafe_split", "_unsafe_view", "chunk")  # fmt: skip


def _needed_nodes(whole: torch.fx.Graph) -> set[torch.fx.Node]:
    """What the output comes from, with what works in place on it or on what it is a view of."""
    memory: dict[torch.fx.Node, torch.fx.Node] = {}  # the node that a node shares its memory with
    changing: list[torch.fx.Node] = []
    for node in whole.nodes:
        name = str(node.target).removeprefix("aten.").split(".")[0].rpartition(" ")[2].strip("<>")
        inplace = node.op == "call_function" and name.endswith("_")
        shares = inplace or name in _VIEWS or "getitem" in str(node.target)
        first = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
        memory[node] = memory[first] if shares and first is not None else node
        changing += [node] if inplace else []
    (last,) = (node for node in whole.nodes if node.op == "output")
    found: set[torch.fx.Node] = set()
    wanted = [last]
    while wanted:
        node = wanted.pop()
        if node in found:
            continue
        found.add(node)
        wanted += node.all_input_nodes
        if not wanted:
            touched = {memory[one] for one in found}
            wanted = [one for one in changing if memory[one] in touched and one not in found]
    return found


def _function(target: Any) -> str:
    if getattr(target, "__module__", "") == "_operator":
        return "(lambda x, i: x[i])" if target.__name__ == "getitem" else f"(lambda a, b: a.__{target.__name__}__(b))"
    return str(target) if str(target).startswith("torch") else f"torch.ops.{target}"


def _text(value: Any) -> str:
    """An argument of a node as Python."""
    if isinstance(value, torch.fx.Node):
        return value.name
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    return repr(value)


def _layout(one: Stage, name: str, ndim: int) -> Layout:
    return one.pair.torch.layouts.get(name, layouts.usual(ndim))


def _expression(layout: Layout) -> str:
    """How an array ``x`` in PyTorch's layout becomes JAX's, as Python."""
    if isinstance(layout, ChannelsFirst):
        return "np.moveaxis(x, 1, -1)"
    if isinstance(layout, Flattened):
        h, w, c = layout.map
        return f"x.reshape(-1, {c}, {h}, {w}).transpose(0, 2, 3, 1).reshape(len(x), -1)"
    if isinstance(layout, Regrouped):
        return f"x.reshape(len(x), *{layout.jax})"
    return "x"


def _identifier(name: str) -> str:
    """A name as a Python identifier.

    >>> _identifier("layer1.0.relu#2"), _identifier("0.weight")
    ('layer1_0_relu_2', 'p0_weight')
    """
    found = re.sub(r"\W+", "_", name).strip("_")
    return f"p{found}" if not found or found[0].isdigit() else found


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines()) + "\n"
