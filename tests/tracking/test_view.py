"""The database: its location, and the upgrade of an older one."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from nas.tracking.view import tracking_uri

# Makes a database as MLflow's last migration but one leaves it.
OLDER = """
import sys
import sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
engine = sqlalchemy.create_engine(sys.argv[1])
Base.metadata.create_all(engine)
config = _get_alembic_config(sys.argv[1])
scripts = ScriptDirectory.from_config(config)
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, scripts.get_revision(scripts.get_heads()[0]).down_revision)
"""


def test_a_temporary_copy_uses_the_database_of_the_main_repository(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/main/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    assert tracking_uri(tmp_path) == "http://tracking"


@pytest.mark.slow
def test_init_upgrades_an_older_database(tmp_path):
    pytest.importorskip("mlflow", reason="the pipeline extra is not installed")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    subprocess.run([sys.executable, "-c", OLDER, uri], check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_"))}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "nas", "track", "init"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        assert MlflowClient(uri).get_experiment_by_name("nas") is not None
    assert not (tmp_path / "mlflow.db.new").exists()
