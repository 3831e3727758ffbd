"""Downloads of raw files, tlrec/data/download.py: they go on where they broke off, and are checked."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.preparation import SCRIPTS, U_DATA, U_ITEM, inputs_and_outputs, prepare
from tlrec.errors import InputError


class Server(ThreadingHTTPServer):
    """Serves one archive on the loopback address; `breaks_after` bytes, the connection ends."""

    content, breaks_after, ranges = b"", None, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}/ml-100k.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.asked.append(asked)
        if not self.path.endswith("ml-100k.zip"):
            return self.send_error(404)
        begin = int(asked[6:-1]) if asked and server.ranges else 0
        if begin >= len(server.content):
            return self.send_error(416)
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ml-100k/u.data", U_DATA)
        file.writestr("ml-100k/u.item", U_ITEM.encode("latin-1"))
        file.writestr("ml-100k/../../evil", "outside")
    server = Server()
    server.content = archive.getvalue()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def download(server, tmp_path, *flags, url=None):
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()
    SCRIPTS["movie"].main(
        ["--domain", "movie", "--download", "--cache", str(tmp_path / "cache"), "--url", url or server.url]
        + ["--digest", digest, "--output", str(tmp_path / "out"), "--history", "2", "--ratio", "2:1:1", *flags]
    )


def test_download_once(server, movie, tmp_path):
    download(server, tmp_path)
    prepare("movie", movie, tmp_path / "by_hand", "--history", 2, "--ratio", "2:1:1")
    assert inputs_and_outputs(tmp_path / "out") == inputs_and_outputs(tmp_path / "by_hand")
    download(server, tmp_path, "--overwrite")
    assert server.asked == [None]
    assert sorted(path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*")) == [
        "ml-100k",
        "ml-100k.zip",
        "ml-100k/u.data",
        "ml-100k/u.item",
    ]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(server, tmp_path, ranges):
    server.breaks_after, server.ranges = 100, ranges
    with pytest.raises(InputError) as error:
        download(server, tmp_path)
    assert str(error.value) == (
        f"{server.url}: stopped at 100 of {len(server.content)} bytes; run the same command again to continue"
    )
    assert (tmp_path / "cache" / "ml-100k.zip.part").read_bytes() == server.content[:100]
    assert not (tmp_path / "out").exists()
    server.breaks_after = None
    download(server, tmp_path)
    assert server.asked == [None, "bytes=100-"]
    assert (tmp_path / "cache" / "ml-100k.zip").read_bytes() == server.content
    assert len(inputs_and_outputs(tmp_path / "out")) == 4


def test_a_complete_part_is_used(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "ml-100k.zip.part").write_bytes(server.content)
    download(server, tmp_path)
    assert len(inputs_and_outputs(tmp_path / "out")) == 4


def test_a_wrong_digest_is_not_kept(server, tmp_path):
    found = "md5:" + hashlib.md5(server.content).hexdigest()
    expected = "md5:" + "0" * 32
    with pytest.raises(InputError) as error:
        download(server, tmp_path, "--digest", expected)
    message = f"{server.url}: its digest is {found}, not {expected}; removed: try again, or give --digest"
    assert str(error.value) == message
    assert list((tmp_path / "cache").iterdir()) == []


def test_addresses_that_do_not_serve(server, tmp_path):
    with pytest.raises(InputError) as error:
        download(server, tmp_path, url=server.url.replace("ml-100k", "gone"))
    assert str(error.value).endswith(
        "/gone.zip: 404 Not Found; give another address as --url, or get it by hand for --raw"
    )
    with pytest.raises(InputError, match="Connection refused>?; run the same command again to continue"):
        download(server, tmp_path, url="http://127.0.0.1:9/ml-100k.zip")
    with pytest.raises(InputError, match="ml-100k.zip: unknown url type"):
        download(server, tmp_path, url="ml-100k.zip")
    with pytest.raises(InputError, match="--digest crc:1: write it as sha256:HEX or md5:HEX"):
        download(server, tmp_path, "--digest", "crc:1")


def test_archives_without_the_files(server, tmp_path):
    server.content = b"<html>moved</html>"
    with pytest.raises(InputError, match="ml-100k.zip: not a zip archive: File is not a zip file"):
        download(server, tmp_path)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme", "")
    server.content = archive.getvalue()
    with pytest.raises(InputError, match="ml-100k.zip: u.data is not in it"):
        download(server, tmp_path)
