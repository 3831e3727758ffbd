"""Raw files that are downloaded, prepare_data.py --download: fetched once, checked, unpacked inside the cache."""

import hashlib
import io
import zipfile

import pytest

from tests.support.hostile import serving
from tests.support.preparation import U_DATA, U_ITEM, inputs_and_outputs, prepare, run
from tlrec.errors import InputError


def zipped(files):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


@pytest.fixture
def server(monkeypatch):
    """Serves the archive `content` on the loopback address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def answer(request):
        found = request.path.endswith("ml-100k.zip")
        request.reply(server.content if found else b"", 200 if found else 404)

    with serving(answer) as server:
        names = {"ml-100k/u.data": U_DATA, "ml-100k/u.item": U_ITEM.encode("latin-1"), "ml-100k/../../evil": "outside"}
        server.content, server.url = zipped(names), f"{server.url}/ml-100k.zip"
        yield server


def download(server, tmp_path, *flags, url=None):
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()
    flags = ["--url", url or server.url, "--digest", digest, "--output", tmp_path / "out", *flags]
    run("--domain", "movie", "--download", "--cache", tmp_path / "cache", "--history", 2, "--ratio", "2:1:1", *flags)


def test_download_once(server, movie, tmp_path):
    download(server, tmp_path)
    prepare("movie", movie, tmp_path / "by_hand", "--history", 2, "--ratio", "2:1:1")
    assert inputs_and_outputs(tmp_path / "out") == inputs_and_outputs(tmp_path / "by_hand")
    download(server, tmp_path, "--overwrite")
    assert len(server.requests) == 1
    assert not (tmp_path / "evil").exists() and not (tmp_path.parent / "evil").exists()


def test_a_wrong_digest_is_not_used(server, tmp_path):
    with pytest.raises(InputError, match="ml-100k.zip: .* does not match .* try again, or give --url or --digest"):
        download(server, tmp_path, "--digest", "md5:" + "0" * 32)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="--digest crc:1: write it as sha256:HEX or md5:HEX"):
        download(server, tmp_path, "--digest", "crc:1")


def test_addresses_that_do_not_serve(server, tmp_path):
    with pytest.raises(
        InputError, match="/gone.zip: 404 .*; give another address as --url, or get it by hand for --raw"
    ):
        download(server, tmp_path, url=server.url.replace("ml-100k", "gone"))
    for url in ("http://127.0.0.1:9/ml-100k.zip", "ml-100k.zip", "crab://x/ml-100k.zip"):
        with pytest.raises(InputError, match="ml-100k.zip: .*; try again, or give --url or --digest") as error:
            download(server, tmp_path, url=url)
        assert "\n" not in str(error.value)


def test_archives_without_the_files(server, tmp_path):
    server.content = b"<html>moved</html>"
    with pytest.raises(InputError, match="ml-100k.zip: not a zip archive"):
        download(server, tmp_path)
    server.content = zipped({"readme": ""})
    with pytest.raises(InputError, match="ml-100k.zip: u.data is not in it"):
        download(server, tmp_path)
