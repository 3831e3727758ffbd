"""What stands in more than one place of the project says the same everywhere."""

import tomllib

import yaml

from tests.conftest import REPOSITORY


def test_version_and_licence_of_the_citation():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert [author["name"] for author in citation["authors"]] == ["The TLRec authors"]


def test_continuous_integration_runs_every_python_that_setup_takes():
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "tests.yml").read_text())
    job = workflow["jobs"]["tests"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert "error: TLRec needs Python 3.11 to 3.13 on the PATH" in (REPOSITORY / "shell" / "setup.sh").read_text()
