"""Published files are known by their content: tlrec/data/published.py.

1. The digest is git's own, and every file of the table is named once.
2. A published file has its name under any path; one byte more, and it has none.
3. `python -m tlrec.check` says so.
"""

import subprocess

from tlrec.check import main as check
from tlrec.data.published import FILES, git_blob_sha1, published_name


def test_the_digest_is_gits(tmp_path):
    for content in (b"", b"[]\r\n", bytes(range(256)) * 9000):
        (tmp_path / "file").write_bytes(content)
        git = subprocess.run(["git", "hash-object", "--no-filters", tmp_path / "file"], capture_output=True, text=True)
        assert git_blob_sha1(tmp_path / "file") == git.stdout.strip()
    assert len(FILES) == len({blob for blob, _ in FILES.values()}) == len({name for _, name in FILES.values()}) == 9


def test_known_by_content(shared_data, tmp_path, capsys):
    for path in ("rec_data/movie/valid.json", "rec_data/movie/test.json", "rec_data/book/test.json"):
        assert published_name(shared_data / path) == FILES[path][1]
    assert published_name(shared_data / "rec_data/book/valid.json") is None  # cut from the published file
    copy = tmp_path / "x.json"
    for more, said in ((b"", True), (b"\n", False)):
        copy.write_bytes((shared_data / "rec_data/movie/test.json").read_bytes() + more)
        check([str(copy)])
        assert ("  Movie test, as published\n" in capsys.readouterr().out) == said
