"""Fixtures for tests of commands."""

import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the presets and params.yaml, to run in."""
    shutil.copytree(PROJECT / "presets", tmp_path / "presets")
    shutil.copy(PROJECT / "presets/digits.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path
