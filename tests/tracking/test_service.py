"""The tracking process that all stages of a run share, when it cannot start or does not survive."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from nas.tracking.service import TrackingService
from nas.tracking.tracker import SERVICE


@pytest.fixture(autouse=True)
def tracking_on(monkeypatch):
    monkeypatch.delenv("NAS_TRACKING", raising=False)


def test_switched_off_there_is_no_process(monkeypatch):
    monkeypatch.setenv("NAS_TRACKING", "off")
    with TrackingService.start() as service:
        assert not service.environment


def test_a_temporary_folder_too_long_for_a_socket_leaves_tracking_to_the_stages(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with TrackingService.start() as service:
        assert not service.environment
    assert not list(folder.iterdir())


def test_a_killed_process_costs_one_warning(caplog):
    with TrackingService.start() as service:
        assert service._process is not None
        os.kill(service._process.pid, signal.SIGKILL)
    [record] = caplog.records
    assert "tracking is off: its process ended with code -9" in record.getMessage()
    assert not Path(service.environment[SERVICE]).exists()
