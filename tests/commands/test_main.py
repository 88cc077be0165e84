"""The console command `nas`: its help, and what it says outside a project."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas.commands import main
from nas.commands.main import SECTIONS, app
from tests.test_habits import COMMANDS

PROJECT = Path(__file__).parents[2]
NEEDS = {  # command -> the file that it misses first outside a project
    ("repro",): "params.yaml",
    ("status",): "params.yaml",
    ("report",): "params.yaml",
    ("report", "--check"): "params.yaml",
    ("params", "check"): "params.yaml",
    ("track", "ui"): "params.yaml",
    ("track", "rebuild"): "params.yaml",
    ("preset", "list"): "presets/digits.yaml",
    ("preset", "show", "cifar10"): "presets/digits.yaml",
    ("preset", "use", "cifar10"): "presets/digits.yaml",
    ("ablate", "list"): "presets/ablations",
    ("ablate", "run", "is-nas-share"): "presets/ablations",
}


def run(*words):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words):
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"Usage: nas {' '.join(words)}".rstrip() in result.output.replace("root", "nas")
    listed = result.output.partition("Commands:")[2].splitlines()
    assert all(len(line.split()) > 1 for line in listed if line.strip()), "every command has a description"


def test_help_lists_every_command_once_under_a_heading():
    output = run("--help").output
    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted({words[0] for words in COMMANDS if words})
    assert all(f"\n{title}:\n" in output for title in SECTIONS)
    assert not [line for line in output.splitlines()[1:] if line.endswith("...")], "no description is cut off"


def test_help_ends_with_a_first_session():
    assert "nas repro " in run("--help").output.partition("A first session")[2]


@pytest.mark.parametrize("words", [("prest",), ("preset", "used"), ("repro", "--job", "2"), ("repro", "--jobs", "0")])
def test_an_unknown_command_or_option_is_a_usage_error(words):
    result = run(*words)
    assert result.exit_code == 2
    assert "Error: " in result.output


@pytest.mark.parametrize("words", NEEDS, ids=" ".join)
def test_outside_a_project_the_missing_file_and_the_remedy_are_named(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    result = run(*words)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {NEEDS[words]}: no such file in {tmp_path}. ")
    assert "change to your clone of the repository" in result.stderr
    assert not list(tmp_path.iterdir())


def test_without_dvc_repro_says_how_to_install_it(monkeypatch):
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(main, "find_spec", lambda name: None)
    result = run("status")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: DVC is not installed: run `make setup`")


def test_repro_launches_with_the_number_of_jobs(monkeypatch):
    from nas.commands import launch

    seen: list[int | None] = []
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(launch, "launch", seen.append)
    assert run("repro").exit_code == run("repro", "--jobs", "3").exit_code == 0
    assert seen == [None, 3]


def test_check_lists_the_trials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (PROJECT / "presets/digits.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    lines = run("params", "check").output.splitlines()
    assert lines[0] == "params.yaml is valid. Trials:"
    assert lines[3].split() == ["darts-0", "darts", "in", "space", "darts,", "seed", "0"]
    (tmp_path / "params.yaml").write_text(text.replace("alpha_lr:", "alpha_rl:", 1))
    refused = run("params", "check")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "'search.darts.alpha_rl' is not a known key" in refused.stderr


def test_the_version_is_that_of_the_package():
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert run("version").output.strip() == declared


def test_the_script_puts_this_environment_first_on_path(tmp_path):
    """DVC runs the stages with the `python` of PATH."""
    code = "from nas.commands import main; main.app = lambda: print(main.os.environ['PATH']); main.main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().split(":") == [str(Path(sys.executable).parent), str(tmp_path)]
