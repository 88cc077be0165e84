"""An ablation through DVC: the stages are stubs (see stub.py); experiments, refs and metrics are real."""

import json
import os
import re
import signal
import sys

import pytest

from nas.commands.experiments import Experiments, find, working_state
from nas.commands.variants import read
from tests.pipeline.project import wait_until

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

ABLATION = """\
# Does the rate matter?
common:
  methods: [darts]
variants:
  slow:
    search: {darts: {alpha_lr: 0.001}}
  fast:
    search: {darts: {alpha_lr: 0.5}}
"""
RUN = (sys.executable, "-m", "nas", "ablate", "run", "rate")


@pytest.fixture
def project(stub):
    """A committed project with the ablation `rate`, whose stages are stubs."""
    stub.path("presets/ablations/rate.yaml").write_text(ABLATION)
    stub.commit()
    return stub


def shim(project, script):
    """Run a shell script before every `python` command of a stage; "$@" is the arguments."""
    path = project.path(".nas/bin/python")
    path.parent.mkdir(parents=True, exist_ok=True)
    after = project.environment["PATH"]
    path.write_text(f'#!/bin/sh\n{script}\nPATH="{after}" exec python "$@"\n')
    path.chmod(0o755)
    project.environment["PATH"] = f"{path.parent}{os.pathsep}{after}"
    return path


def experiments(project):
    """Name -> commit of every experiment."""
    lines = project.run("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps/*/*/*").splitlines()
    return {name.rpartition("/")[2]: commit for name, commit in map(str.split, lines)}


def error_in(project, experiment):
    """The test error in an experiment's commit."""
    text = project.run("git", "show", f"{experiments(project)[experiment]}:runs/darts-0/evaluate.metrics.json")
    return json.loads(text)["main"]["test_error"]


def started(output):
    return set(re.findall(r"^(\S+): started", output, re.MULTILINE))


def test_an_ablation_runs_missing_variants_and_prints_a_table_of_the_recorded_metrics(project, monkeypatch):
    before = project.path("params.yaml").read_bytes()
    slow, fast = "ablation-rate-slow", "ablation-rate-fast"

    # First, one variant fails: the error names its log, and the other variant is in the table.
    broken = shim(project, 'grep -q "alpha_lr: 0.5" params.yaml && { echo "out of memory" >&2; exit 3; }')
    output = project.run(*RUN, code=1)
    assert started(output) == {slow, fast}
    assert "error: variant 'fast' did not finish; see .nas/ablations/ablation-rate-fast.log" in output
    assert "out of memory" in project.path(".nas/ablations/ablation-rate-fast.log").read_text()
    assert experiments(project).keys() == {slow}
    assert f"{error_in(project, slow):.2f}" in output

    # The second run runs only the missing variant, the third none.
    broken.unlink()
    output = project.run(*RUN, "--out", ".nas/table.md")
    assert started(output) == {fast}
    assert "Does the rate matter?" in output
    lines = project.path(".nas/table.md").read_text().splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ") for line in lines if line.startswith("|")}
    for label, name in (("| slow", slow), ("| fast", fast)):
        assert rows[label][1:6] == ["DARTS", "1", f"{error_in(project, name):.2f} ± –", "0.500", "25.00"]
    assert rows["| slow"][3] != rows["| fast"][3]
    assert not started(project.run(*RUN))
    assert project.run("git", "status", "--porcelain") == "", "an experiment has changed the working tree"
    assert project.path("params.yaml").read_bytes() == before

    # A variant with another value replaces the experiment of the same name.
    found = experiments(project)
    project.path("presets/ablations/rate.yaml").write_text(ABLATION.replace("0.5", "0.25"))
    assert started(project.run(*RUN)) == {fast}
    assert experiments(project)[slow] == found[slow]
    assert experiments(project)[fast] != found[fast]
    assert "0.25" in project.dvc("exp", "show", "--csv")

    # They are still found after a commit that changes neither params nor code, but not after a change of the code.
    monkeypatch.chdir(project.folder)
    project.commit()
    variants, state = read("rate"), working_state()
    assert all(find(variant, state) for variant in variants)
    with project.path("nas/methods/darts.py").open("a") as text:
        text.write("\n# a comment\n")
    assert not any(find(variant, working_state()) for variant in variants)
    refusal = Experiments([""], state).experiment(variants[0])
    assert refusal == "not started, because params.yaml or the code has changed since the ablation started"

    project.run("git", "checkout", "nas")
    project.dvc("exp", "apply", fast)
    assert project.params()["search"]["darts"]["alpha_lr"] == 0.25
    assert "up to date" in project.dvc("status", "evaluate@darts-0")


def test_ctrl_c_stops_running_variants_and_keeps_finished_ones(project):
    asleep = project.path(".nas/asleep")
    shim(project, 'grep -q "alpha_lr: 0.5" params.yaml && echo $$ > "$DVC_ROOT/.nas/asleep" && exec sleep 600')
    running = project.start(*RUN, "--jobs", "2")
    try:
        log = project.path(".nas/ablations/ablation-rate-slow.log")
        wait_until(lambda: log.exists() and "Ran experiment(s)" in log.read_text(), 120, "the variant that finishes")
        wait_until(asleep.exists, 120, "the variant that waits")
        os.kill(running.pid, signal.SIGINT)
        output, _ = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 1, output
    assert "error: variant 'fast' did not finish" in output
    with pytest.raises(ProcessLookupError):
        os.kill(int(asleep.read_text()), 0)
    assert experiments(project).keys() == {"ablation-rate-slow"}
    assert not list(project.path(".dvc/tmp/exps/standalone").glob("tmp*")), "DVC has left temporary copies"
    assert project.run("git", "status", "--porcelain") == ""


def test_an_invalid_variant_is_refused_before_anything_runs(project):
    wrong = ABLATION.replace("alpha_lr: 0.5", "alpha_rl: 0.5")
    project.path("presets/ablations/rate.yaml").write_text(wrong)
    output = project.run(*RUN, code=1)
    assert "error: presets/ablations/rate.yaml, variant 'fast': 'search.darts.alpha_rl' is not a known key." in output
    assert not experiments(project)
