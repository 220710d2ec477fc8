"""``netparity.compare_weights`` and ``python -m netparity weights``."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest
import torch
from flax import serialization
from safetensors.numpy import save_file
from torch import nn

import netparity
from netparity.command import main
from netparity.weights import checkpoints


def _drawn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _one(a, b, **keywords):
    found = netparity.compare_weights({"layer.kernel": a}, {"other.weight": b}, **keywords)
    assert found.only_a == found.only_b == {}
    (pair,) = found.pairs
    return found, pair


CONV, DENSE = _drawn(3, 5, 4, 6), _drawn(12, 18)  # HWIO, [in, out]
# Of a map of 2 x 3 with 2 channels, PyTorch flattens channel by channel.
ROWS = DENSE.reshape(2, 3, 2, 18).transpose(2, 0, 1, 3).reshape(12, 18)


@pytest.mark.parametrize(
    ("a", "b", "layout"),
    [
        (DENSE, DENSE, ""),
        (DENSE, DENSE.T, "transposed"),
        (CONV, CONV.transpose(3, 2, 0, 1), "HWIO as OIHW"),
        (CONV.transpose(3, 2, 0, 1), CONV, "OIHW as HWIO"),
        (CONV, CONV[::-1, ::-1].transpose(2, 3, 0, 1), "axes [2, 3, 0, 1], the window reversed"),
        (CONV, CONV[::-1, ::-1], "the window reversed"),
        (_drawn(1, 1, 4, 6), _drawn(1, 1, 4, 6)[0, 0], "reshaped"),
        (_drawn(12, 3, 4), _drawn(12, 3, 4).reshape(12, 12).T, "axes [1, 2, 0], reshaped"),
        (DENSE.T, _drawn(12, 18).reshape(12, 3, 6), "transposed, reshaped"),
        (DENSE, ROWS.T, "transposed, columns flattened as (2, 6) for (6, 2)"),
        (DENSE, ROWS, "rows flattened as (2, 6) for (6, 2)"),
        (DENSE, DENSE[::-1], "axis 0 reversed"),
        (_drawn(6), _drawn(6)[::-1], "axis 0 reversed"),
        # Two heads of eight, whose halves are interleaved: rows 0 4 1 5 2 6 3 7 of each.
        (
            _drawn(16, 5),
            _drawn(16, 5).reshape(2, 2, 4, 5).swapaxes(1, 2).reshape(16, 5),
            "rows in each of 2 groups as (4, 2) for (2, 4)",
        ),
        (DENSE, DENSE[[2, 0, 1, *range(3, 12)]], "rows in another order"),
        (np.float64(DENSE), DENSE, ""),
        (DENSE.astype(ml_dtypes.bfloat16), DENSE.astype(ml_dtypes.bfloat16).astype(np.float32), ""),
        (np.array([np.nan, 1, -np.inf]), np.array([np.nan, 1, -np.inf]), ""),
    ],
)
def test_the_same_numbers_are_equal_in_any_layout(a, b, layout):
    found, pair = _one(a, b)
    assert found.equal
    assert (pair.layout, pair.error, pair.where) == (layout, 0.0, None)


def test_a_difference_is_told_by_size_and_place_whatever_the_layout():
    spoilt = CONV.transpose(3, 2, 0, 1).copy()
    largest = float(np.abs(spoilt).max())
    spoilt[5, 1, 2, 3] += 0.25
    found, pair = _one(CONV, spoilt)
    assert not found.equal
    assert pair.error == pytest.approx(0.25 / largest, rel=1e-5)
    assert (pair.layout, pair.where, pair.b) == ("HWIO as OIHW", (5, 1, 2, 3), "other.weight")
    assert netparity.compare_weights({"w": CONV}, {"w": spoilt}, rtol=0.25).equal


def test_a_square_kernel_that_differs_is_turned_as_fits_best():
    kernel = _drawn(7, 7)
    _, pair = _one(kernel, kernel.T + np.float32(0.001))
    assert pair.layout == "transposed"
    assert 0 < pair.error < 0.001


def test_what_is_not_finite_on_one_side_alone_is_infinitely_off():
    spoilt = DENSE.copy()
    spoilt[3, 4] = np.nan
    found, pair = _one(DENSE, spoilt, rtol=1e6)
    assert (found.equal, pair.error, pair.where) == (False, math.inf, (3, 4))


def test_a_network_of_two_frameworks_is_paired_by_what_it_holds():
    module = nn.Sequential(nn.Conv2d(3, 4, (3, 5)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 6))
    theirs = {name: value.numpy() for name, value in module.state_dict().items()}
    ours = {
        "params.Conv_0.kernel": theirs["0.weight"].transpose(2, 3, 1, 0),
        "params.Conv_0.bias": theirs["0.bias"],
        "params.BatchNorm_0.scale": theirs["1.weight"],
        "params.BatchNorm_0.bias": theirs["1.bias"],
        "params.Dense_0.kernel": theirs["3.weight"].T,
        "params.Dense_0.bias": theirs["3.bias"],
        "params.Dense_1.kernel": theirs["4.weight"].T,
        "params.Dense_1.bias": theirs["4.bias"],
        "batch_stats.BatchNorm_0.mean": theirs["1.running_mean"],
        "batch_stats.BatchNorm_0.var": theirs["1.running_var"],
    }
    found = netparity.compare_weights(ours, theirs)
    assert found.equal
    assert {pair.b: pair.layout for pair in found.pairs if pair.layout} == {
        "0.weight": "HWIO as OIHW",
        "3.weight": "transposed",
        "4.weight": "transposed",
    }


def test_a_packed_array_is_equal_to_its_parts():
    query, key, value = (_drawn(8, 8, seed=seed) for seed in range(3))
    packed = np.concatenate([query.T, key.T, value.T])
    ours = {"query.kernel": query.reshape(8, 2, 4), "key.kernel": key.reshape(8, 2, 4), "value.kernel": value}
    for a, b in ((ours, {"in_proj_weight": packed}), ({"in_proj_weight": packed}, ours)):
        found = netparity.compare_weights(a, b)
        assert found.equal
        names = {(pair.a, pair.b) if a is ours else (pair.b, pair.a) for pair in found.pairs}
        assert names == {
            ("query.kernel", "in_proj_weight[0/3]"),
            ("key.kernel", "in_proj_weight[1/3]"),
            ("value.kernel", "in_proj_weight[2/3]"),
        }
    fused = {"qkv.kernel": np.concatenate([query, key, value], axis=1)}
    assert netparity.compare_weights(fused, {"in_proj_weight": packed}).equal
    swapped = netparity.compare_weights(fused, {"in_proj_weight": np.concatenate([key.T, query.T, value.T])})
    assert [pair.layout for pair in swapped.pairs] == ["transposed, rows in blocks of 8, in the order 1, 0, 2"]


def test_trees_of_both_frameworks_are_taken_as_they_are():
    module = nn.Sequential(nn.Linear(18, 12), nn.Linear(12, 18))
    first, first_bias, second, second_bias = (value.detach() for value in module.parameters())
    params = {"layers": [{"kernel": first.T, "bias": first_bias}, {"kernel": second.T, "bias": second_bias}]}
    found = netparity.compare_weights(params, module.state_dict())
    assert found.equal
    assert ("layers.1.kernel", "1.weight") in {(pair.a, pair.b) for pair in found.pairs}


def test_stacked_layers_are_their_layers():
    layers = {f"blocks.{i}.weight": _drawn(5, 4, seed=i) for i in range(3)}
    stacked = np.stack([layer.T for layer in layers.values()])
    found = netparity.compare_weights({"blocks.kernel": stacked}, layers)
    assert found.equal
    assert {(pair.a, pair.b, pair.layout) for pair in found.pairs} == {
        (f"blocks.kernel[{i}/3]", f"blocks.{i}.weight", "transposed") for i in range(3)
    }


def test_equal_names_go_together_and_swapped_arrays_are_told():
    a, b = _drawn(4, 4, seed=1), _drawn(4, 4, seed=2)
    found = netparity.compare_weights({"key": a, "query": b}, {"key": b, "query": a})
    assert not found.equal
    assert {pair.a: pair.note for pair in found.pairs} == {
        "key": "A's numbers are query's in B; B's numbers are query's in A",
        "query": "A's numbers are key's in B; B's numbers are key's in A",
    }


def test_trained_networks_are_paired_by_likeness():
    ours = {"Conv_0.kernel": _drawn(3, 3, 2, 4), "Conv_1.kernel": _drawn(3, 3, 2, 4, seed=5), "Conv_1.bias": _drawn(4)}
    theirs = {
        "conv.0.weight": _drawn(4, 2, 3, 3),
        "conv.1.weight": _drawn(4, 2, 3, 3, seed=5),
        "conv.1.bias": _drawn(4) + 1,
    }
    found = netparity.compare_weights(ours, theirs)
    assert {(pair.a, pair.b) for pair in found.pairs} == {
        ("Conv_0.kernel", "conv.0.weight"), ("Conv_1.kernel", "conv.1.weight"), ("Conv_1.bias", "conv.1.bias")
    }  # fmt: skip
    assert all(pair.error > 0.1 for pair in found.pairs)
    assert [pair.error for pair in found.pairs] == sorted((pair.error for pair in found.pairs), reverse=True)


@pytest.mark.parametrize("changed", [lambda x: x.astype(np.float16), lambda x: x + np.float32(0.02)])
def test_a_network_that_was_changed_a_little_is_paired_by_its_numbers(changed):
    """Names tell nothing, sizes are the same, and one array is packed, another flattened."""
    kernels = [_drawn(12, 12, seed=seed) for seed in range(6)]
    ours = {f"Dense_{i}.kernel": kernel for i, kernel in enumerate(kernels)}
    rows = kernels[3].reshape(2, 3, 2, 12).transpose(2, 0, 1, 3).reshape(12, 12)
    theirs = {
        "head.weight": changed(kernels[5].T),
        "qkv": changed(np.concatenate([kernel.T for kernel in kernels[:3]])),
        "stem.weight": changed(rows.T),
        "mlp.weight": changed(kernels[4]),
    }
    found = netparity.compare_weights(ours, theirs)
    assert {(pair.a, pair.b, pair.layout) for pair in found.pairs} == {
        ("Dense_0.kernel", "qkv[0/3]", "transposed"),
        ("Dense_1.kernel", "qkv[1/3]", "transposed"),
        ("Dense_2.kernel", "qkv[2/3]", "transposed"),
        ("Dense_3.kernel", "stem.weight", "transposed, columns flattened as (2, 6) for (6, 2)"),
        ("Dense_4.kernel", "mlp.weight", ""),
        ("Dense_5.kernel", "head.weight", "transposed"),
    }
    assert all(0 < pair.error < 0.02 for pair in found.pairs)
    assert (found.only_a, found.only_b) == ({}, {})


def test_two_biases_of_an_lstm_are_one_in_flax():
    ih, hh = _drawn(20, seed=1), _drawn(20, seed=2)
    ours = {f"cell.h{gate}.bias": (ih + hh)[5 * i : 5 * i + 5] for i, gate in enumerate("ifgo")}
    found = netparity.compare_weights(ours, {"lstm.bias_ih_l0": ih, "lstm.bias_hh_l0": hh})
    assert found.equal
    assert ("cell.hf.bias", "lstm.bias_ih_l0 + lstm.bias_hh_l0[1/4]") in {(pair.a, pair.b) for pair in found.pairs}


def test_what_only_one_side_has_is_listed():
    found = netparity.compare_weights({"a": DENSE, "scale": _drawn(3)}, {"a": DENSE, "bias": _drawn(5)})
    assert not found.equal
    assert (found.only_a, found.only_b) == ({"scale": (3,)}, {"bias": (5,)})
    misfit = netparity.compare_weights({"w": _drawn(3)}, {"w": _drawn(5)})
    assert [(pair.error, pair.note) for pair in misfit.pairs] == [(math.inf, "these shapes fit in no layout")]


@pytest.mark.parametrize("value", [object(), "text", np.array(["text"]), np.array([1j])])
def test_what_is_no_array_of_numbers_is_refused(value):
    with pytest.raises(netparity.ParityError, match="weight"):
        netparity.compare_weights({"weight": value}, {"weight": DENSE})
    with pytest.raises(netparity.ParityError, match="there are no arrays in b"):
        netparity.compare_weights({"weight": DENSE}, {})


# ---------------------------------------------------------------------------------------------------- files


def _written(folder, kind):
    """The same weights in files of every kind."""
    ours = {"Conv_0": {"kernel": CONV, "bias": _drawn(6)}}
    theirs = {"conv.weight": CONV.transpose(3, 2, 0, 1).copy(), "conv.bias": _drawn(6)}
    tensors = {name: torch.from_numpy(value) for name, value in theirs.items()}
    path = folder / f"weights.{kind.split()[-1]}"
    if kind == "safetensors":
        save_file(theirs, path)
    elif kind == "npz":
        np.savez(path, **theirs)
    elif kind == "msgpack":
        path.write_bytes(serialization.msgpack_serialize({"params": ours}))
    elif kind == "trained pt":
        torch.save({"epoch": 3, "state_dict": tensors, "optimizer": {"lr": 0.1}}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind != "old pth")
    return path


@pytest.mark.parametrize("kind", ["safetensors", "npz", "msgpack", "pth", "old pth", "trained pt", "bin"])
def test_files_of_every_kind_are_equal(tmp_path, kind, capsys):
    (tmp_path / "b").mkdir()
    assert main.main(["weights", str(_written(tmp_path, kind)), str(_written(tmp_path / "b", "msgpack"))]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 pairs are equal" in printed
    assert printed.endswith("EQUAL\n")


def test_a_checkpoint_in_several_files_is_one(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    save_file({"conv.weight": CONV.transpose(3, 2, 0, 1).copy()}, folder / "model-00001-of-00002.safetensors")
    save_file({"conv.bias": _drawn(6)}, folder / "model-00002-of-00002.safetensors")
    assert main.main(["weights", str(folder), str(_written(tmp_path, "msgpack"))]) == 0


def test_a_folder_of_orbax_is_read(tmp_path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", {"params": {"Dense_0": {"kernel": DENSE}}, "step": np.int32(3)})
    with checkpoints.opened(tmp_path / "orbax") as arrays:
        assert set(arrays) == {"params.Dense_0.kernel", "step"}
        np.testing.assert_array_equal(arrays["params.Dense_0.kernel"], DENSE)


def test_bfloat16_is_read_of_both_kinds_of_file(tmp_path):
    tensor = torch.tensor([1.0, 0.1, -3.5]).to(torch.bfloat16)
    torch.save({"w": tensor}, tmp_path / "w.pt")
    save_file({"w": np.array([1.0, 0.1, -3.5], ml_dtypes.bfloat16)}, tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        with checkpoints.opened(tmp_path / name) as arrays:
            assert arrays["w"].dtype == ml_dtypes.bfloat16
            assert arrays["w"].astype(np.float32).tolist() == [1.0, 0.10009765625, -3.5]


def test_the_table_has_the_worst_first(tmp_path, capsys):
    a = {f"layer{i}.weight": _drawn(4, 3, seed=i) for i in range(30)}
    b = {name: value.copy() for name, value in a.items()}
    b["layer7.weight"][2, 1] += 1
    b["layer8.weight"][3, 0] += 100
    save_file(a, tmp_path / "a.safetensors")
    save_file(b | {"extra": _drawn(2)}, tmp_path / "b.safetensors")
    command = ["weights", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    assert main.main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("layer8.weight")
    assert lines[3].endswith("at [3, 0]")
    assert lines[4].startswith("layer7.weight")
    assert "… and 8 more that are equal (--all lists them)" in lines
    assert next(line.split() for line in lines if "only in B" in line) == ["-", "extra", "2", "only", "in", "B"]
    assert lines[-2] == "28 of 30 pairs are equal, 0 of them in another layout; 0 only in A, 1 only in B"
    assert main.main([*command, "--all"]) == 1
    assert sum("equal" in line for line in capsys.readouterr().out.splitlines()) == 29


class _Anything:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("absent.npz", None, "absent.npz: no such file"),
        ("", None, "is no checkpoint: there are neither"),
        ("notes.txt", b"text", "its name has to end in .safetensors"),
        ("bad.safetensors", b"text", "is no readable .safetensors"),
        ("bad.npz", b"text", "is no readable .npz"),
        ("bad.pth", b"text", "bad.pth"),
        ("bad.msgpack", b"\xc1", "is no readable .msgpack"),
        ("code.pth", _Anything(), "holds more than tensors"),
        ("none.pth", {"epoch": 3}, "there are no arrays in it"),
        ("objects.npz", np.array([_Anything()], object), "holds objects, not numbers"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, make, message, capsys):
    path = tmp_path / name
    if isinstance(make, bytes):
        path.write_bytes(make)
    elif name.endswith(".npz") and make is not None:
        np.savez(path, objects=make)
    elif make is not None:
        torch.save(make, path)
    (tmp_path / "b").mkdir()
    save_file({"w": DENSE}, tmp_path / "b" / "b.safetensors")
    assert main.main(["weights", str(path), str(tmp_path / "b" / "b.safetensors")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "must never" not in captured.out + captured.err


@pytest.mark.parametrize("rtol", ["-1", "nan", "inf", "x"])
def test_a_tolerance_that_is_none_is_refused(tmp_path, rtol, capsys):
    save_file({"w": DENSE}, tmp_path / "w.safetensors")
    assert main.main(["weights", *[str(tmp_path / "w.safetensors")] * 2, "--rtol", rtol]) == 2
    assert "--rtol" in capsys.readouterr().err
