"""Shared fixtures: real records where they are at hand."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real records (SHARED_DATA, by default beside the repository); tests skip where it is absent."""
    folder = Path(os.environ.get("SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "rec_data" / "movie" / "test.json").exists():
        pytest.skip(f"no real records at {folder}; set SHARED_DATA to their folder")
    return folder
