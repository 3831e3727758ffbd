"""What stands in more than one place of the project says the same everywhere."""

import tomllib

import yaml

from tests.conftest import REPOSITORY


def test_version_and_licence_of_the_citation():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
