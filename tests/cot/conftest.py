"""The real script over loopback services: a source with many samples, a key, and retries that are quick."""

import json

import pytest

from tests.support.teaching import make_source
from tlrec.demo.teacher import MODEL


@pytest.fixture
def quick_retries(monkeypatch):
    """The client's own back-off, a hundred times as fast; the key and the address are this test's."""
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def root(tmp_path):
    """A workspace with a Netflix of 300 rows, below a path with a space."""
    make_source(tmp_path / "work space", rows=300)
    return tmp_path / "work space"


@pytest.fixture
def generate(run_script, root, quick_retries):
    """Ask the service at an address about twelve samples, if no flag says otherwise; (status, output, errors)."""

    def run(url, *flags):
        service = ["--base_url", url, "--model", MODEL, "--attempts", 3, "--max_samples", 12]
        return run_script("cot_data/generate_data.py", "--root_path", root, *service, *flags)

    return run


@pytest.fixture
def journal(root):
    """A function that reads the journal's lines but for the first."""
    path = root / "cot_data/netflix/three_stages.jsonl"
    return lambda: [json.loads(line) for line in path.read_bytes().split(b"\n")[1:-1]]


@pytest.fixture
def samples(root):
    """A function that reads three_stages.json."""
    return lambda: json.loads((root / "cot_data/netflix/three_stages.json").read_text())
