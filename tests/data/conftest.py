"""Raw files of MovieLens, which more than one file of tests prepares."""

import pytest

from tests.support.preparation import U_DATA, U_ITEM


@pytest.fixture
def movie(tmp_path):
    raw = tmp_path / "ml-100k"
    raw.mkdir()
    (raw / "u.item").write_text(U_ITEM, encoding="latin-1")
    (raw / "u.data").write_text(U_DATA)
    return raw
