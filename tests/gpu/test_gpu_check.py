"""benchmarks/gpu_check.py on a pretended GPU: every check passes, and one that fails is said, in the table and in the status."""

import json
import os
import subprocess

import pytest
import torch

from benchmarks import gpu_check
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def test_every_check_passes_on_a_pretended_gpu(tmp_path, monkeypatch, capsys):
    """Tuning in two of the four number types; a pretended GPU computes them all alike."""
    alike = ("Tuning, --dtype float16.", "Tuning, --quantization 8bit.")
    monkeypatch.setattr(gpu_check, "CHECKS", [each for each in gpu_check.CHECKS if each.__doc__ not in alike])
    folder = tmp_path / "which is not" / "there yet"
    status, printed = gpu_check.main(["--pretend", "--output_dir", str(folder)]), capsys.readouterr().out
    assert status == 0, printed
    report = json.loads((folder / "gpu_check.json").read_text())
    assert report["pretended"] and [path.name for path in folder.iterdir()] == ["gpu_check.json"]
    found = {check["check"]: check for check in report["checks"]}
    assert len(found) == 10 and all(check["found"] in printed for check in found.values())
    not_done = [name for name, check in found.items() if check["passed"] is None]
    assert not_done == ["Two processes, and FSDP, tune as one does; both are evaluated."]
    assert "Fake GPU, 1 visible, driver pretended" in found["Driver, CUDA, capability and memory."]["found"]


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


def test_the_launcher():
    command = ["bash", REPOSITORY / "shell" / "gpu_check.sh", "0", "--pretend"]
    made = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHON": "echo"})
    assert (made.returncode, made.stdout) == (0, f"{REPOSITORY}/benchmarks/gpu_check.py --pretend\n")
