"""Two small projects, each run once and shared by all test processes; a test that changes anything works on a copy."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.project import Project, environment, make


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test session share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "pipeline"
    folder.mkdir(exist_ok=True)
    return folder


def once(shared: Path, name: str, build: Callable[[Project], str], wait: bool = True) -> Project | None:
    """The project of that name, built by the first process to need it. None if another builds it and not `wait`."""
    folder, log = shared / name / "project", shared / name / "log"
    folder.parent.mkdir(exist_ok=True)
    with (shared / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return None
        if not log.exists():
            shutil.rmtree(folder, ignore_errors=True)
            log.write_text(build(seed(shared).copy(folder)))
    return Project(folder, environment(shared / "home"))


def seed(shared: Path) -> Project:
    """The project that all others are copies of: the working tree at one moment, despite later edits."""
    folder = shared / "seed"
    with (shared / "seed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".git" / "refs" / "heads" / "main").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder, shared / "home")
    return Project(folder, environment(shared / "home"))


def build_plain(project: Project) -> str:
    output = project.dvc("repro")
    project.commit()
    return output


def build_tracked(project: Project) -> str:
    del project.environment["NAS_TRACKING"]
    output = project.run("python", "-m", "nas", "repro", "--jobs", "2")
    project.commit()
    return output


@pytest.fixture(scope="session")
def base(shared: Path) -> Project:
    """A project after a run of the pipeline without MLflow, committed."""
    found = once(shared, "base", build_plain, wait=False)
    if found is None:  # another process builds it: build the other project in the meantime
        once(shared, "tracked", build_tracked)
        found = once(shared, "base", build_plain)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def tracked(shared: Path) -> Project:
    """Another project after a run of the pipeline, with a cache of its own and with MLflow."""
    found = once(shared, "tracked", build_tracked)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def base_log(base: Project) -> str:
    """The output of DVC and the stages when `base` ran."""
    return (base.folder.parent / "log").read_text()


@pytest.fixture
def clone(base: Project, tmp_path: Path) -> Project:
    return base.copy(tmp_path / "clone")


@pytest.fixture(scope="session")
def wired(shared: Path) -> Project:
    """A project after a run with stubs for stages (see stub.py), to test the decisions of DVC without torch."""
    python = shared / "stub" / "python"
    if not python.exists():
        python.parent.mkdir(exist_ok=True)
        beside = python.with_name(str(os.getpid()))
        beside.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("stub.py")}" "$@"\n')
        beside.chmod(0o755)
        beside.replace(python)

    def build(project: Project) -> str:
        return with_stubs(project).dvc("repro")

    def with_stubs(project: Project) -> Project:
        project.environment["PATH"] = f"{python.parent}{os.pathsep}{project.environment['PATH']}"
        return project

    found = once(shared, "wired", build)
    assert found is not None
    return with_stubs(found)


@pytest.fixture
def stub(wired: Project, tmp_path: Path) -> Project:
    """A copy of `wired`."""
    return wired.copy(tmp_path / "clone")
