"""What the launcher leaves to DVC, and how DVC's errors and unusual files are handled."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nas.commands.bookkeeping import Bookkeeping, BookkeepingError, updated
from nas.commands.fork_server import ForkServer
from nas.commands.launch import PLAIN, Launch

pytestmark = [pytest.mark.pipeline, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of DVC

PIPELINE = """\
stages:
  first:
    cmd: echo 1 > first
    deps: [in]
    params: [x]
    outs: [first]
  second:
    cmd: cat first > second
    deps: [first]
    outs: [second]
"""


class NoServer(ForkServer):
    """Stands in for the fork server; the commands of these stages need a shell."""

    def __init__(self):
        pass

    def signal(self, signum):
        pass


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository of DVC with two stages that a shell runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG"):
        monkeypatch.setenv(f"DVC_{name}_DIR", str(tmp_path / ".home" / name))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("SHELL", "/bin/sh")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
    Path("dvc.yaml").write_text(PIPELINE)
    Path("params.yaml").write_text("x: 1\n")
    Path("in").write_text("1")
    return tmp_path


def launched():
    return Launch(Bookkeeping(), NoServer(), [""], {})


def run_all():
    run = launched()
    return [run.stage(name) for name in run.books.stages]


def is_clean():
    status = subprocess.run([sys.executable, "-m", "dvc", "status"], capture_output=True, text=True, check=True)
    return "up to date" in status.stdout


def write_pipeline(**changes):
    stages = yaml.safe_load(PIPELINE)
    for name, change in changes.items():
        stages["stages"].setdefault(name, {}).update(change)
    Path("dvc.yaml").write_text(yaml.safe_dump(stages))


def test_stages_that_a_shell_runs(project):
    assert run_all() == [True, True]
    assert Path("second").read_text() == "1\n"
    assert is_clean()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda: Path("in").unlink(), "No such file or directory"),
        (lambda: Path("params.yaml").write_text("x: [\n"), "params.yaml"),
        (lambda: write_pipeline(first={"cmd": "true"}), "'first' does not exist"),
    ],
    ids=["no dependency", "invalid params.yaml", "no output"],
)
def test_an_error_of_dvc_fails_the_stage_and_leaves_no_lock(project, capfd, change, reason):
    run = launched() if "params" in reason else None
    change()
    run = run or launched()
    assert not run.stage("first")
    output = capfd.readouterr().err
    assert "error: stage 'first' failed: " in output
    assert reason in output
    assert "pid" not in Path(".dvc/tmp/rwlock").read_text()


def test_a_failing_command_leaves_no_lock(project, capfd):
    write_pipeline(first={"cmd": "exit 3"})
    assert not launched().stage("first")
    assert "stage 'first' failed with exit code 3" in capfd.readouterr().err
    assert "pid" not in Path(".dvc/tmp/rwlock").read_text()


def test_invalid_pipelines_raise_an_error_with_the_message_of_dvc(project):
    Path("dvc.yaml").write_text("stages:\n  first:\n    outs: [first]\n")
    with pytest.raises(BookkeepingError, match=r"dvc\.yaml"):
        Bookkeeping()


def test_a_folder_without_dvc_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BookkeepingError, match="not inside of a DVC repository"):
        Bookkeeping()


def test_lists_of_commands_and_other_folders_are_run_by_dvc(project):
    Path("sub").mkdir()
    write_pipeline(
        first={"cmd": ["echo 1 > first", "echo 2 >> first"]},
        third={"cmd": "echo 3 > third", "wdir": "sub", "outs": ["third"]},
    )
    assert run_all() == [True] * 3
    assert Path("second").read_text() == "1\n2\n"
    assert Path("sub/third").exists()
    assert is_clean()


def test_a_frozen_stage_is_not_run(project):
    run_all()
    write_pipeline(first={"frozen": True, "cmd": "echo other > first"})
    Path("in").write_text("2")
    assert run_all() == [True, True]
    assert Path("first").read_text() == "1\n"


def test_data_that_dvc_tracks_is_no_stage_to_run(project):
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "in"], check=True)
    assert run_all() == [True] * 3
    Path("in").unlink()
    Path("in").write_text("2")
    assert run_all() == [True] * 3
    assert is_clean()


def test_a_stage_that_always_changes_runs_again(project):
    write_pipeline(second={"always_changed": True, "cmd": "cat first > second; echo x >> log"})
    run_all()
    run_all()
    assert Path("log").read_text() == "x\nx\n"


def test_an_output_that_persists_is_kept_before_the_run(project):
    write_pipeline(first={"cmd": "echo 1 >> first", "outs": [{"first": {"persist": True}}]})
    run_all()
    Path("in").write_text("2")
    run_all()
    assert Path("first").read_text() == "1\n1\n"
    assert is_clean()


@pytest.mark.parametrize("text", ["schema: '2.0'\nstages: {}\n", "stages:\r\nschema: '2.0'\r\n", "schema: '2.0'\n"])
def test_other_forms_of_an_empty_lock(project, text):
    if text.startswith("stages:"):
        run_all()
        text = Path("dvc.lock").read_text().replace("\n", "\r\n")
        Path("in").write_text("2")
    Path("dvc.lock").write_bytes(text.encode())
    assert run_all() == [True, True]
    assert set(yaml.safe_load(Path("dvc.lock").read_text())["stages"]) == {"first", "second"}
    assert is_clean()


def test_a_lock_with_blank_lines_and_comments():
    """A user's comment, or a command of several paragraphs, does not end the list of stages."""
    text = "schema: '2.0'\nstages:\n  a:\n    cmd: 'a\n\n      b'\n\n# note\n  c:\n    cmd: c\nother: 1\n"
    assert updated(text, {"c": {"cmd": "d"}}) == text.replace("cmd: c", "cmd: d")
    assert updated(text, {"e": {"cmd": "e"}}) == text.replace("other", "  e:\n    cmd: e\nother")


def test_a_run_that_was_stopped_begins_nothing(project):
    run = launched()
    begin = run.books.begin

    def stopped_meanwhile(name):
        command = begin(name)
        run.stop(15, None)
        return command

    run.books.begin = stopped_meanwhile
    assert not run.stage("first")
    assert not Path("first").exists()
    assert "pid" not in Path(".dvc/tmp/rwlock").read_text()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python -m stages.search --run lfr_darts-0", True),
        ("python -m stages.prepare", True),
        ("python -m stages.search --run a && echo done", False),
        ("python -m stages.search --run 'a b'", False),
        ("python -m other.search", False),
        ("python3 -m stages.search", False),
    ],
)
def test_commands_that_need_no_shell(command, expected):
    assert bool(PLAIN.fullmatch(command)) == expected
