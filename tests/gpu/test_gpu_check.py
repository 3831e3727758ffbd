"""shell/gpu_check.sh on a pretended GPU: every check passes, and one that fails is said, in the table and in the status."""

import json
import subprocess

import pytest
import torch

from benchmarks import gpu_check
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def test_every_check_passes_on_a_pretended_gpu(tmp_path):
    folder = tmp_path / "which is not" / "there yet"
    command = ["bash", REPOSITORY / "shell" / "gpu_check.sh", "0", "--pretend", "--output_dir", folder]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr[-2000:]
    report = json.loads((folder / "gpu_check.json").read_text())
    assert report["pretended"] and [path.name for path in folder.iterdir()] == ["gpu_check.json"]
    found = {check["check"]: check for check in report["checks"]}
    assert len(found) == len(gpu_check.CHECKS) == 12
    not_done = [name for name, check in found.items() if check["passed"] is None]
    assert not_done == ["Two processes, and FSDP, tune as one does; both are evaluated."]
    assert "Fake GPU, 1 visible, driver pretended" in found["Driver, CUDA, capability and memory."]["found"]
    for check in found.values():
        assert check["found"] in made.stdout


def test_a_check_that_fails(tmp_path, monkeypatch, capsys):
    def wrong(box):
        """A tensor that is left on the CPU."""
        return str(torch.zeros(2, device="cuda") + torch.zeros(2))

    monkeypatch.setattr(gpu_check, "CHECKS", [gpu_check.machine, wrong])
    assert gpu_check.main(["--pretend", "--output_dir", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "gpu_check.json").read_text())["checks"]
    assert [check["passed"] for check in report] == [True, False]
    assert report[1]["found"].startswith("RuntimeError: Expected all tensors to be on the same device")
    assert "1 of 2 checks failed" in capsys.readouterr().out
    assert "A tensor that is left on the CPU.\nTraceback" in (tmp_path / "gpu_check_errors.txt").read_text()
