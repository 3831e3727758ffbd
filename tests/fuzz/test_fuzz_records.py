"""Record files with anything in them, and with any damage.

1. Any JSON, and any bytes: the rows that json.load gives, or an InputError of one line that names the file. What is
   accepted can be written as UTF-8 and goes through a tokenizer. The layout does not matter.
2. What was written is read again, and a file that is cut or changed at any byte is read or refused.
3. A RecordSet says and gives the same as read_records.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import as_json, damaged, said, values
from tlrec.data import records as records_module
from tlrec.data.preferences import read_checked
from tlrec.data.records import FIELDS, RecordSet, check_two_classes, read_records, write_records

pytestmark = pytest.mark.slow

records = st.fixed_dictionaries(
    {"instruction": st.text(), "input": st.text(), "output": st.sampled_from(["Yes.", "No."])},
)
odd_rows = st.one_of(
    records,
    values,
    st.builds(lambda record, key, value: record | {key: value}, records, st.sampled_from((*FIELDS, "user")), values),
    st.builds(lambda record, key: {k: v for k, v in record.items() if k != key}, records, st.sampled_from(FIELDS)),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "records.json"


def read_all_ways(path):
    """What read_records gives, or what it says; the other readers must agree."""
    found, message = said(path, lambda: read_records(path))
    again, same_message = said(path, lambda: list(RecordSet(path)))
    assert (again, same_message) == (found, message)
    said(path, lambda: read_checked(path))
    if found:
        said(path, lambda: check_two_classes(found, path))
        assert all(set(row) == set(FIELDS) and "".join(row.values()).encode() for row in found)
    return found, message


@given(st.lists(records, min_size=1, max_size=6))
def test_what_was_written_is_read(path, rows):
    write_records(path, rows)
    assert read_all_ways(path) == (rows, None)


@given(st.one_of(values, st.lists(odd_rows, max_size=6)))
def test_any_json(path, value):
    path.write_text(as_json(value))
    found, _ = read_all_ways(path)
    if found is not None:
        value = json.loads(path.read_text())
        rows = value if isinstance(value, list) else [value]
        assert found == [{field: row[field] for field in FIELDS} for row in rows]
        path.write_text("\n".join(map(json.dumps, rows)))
        assert read_all_ways(path) == (found, None)


@given(st.one_of(st.binary(), st.lists(st.sampled_from([*'[]{},:"\\ \n1-e.', '"input":', "null"])).map("".join)))
def test_any_bytes(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read_all_ways(path)


@given(st.lists(records, min_size=1, max_size=4), damaged(), st.sampled_from([1, 13, 1 << 20]))
def test_any_damage(path, rows, damage, block):
    write_records(path, rows)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records_module, "BLOCK", block)
        read_all_ways(path)
