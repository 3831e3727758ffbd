"""The files of the paper's public repository (ljy2222/TLRec), known by content and not by name.

A digest is git's blob SHA-1, which `git hash-object FILE` prints.
"""

import hashlib
from pathlib import Path

# {path below ROOT_PATH, as in the public repository: (git blob SHA-1, what it is called here)}
FILES = {
    "cot_data/stage123.json": ("7cc3a205d7bcd0548dfe902e3f493e67a5ee7621", "CoT records"),
    "instruction_data/netflix/train.json": ("e97a22f12addc1744ac61bc99faa19b77dcf2fad", "Netflix train"),
    "instruction_data/amazon-book/train.json": ("bc5590c93f6bb0e25b70a667124c933c41b7ffe0", "Amazon-Book train"),
    "rec_data/movie/train.json": ("2bbe93bffecd30423606a6d8e78d22c9a6c5f64f", "Movie train"),
    "rec_data/movie/valid.json": ("d26599315557a9587cd74d83c1c565670361d215", "Movie valid"),
    "rec_data/movie/test.json": ("ee8bb62c56a82d6f176b07d094cc39e8a13878bc", "Movie test"),
    "rec_data/book/train.json": ("ca3b6b7b028a679ffac30eda342f1697b54d4156", "Book train"),
    "rec_data/book/valid.json": ("6bfc37282e913de25d333479ad3df4285bac1660", "Book valid"),
    "rec_data/book/test.json": ("5f06875fd757fc49c5e7334fe5b8969fa59c1634", "Book test"),
}


def git_blob_sha1(path):
    """Hexadecimal SHA-1 that git gives the file as a blob: of "blob SIZE", a zero byte, and the content."""
    digest = hashlib.sha1(b"blob %d\0" % Path(path).stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def published_name(path):
    """ "Movie test" for a file with the bytes of the published one, wherever it is and whatever it is called; else None."""
    digest = git_blob_sha1(path)
    return next((name for blob, name in FILES.values() if blob == digest), None)
