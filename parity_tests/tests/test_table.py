"""The name table: every layout against the layers of Flax and PyTorch, its errors, and its inverse and adjoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as fnn
import jax
import numpy as np
import pytest
import torch
from torch import nn

from netparity import table as tables
from netparity.measure import ParityError
from netparity.table import (
    Concatenated,
    ConvKernel,
    ConvTransposeKernel,
    DenseKernel,
    Entry,
    NameTable,
    Part,
    Reshaped,
    Same,
    Stack,
    Sum,
    Transposed,
)

RNG = np.random.default_rng(0)


def _random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def _given(table: NameTable, module: nn.Module) -> dict[str, np.ndarray]:
    return table.to_common({name: value.detach().numpy() for name, value in module.named_parameters()})


def _shapes(arrays: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in arrays.items()}


def _one(entry: Entry, jax_shape: tuple[int, ...], **torch_arrays: np.ndarray) -> np.ndarray:
    """What an entry makes of the arrays."""
    return NameTable({"x": entry}, {"x": jax_shape}, _shapes(torch_arrays)).to_common(torch_arrays)["x"]


def test_a_convolution_of_one_axis_with_groups_is_flaxs():
    module = nn.Conv1d(4, 6, 3, groups=2, dtype=torch.float64)
    network = fnn.Conv(6, (3,), padding="VALID", feature_group_count=2, precision="highest")
    x = _random(5, 11, 4)
    table = NameTable(
        {"kernel": ConvKernel("weight"), "bias": Same("bias")},
        {"kernel": (3, 2, 6), "bias": (6,)},
        {"weight": (6, 2, 3), "bias": (6,)},
    )
    with jax.enable_x64(True):
        ours = network.apply({"params": _given(table, module)}, x)
    theirs = module(torch.from_numpy(x).movedim(-1, 1)).movedim(1, -1).detach().numpy()
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize(("window", "strides"), [((3,), (1,)), ((4,), (2,)), ((3, 4), (1, 1)), ((3, 5), (2, 3))])
def test_a_transposed_convolution_is_flaxs(window: tuple[int, ...], strides: tuple[int, ...], transpose_kernel: bool):
    ndim = len(window)
    layer: Any = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[ndim]
    module = layer(3, 6, window, strides, dtype=torch.float64)
    network = fnn.ConvTranspose(
        6, window, strides, padding="VALID", transpose_kernel=transpose_kernel, precision="highest"
    )
    x = _random(5, *(8, 11)[:ndim], 3)
    table = NameTable(
        {"kernel": ConvTransposeKernel("weight", transpose_kernel=transpose_kernel), "bias": Same("bias")},
        {"kernel": (*window, 6, 3) if transpose_kernel else (*window, 3, 6), "bias": (6,)},
        _shapes(dict(module.named_parameters())),
    )
    with jax.enable_x64(True):
        ours = np.asarray(network.apply({"params": _given(table, module)}, x))
    theirs = module(torch.from_numpy(x).movedim(-1, 1)).movedim(1, -1).detach().numpy()
    # Flax's "VALID" pads the output to stride * input where the window is smaller than the stride: not here.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_window_of_one_is_a_dense_kernel():
    weight = _random(6, 4, 1, 1)
    np.testing.assert_array_equal(_one(ConvKernel("w"), (4, 6), w=weight), weight[:, :, 0, 0].T)


def test_patches_that_are_flattened_row_by_row_meet_a_dense_kernel():
    weight = _random(6, 3, 2, 5)
    made = _one(ConvKernel("w"), (2 * 5 * 3, 6), w=weight)
    patch = _random(2, 5, 3)
    np.testing.assert_allclose(patch.reshape(-1) @ made, np.einsum("hwc,ochw->o", patch, weight), atol=1e-12)


def test_attentions_kernels_split_the_axes_of_dense_ones():
    module = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    nn.init.normal_(module.in_proj_bias)
    nn.init.normal_(module.out_proj.bias)
    network = fnn.MultiHeadDotProductAttention(3, precision="highest")
    query, key, value = _random(2, 5, 12), _random(2, 7, 12), _random(2, 7, 12)
    entries: dict[str, Entry] = {
        "out.kernel": DenseKernel("out_proj.weight"),
        "out.bias": Same("out_proj.bias"),
    }
    jax_shapes: dict[str, tuple[int, ...]] = {"out.kernel": (3, 4, 12), "out.bias": (12,)}
    for i, name in enumerate(("query", "key", "value")):
        entries[f"{name}.kernel"] = Part(DenseKernel("in_proj_weight"), i, 3)
        entries[f"{name}.bias"] = Part(Reshaped("in_proj_bias"), i, 3)
        jax_shapes |= {f"{name}.kernel": (12, 3, 4), f"{name}.bias": (3, 4)}
    table = NameTable(entries, jax_shapes, _shapes(dict(module.named_parameters())))
    params = _nested(_given(table, module))
    with jax.enable_x64(True):
        ours = network.apply({"params": params}, query, key, value)
    theirs = module(*(torch.from_numpy(x) for x in (query, key, value)))[0].detach().numpy()
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-12)


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in arrays.items():
        *path, last = name.split(".")
        inner = out
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return out


def test_one_kernel_for_query_key_and_value():
    q, k, v = _random(4, 6), _random(4, 6), _random(2, 6)
    dense = Concatenated((DenseKernel("q"), DenseKernel("k"), DenseKernel("v")), axis=1)
    np.testing.assert_array_equal(_one(dense, (6, 10), q=q, k=k, v=v), np.concatenate([q.T, k.T, v.T], 1))
    equal = Concatenated((DenseKernel("q"), DenseKernel("k")), axis=1)
    np.testing.assert_array_equal(
        _one(equal, (6, 2, 2, 2), q=q, k=k), np.stack([q.T.reshape(6, 2, 2), k.T.reshape(6, 2, 2)], 1)
    )


def test_layers_that_are_scanned_over_are_stacked():
    a, b = _random(6, 4), _random(6, 4)
    np.testing.assert_array_equal(_one(Stack((DenseKernel("a"), DenseKernel("b"))), (2, 4, 6), a=a, b=b)[1], b.T)
    np.testing.assert_array_equal(_one(Stack(("a", "b")), (2, 6, 4), a=a, b=b)[0], a)


def test_a_sum_is_shared_out_equally():
    table = NameTable({"x": Sum(("a", "b"))}, {"x": (4,)}, {"a": (4,), "b": (4,)})
    a, b = _random(4), _random(4)
    np.testing.assert_array_equal(table.to_common({"a": a, "b": b})["x"], a + b)
    np.testing.assert_array_equal(table.pull_back({"a": a, "b": b})["x"], (a + b) / 2)
    back = table.from_common({"x": a})
    np.testing.assert_array_equal(back["a"], a / 2)
    np.testing.assert_array_equal(back["b"], a / 2)


def test_axes_in_any_order_some_of_them_reversed():
    weight = _random(4, 6, 3, 5)
    made = _one(Transposed("w", (1, 0, 2, 3), flipped=(2, 3)), (6, 4, 3, 5), w=weight)
    np.testing.assert_array_equal(made, weight[:, :, ::-1, ::-1].swapaxes(0, 1))


ALL: dict[str, Entry] = {
    "same": Same("same"),
    "scalar": Same("scalar"),
    "count": Same("count"),
    "reshaped": Reshaped("reshaped"),
    "transposed": Transposed("transposed", (2, 0, 1), flipped=(1,)),
    "conv": ConvKernel("conv"),
    "up": ConvTransposeKernel("up"),
    "down": ConvTransposeKernel("down", transpose_kernel=True),
    "dense": DenseKernel("dense"),
    "flat": DenseKernel("flat", flattened=(3, 5, 2)),
    "query": Part(DenseKernel("packed"), 0, 3),
    "key": Part(DenseKernel("packed"), 1, 3),
    "value": Part(DenseKernel("packed"), 2, 3),
    "scanned": Stack((ConvKernel("scan.0"), ConvKernel("scan.1"))),
    "fused": Concatenated((DenseKernel("q"), DenseKernel("k")), axis=-1),
    "reset": Part(Sum(("ih", "hh")), 0, 2),
    "new_i": Part(Same("ih"), 1, 2),
    "new_h": Part(Same("hh"), 1, 2),
}
ALL_JAX: dict[str, tuple[int, ...]] = {
    "same": (7,),
    "scalar": (),
    "count": (2,),
    "reshaped": (5, 1, 1),
    "transposed": (4, 2, 3),
    "conv": (3, 5, 2, 4),
    "up": (3, 2, 4),
    "down": (3, 4, 2),
    "dense": (6, 2, 4),
    "flat": (30, 4),
    "query": (6, 2, 1),
    "key": (6, 2, 1),
    "value": (6, 2, 1),
    "scanned": (2, 3, 2, 4),
    "fused": (6, 7),
    "reset": (4,),
    "new_i": (4,),
    "new_h": (4,),
}
ALL_TORCH: dict[str, tuple[int, ...]] = {
    "same": (7,),
    "scalar": (),
    "count": (2,),
    "reshaped": (5,),
    "transposed": (2, 3, 4),
    "conv": (4, 2, 3, 5),
    "up": (2, 4, 3),
    "down": (2, 4, 3),
    "dense": (8, 6),
    "flat": (4, 30),
    "packed": (6, 6),
    "scan.0": (4, 2, 3),
    "scan.1": (4, 2, 3),
    "q": (3, 6),
    "k": (4, 6),
    "ih": (8,),
    "hh": (8,),
}


def test_every_entry_is_undone_in_its_dtype():
    table = NameTable(ALL, ALL_JAX, ALL_TORCH)
    arrays = {name: _random(*shape).astype(np.float32) for name, shape in ALL_JAX.items()}
    arrays["count"] = np.array([3, 4])
    there = table.from_common(arrays)
    assert _shapes(there) == ALL_TORCH
    back = table.to_common(there)
    assert list(back) == list(ALL_JAX)
    for name, value in arrays.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype
    assert there["count"].dtype == np.int64
    assert all(value.flags.c_contiguous for value in (*there.values(), *back.values()))


def test_gradients_are_pulled_back_by_the_adjoint():
    table = NameTable(ALL, ALL_JAX, ALL_TORCH)
    arrays = {name: _random(*shape) for name, shape in ALL_JAX.items()}
    gradients = {name: _random(*shape) for name, shape in ALL_TORCH.items()}
    theirs = sum(np.vdot(gradients[name], value) for name, value in table.from_common(arrays).items())
    ours = sum(np.vdot(value, arrays[name]) for name, value in table.pull_back(gradients).items())
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_an_entry_prints_as_the_python_that_makes_it():
    assert repr(ALL["flat"]) == "DenseKernel('flat', flattened=(3, 5, 2))"
    assert repr(ALL["query"]) == "Part(DenseKernel('packed'), 0, 3)"
    assert repr(ALL["reset"]) == "Part(Sum(('ih', 'hh')), 0, 2)"
    for entry in (*ALL.values(), Stack((Same("a"),))):
        assert eval(repr(entry), vars(tables)) == entry


def test_some_of_the_arrays_are_enough_if_none_is_there_in_part():
    table = NameTable(ALL, ALL_JAX, ALL_TORCH)
    assert list(table.to_common({"same": _random(7)})) == ["same"]
    assert list(table.from_common({"reshaped": _random(5, 1, 1)})) == ["reshaped"]
    with pytest.raises(ParityError, match=r"^reset: without hh there is only a part of it$"):
        table.to_common({"ih": _random(8)})
    with pytest.raises(ParityError, match=r"^only a part is given of packed$"):
        table.from_common({"key": _random(6, 2, 1)})
    with pytest.raises(ParityError, match=r"^the name table does not know other$"):
        table.from_common({"other": _random(6)})
    with pytest.raises(ParityError, match=r"^the name table does not know other$"):
        table.pull_back({"other": _random(6)})


def test_what_is_optional_needs_no_entry_and_no_array():
    table = NameTable({"scale": Same("weight")}, {"scale": (3,)}, {"weight": (3,), "count": ()}, optional=["count"])
    made = table.to_common({"weight": _random(3), "count": np.array(4)})
    assert list(made) == ["scale"]
    assert list(table.from_common(made)) == ["weight"]


def _refused(entries: Mapping[str, Entry], jax_shapes: Any, torch_shapes: Any) -> list[str]:
    with pytest.raises(ParityError) as caught:
        NameTable(entries, jax_shapes, torch_shapes)
    return str(caught.value).removeprefix("the name table does not fit: ").split("; ")


def test_every_slice_must_be_named_once():
    w, shape = DenseKernel("w"), {"a": (4, 2), "b": (4, 2), "c": (4, 2)}
    assert _refused({"a": Part(w, 0, 3), "b": Part(w, 2, 3), "c": Part(w, 2, 3)}, shape, {"w": (6, 4)}) == [
        "w: part 1 of 3 has no entry",
        "w: part 2 of 3: named by 2 entries",
    ]
    assert _refused({"a": w, "b": w}, {"a": (4, 6), "b": (4, 6)}, {"w": (6, 4)}) == ["w: named by 2 entries"]
    assert _refused({"a": Part(w, 0, 2), "b": w}, {"a": (4, 3), "b": (4, 6)}, {"w": (6, 4)}) == [
        "w: part 0 of 2: named by 2 entries"
    ]


def test_slices_that_are_not_there_are_listed():
    w = Same("w")
    assert _refused({"a": Part(w, 0, 4)}, {"a": (1,)}, {"w": (6,)})[-1] == (
        "a: PyTorch's w has [6], which is not 4 equal parts"
    )
    assert "a: there is no part 2 of 2" in _refused({"a": Part(w, 2, 2)}, {"a": (3,)}, {"w": (6,)})
    assert "a: PyTorch's w has [], which is not 2 equal parts" in _refused({"a": Part(w, 0, 2)}, {"a": ()}, {"w": ()})


@pytest.mark.parametrize(
    ("entry", "jax_shape", "torch_shape", "message"),
    [
        (ConvKernel("w"), (4, 6), (6, 4), "x: ConvKernel takes at least 3 axes, PyTorch's w has [6, 4]"),
        (ConvKernel("w"), (3, 3, 8, 4), (8, 4, 3, 3), "x: JAX has [3, 3, 8, 4], PyTorch's w gives [3, 3, 4, 8]"),
        (ConvTransposeKernel("w"), (3, 8, 4), (4, 8, 3), "x: JAX has [3, 8, 4], PyTorch's w gives [3, 4, 8]"),
        (DenseKernel("w"), (6, 4), (6, 4), "x: JAX has [6, 4], PyTorch's w gives [4, 6]"),
        (DenseKernel("w"), (4, 6, 1), (6, 4, 1), "x: DenseKernel takes 2 axes, PyTorch's w has [6, 4, 1]"),
        (Same("w"), (6, 1), (6,), "x: JAX has [6, 1], PyTorch's w gives [6]"),
        (Reshaped("w"), (5,), (6,), "x: JAX has [5], PyTorch's w gives [6]"),
        (
            Transposed("w", (0, 1)),
            (5, 2, 3),
            (5, 2, 3),
            "x: PyTorch's w has [5, 2, 3], whose axes Transposed('w', (0, 1)) does not order",
        ),
        (Stack(("w", "w")), (2, 6), (6,), "w: named by 2 entries"),
    ],
)
def test_what_is_misshapen_is_told_in_its_shapes(entry: Entry, jax_shape: Any, torch_shape: Any, message: str):
    assert _refused({"x": entry}, {"x": jax_shape}, {"w": torch_shape}) == [message]


def test_several_that_do_not_go_together_are_told_in_their_shapes():
    shapes = {"a": (3,), "b": (4,)}
    for entry in (Stack(("a", "b")), Sum(("a", "b")), Concatenated(("a", "b"), 1)):
        assert _refused({"x": entry}, {"x": (2, 3)}, shapes) == ["x: JAX has [2, 3], PyTorch's a and b have [3], [4]"]
    assert _refused({"x": Concatenated(("a", "b"), 0)}, {"x": (8,)}, shapes) == [
        "x: JAX has [8], PyTorch's a and b gives [7]"
    ]
    assert _refused({"x": Concatenated(("a", "b"), 3)}, {"x": (7,)}, shapes) == [
        "x: JAX has [7], PyTorch's a and b have [3], [4]"
    ]
