"""shell/get_published_data.sh, from a repository made on the spot.

1. Each file is found by its digest, under whatever path, placed whole, and named in one line; twice is as once, and needs
   no repository.
2. What exists is kept: the published file is said to be there, another one is an error.
3. A file that is missing or changed in the repository is one line and exit 2; the rest is placed.
4. The table that it works from is that of tlrec/data/published.py.
"""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.shell.conftest import program
from tlrec.data.published import FILES

PLACES = {"cot_data/stage123.json": "CoT records", "rec_data/movie/test.json": "Movie test"}
CONTENT = {"cot_data/stage123.json": b"[1]\r\n", "rec_data/movie/test.json": "[\u00e9]".encode("latin-1")}


def git(folder, *words):
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=false"]
    done = subprocess.run(["git", "-C", folder, *own, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def public(tmp_path):
    """A repository that keeps the two files of CONTENT under older names."""
    folder = tmp_path / "the public one"
    (folder / "old").mkdir(parents=True)
    git(folder, "init", "-q")
    for number, content in enumerate(CONTENT.values()):
        (folder / "old" / f"{number}.json").write_bytes(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "data")
    return folder


@pytest.fixture
def fetch(public, tmp_path):
    """fetch(repository, python) -> (exit status, lines of stdout before the licences, lines of stderr, ROOT_PATH), by
    default with a table of the two files."""
    root = tmp_path / "a root"
    lines = [f"{git(public, 'hash-object', f'old/{n}.json')} {path} {PLACES[path]}" for n, path in enumerate(CONTENT)]
    table = program(tmp_path / "python", "cat <<END\n" + "\n".join(lines) + "\nEND\n")

    def run(repository=public, python=table):
        command = ["bash", REPOSITORY / "shell" / "get_published_data.sh", repository]
        environment = os.environ | {"PYTHON": python, "ROOT_PATH": str(root)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        said, _, terms = done.stdout.partition("These are data sets of others")
        assert ("GroupLens" in terms and "Netflix Prize" in terms and "WWW 2005" in terms) or not terms
        return done.returncode, said.splitlines(), done.stderr.splitlines(), root

    return run


def test_placed_once(fetch):
    status, out, err, root = fetch()
    assert (status, err) == (0, [])
    assert out[1:] == [f"{root}/{path}: {name}, as published" for path, name in PLACES.items()]
    assert {path: (root / path).read_bytes() for path in CONTENT} == CONTENT
    assert sum(path.is_file() for path in root.rglob("*")) == 2
    again = [f"{root}/{path}: {name}, as published (was there already)" for path, name in PLACES.items()]
    assert fetch("/no/repository") == (0, again, [], root)


def test_what_exists_is_kept(fetch, tmp_path):
    own = tmp_path / "a root" / "rec_data" / "movie" / "test.json"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    status, out, (line,), root = fetch()
    assert (status, own.read_text(), len(out)) == (2, "mine", 2)
    assert line.startswith(f"error: {own}: is another file than the published Movie test and was kept;")
    assert (root / "cot_data" / "stage123.json").read_bytes() == CONTENT["cot_data/stage123.json"]


def test_what_the_repository_lacks(fetch, public):
    status, _, (line,), root = fetch("/no/repository")
    assert status == 2 and line.startswith("error: /no/repository: cannot be cloned: ") and not root.exists()
    (public / "old" / "0.json").write_text("[2]")
    git(public, "commit", "-qam", "changed")
    status, out, (line,), _ = fetch()
    assert (status, len(out)) == (2, 2) and line.startswith("error: cot_data/stage123.json: the published CoT records ")
    assert not (root / "cot_data").exists() and (root / "rec_data/movie/test.json").exists()
    status, _, lines, _ = fetch(python=sys.executable)  # of the real table it has none
    assert status == 2 and len(lines) == len(FILES) == 9
    for line, (path, (blob, name)) in zip(lines, FILES.items()):
        if path != "rec_data/movie/test.json":  # which is there now
            assert line.startswith(f"error: {path}: the published {name} (git blob {blob}) is not in {public};")
