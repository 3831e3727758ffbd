"""setup.sh, test.sh and .ci/run: .venv is made once, and installed again only when requirements or constraints change; a
failed install counts for none; the tests' requirements are installed for the tests alone."""

import importlib.metadata
import os
import re
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tests.shell.conftest import program

# Stands for every Python: notes what it is asked; `-m venv` makes a folder with a copy of itself.
PYTHON = """
[ "$1" != -c ] || exit "${VERSION_STATUS:-0}"
[ "$1" != --version ] || { echo Python 3.11.9; exit; }
echo "$*" >> "$LOG"
[ "$2" != venv ] || { mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }
[ "$2" != pip ] || exit "${PIP_STATUS:-0}"
"""


@pytest.fixture
def repository(tmp_path):
    """The folder of requirements, setup.sh, test.sh and .ci/run."""
    root = tmp_path / "the repository"
    for path in ("shell/setup.sh", "shell/test.sh", ".ci/run"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, root / path)
    (root / "tests").mkdir()
    (root / "requirements.txt").write_text("torch==2.13.0\n")
    (root / "tests" / "requirements.txt").write_text("pytest==9.2.0\n")
    (root / "shell" / "constraints.txt").write_text("sympy==1.14.0\n")
    (root / "pyproject.toml").write_text('[project]\nname = "tlrec"\n')
    return root


@pytest.fixture
def run(repository, tmp_path):
    """run(line of bash, **environment) -> (process, what Python was asked); by default the line sources setup.sh."""
    log = tmp_path / "log"
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        program(tmp_path / "bin" / name, PYTHON)
    known = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOG": str(log)}

    def start(line='source "$1"/shell/setup.sh; echo "PYTHON is $PYTHON"', **environment):
        log.write_text("")
        command = ["bash", "-c", line, "bash", str(repository)]
        process = subprocess.run(command, capture_output=True, text=True, env=known | environment)
        return process, log.read_text().splitlines()

    return start


def pip_install(root, requirements, options=""):
    """The two commands: the requirements, then the package itself."""
    options = options or f"--constraint {root}/shell/constraints.txt"
    return [
        f"-m pip install --progress-bar on --requirement {root}/{requirements} {options}",
        f"-m pip install --quiet --no-deps --no-build-isolation --editable {root}",
    ]


def test_setup_makes_an_environment_once(run, repository):
    install = pip_install(repository, "requirements.txt")
    process, asked = run(PIP_STATUS="1")  # no network
    assert process.returncode == 1 and "PYTHON is" not in process.stdout
    assert asked == [f"-m venv {repository}/.venv", install[0]]
    process, asked = run()
    said, ready = process.stdout.splitlines()
    assert (process.returncode, asked, ready) == (0, install, f"PYTHON is {repository}/.venv/bin/python")
    assert said == "== installing requirements.txt into .venv, at the versions of shell/constraints.txt"
    for name in (None, "requirements.txt", "shell/constraints.txt", "pyproject.toml"):
        if name:
            (repository / name).write_text((repository / name).read_text() + "numpy==2.4.6\n")
            assert run()[1] == install
        process, asked = run()
        assert (process.stdout, asked) == (f"{ready}\n", [])


def test_another_build_of_torch(run, repository):
    """From its own index, without the versions of CUDA packages that belong to the default build, and for good."""
    pins = "nvidia-cublas==1\nsympy==1.14.0\ncuda-toolkit==2\ntriton==3\n"
    (repository / "shell" / "constraints.txt").write_text(pins)
    process, asked = run(TORCH_INDEX="https://index/cu126")
    own = repository / ".venv" / "constraints.txt"
    options = f"--constraint {own} --extra-index-url https://index/cu126"
    assert process.returncode == 0 and own.read_text() == "sympy==1.14.0\n"
    assert asked[1:] == pip_install(repository, "requirements.txt", options)
    assert run()[1] == run(TORCH_INDEX="https://index/cu126")[1] == []
    (repository / "requirements.txt").write_text("torch==2.14.0\n")
    assert run()[1] == asked[1:]
    process, asked = run(TORCH_INDEX="https://index/cpu")
    message = f"error: TORCH_INDEX: .venv has a PyTorch from elsewhere; remove {repository}/.venv and run this again\n"
    assert (process.returncode, process.stderr, asked) == (2, message, [])


@pytest.mark.parametrize("script", ["shell/test.sh", ".ci/run"])
def test_what_the_tests_need_is_installed_for_them_alone(run, repository, script):
    assert run()[1] == [f"-m venv {repository}/.venv", *pip_install(repository, "requirements.txt")]
    asked = ["-m ruff check .", "-m ruff format --check ."] if script == ".ci/run" else []
    asked.append("-m pytest -n 2 --dist loadfile")
    for version in ("9.2.0", "9.2.1"):
        (repository / "tests" / "requirements.txt").write_text(f"pytest=={version}\n")
        assert run(f'bash "$1"/{script}')[1] == [*pip_install(repository, "tests/requirements.txt"), *asked]
        assert run(f'bash "$1"/{script}')[1] == asked
    assert run('bash "$1"/shell/test.sh -x')[1] == [asked[-1] + " -x"]


def test_setup_leaves_an_environment_of_ones_own_alone(run, repository):
    process, asked = run(PYTHON="/my/python")
    assert (process.stdout, asked) == ("PYTHON is /my/python\n", [])
    process, asked = run(VERSION_STATUS="1")  # no Python that fits
    assert (process.returncode, process.stderr) == (2, "error: TLRec needs Python 3.11 to 3.13 on the PATH\n")
    assert asked == [] and not (repository / ".venv").exists()


def test_every_package_is_pinned():
    """All that the requirements bring along here, however far down, has its version in one of the three files."""

    def pins(*names):
        lines = [line for name in names for line in (REPOSITORY / name).read_text().splitlines()]
        return [(canonicalize_name(pin[1]), pin[2]) for line in lines if (pin := re.match(r"([\w.-]+)==(\S+)", line))]

    required = pins("requirements.txt", "tests/requirements.txt")
    assert len(dict(required)) == len(set(required))  # one version each
    installed = {canonicalize_name(package.name): package for package in importlib.metadata.distributions()}
    left, seen = [Requirement(name) for name, _ in required], set()
    while left:
        package = left.pop()
        name, extras = canonicalize_name(package.name), frozenset(package.extras or {""})
        if name in installed and (name, extras) not in seen:
            brought = map(Requirement, installed[name].requires or [])
            left += [r for r in brought if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in extras)]
        seen.add((name, extras))
    assert {name for name, _ in seen} <= {name for name, _ in required + pins("shell/constraints.txt")}
