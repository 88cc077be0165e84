import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nas.config.yaml_file import read_yaml

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "presets" / "digits.yaml"


@pytest.fixture
def project(disk, tmp_path, write):
    """A project's folder with the records of the trials that the digits preset expects."""
    derived = [("darts", "DARTS_V1", (1.0, 2.0))]
    methods = read_yaml(PARAMS)["methods"]
    for key, method, seed in [(f"{m}-{s}", m, s) for m in methods if m != "random" for s in (0, 1)]:
        write(tmp_path / "runs" / key, key, method, seed, derived)
    (tmp_path / "data").mkdir()
    disk.spec.parent.rename(tmp_path / "data" / "prepared")
    shutil.copy(PARAMS, tmp_path / "params.yaml")
    return tmp_path


def run(folder, *arguments):
    command = [sys.executable, "-m", "stages.report", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_stage_prints_the_table_and_checks_what_it_wrote(project):
    first = run(project)
    assert first.returncode == 0, first.stderr
    assert "5.50 ± 2.12" in first.stdout
    assert "report/index.html" in first.stdout
    assert run(project, "--check").returncode == 0
    path = project / "report" / "results.csv"
    path.write_text(path.read_text().replace("random,0", "random,5", 1))
    second = run(project, "--check")
    assert second.returncode == 1
    assert second.stderr.startswith("report/results.csv, line 2: 'random,5,")


@pytest.mark.slow
def test_a_missing_record_is_one_line(project):
    (project / "runs" / "darts-1" / "evaluate.json").unlink()
    result = run(project)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: runs/darts-1/evaluate.json: no such record. Run `dvc repro evaluate@darts-1`\n"
