"""What the tests of data preparation share: both scripts as modules, what they wrote read back, raw files of MovieLens."""

import csv
import importlib.util
import sys

import pytest

from tests.conftest import REPOSITORY
from tlrec.data.records import read_records
from tlrec.errors import InputError


def load_script(folder):
    """The script as a module, with its readers importable as when it is run."""
    sys.path.insert(0, str(REPOSITORY / folder))
    spec = importlib.util.spec_from_file_location(f"{folder}_prepare", REPOSITORY / folder / "prepare_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPTS = {"movie": load_script("rec_data"), "netflix": load_script("instruction_data")}
SCRIPTS |= {"book": SCRIPTS["movie"], "amazon-book": SCRIPTS["netflix"]}


def prepare(domain, raw, output, *flags):
    SCRIPTS[domain].main(["--domain", domain, "--raw", str(raw), "--output", str(output), *map(str, flags)])


def inputs_and_outputs(output):
    """All records of a data set, train, valid and test in a row, as (input, output)."""
    splits = [read_records(output / f"{split}.json") for split in ("train", "valid", "test")]
    return [(record["input"], record["output"]) for records in splits for record in records]


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def wording(likes, dislikes, target, kind="movie"):
    """An input spelled out, items as they are written."""
    return (
        f"User Preference: {likes}\nUser Unpreference: {dislikes}\n"
        f"Whether the user will like the target {kind} {target}?"
    )


def spoil(path, old, new, encoding):
    """Replace `old` by `new` in a raw file; remove the file if `old` is None."""
    if old is None:
        return path.unlink()
    content = path.read_text(encoding=encoding)
    assert old in content
    path.write_text(content.replace(old, new), encoding="latin-1")


def expect_error(call, message, output):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
    assert not output.exists()
    assert not list(output.parent.glob(".*part"))


U_ITEM = """1|Toy Story (1995)|01-Jan-1995||http://x|0
2|Amélie (2001)|||http://x|0
3|No "Quotes", Please (1999)|||http://x|1
4|Yes, Yes (2004)|||http://x|1
"""
U_DATA = """7\t1\t3\t100
5\t2\t4\t300
7\t2\t1\t99
7\t3\t2\t100
5\t1\t2\t200
7\t4\t4\t999
5\t4\t5\t300
5\t3\t3\t400
"""
