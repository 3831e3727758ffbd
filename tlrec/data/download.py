"""Downloads that can be continued: a cache folder, a progress bar, a digest, and the wanted files of an archive."""

import hashlib
import os
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from tlrec.errors import InputError
from tlrec.files import whole_file

TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 16


@dataclass(frozen=True)
class Archive:
    """A zip file at a public address: its digest as "md5:HEX" or "sha256:HEX", and the files wanted from it."""

    url: str
    digest: str
    members: tuple[str, ...]


def fetch(archive, cache):
    """The folder, below `cache`, that holds the members of the archive; downloads what is not there yet.

    A broken download stays as `NAME.part` and is continued by the next call. Raises InputError if the address does
    not answer, the connection breaks, the digest differs (the file is removed then), or a member is missing.
    """
    cache = Path(cache).expanduser()
    path = cache / archive.url.rsplit("/", 1)[-1]
    if not (path.exists() and _digest(path, archive.digest) == archive.digest):
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        _download(archive.url, part)
        found = _digest(part, archive.digest)
        if found != archive.digest:
            part.unlink()
            raise InputError(
                f"{archive.url}: its digest is {found}, not {archive.digest}; removed: try again, or give --digest"
            )
        os.replace(part, path)
    return _unpack(path, archive.members)


def _download(url, part):
    """Append to `part` what it lacks of `url`."""
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if answer.status != 206:  # a server without ranges sends the whole file
                have = 0
            length = answer.headers["Content-Length"]
            total = have + int(length) if length else None
            bar = tqdm(desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, disable=None)
            with open(part, "ab" if have else "wb") as file, bar:
                while block := answer.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing; the digest is checked next
            return
        raise InputError(
            f"{url}: {error.code} {error.reason}; give another address as --url, or get it by hand for --raw"
        ) from None
    except ValueError as error:
        raise InputError(f"--url {url}: {error}") from None
    except (OSError, HTTPException) as error:  # URLError is an OSError
        raise InputError(f"{url}: {error}; run the same command again to continue") from None
    have = part.stat().st_size
    if total and have < total:
        raise InputError(f"{url}: stopped at {have} of {total} bytes; run the same command again to continue")


def _digest(path, like):
    name = like.partition(":")[0]
    if name not in hashlib.algorithms_guaranteed or not hashlib.new(name).digest_size:
        raise InputError(f"--digest {like}: write it as sha256:HEX or md5:HEX")
    with open(path, "rb") as file:
        return f"{name}:{hashlib.file_digest(file, name).hexdigest()}"


def _unpack(path, members):
    folder = path.with_suffix("")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name: name for name in archive.namelist()}
            for member in members:
                if member not in names:
                    raise InputError(f"{path}: {member} is not in it")
                with archive.open(names[member]) as source, whole_file(folder / member, "wb") as target:
                    while block := source.read(BLOCK):
                        target.write(block)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: not a zip archive: {error}") from None
    return folder
