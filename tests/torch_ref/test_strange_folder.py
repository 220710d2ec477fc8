"""What writes beside the trainer: the reference, the parity report and the benchmarks lead nobody's link elsewhere."""

from __future__ import annotations

import torch

from benchmarks import result
from netparity.report import document
from torch_ref import train, weights


def test_other_writers_follow_no_link_under_a_temporary_name(tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("result.json.part", "model.pth.partial", "model.safetensors.partial", "report.json", "report.html"):
        (tmp_path / name).symlink_to(victim)
    result.write(tmp_path / "result.json", {"rows": []})
    weights.write_pth({"a": torch.zeros(2)}, tmp_path / "model.pth")
    document.write(document.to_dict({}, {}), tmp_path)
    assert all((tmp_path / name).is_file() for name in ("result.json", "model.pth"))
    assert not (tmp_path / "report.json").is_symlink()
    assert victim.read_text() == "mine"


def test_the_reference_refuses_a_folder_with_links(tmp_path, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").symlink_to(tmp_path / "new")
    flags = ["--dataset", "digits", "--width", "0.02", "--limit-train", "8", "--limit-eval", "4", "--num-epochs", "1"]
    assert train.main([*flags, "--workdir", str(tmp_path / "run")]) == 2
    assert "already holds a run (config.json)" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
