import pytest

from nas.training.progress import Progress, clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (59.4, "0:00:59"),
        (59.6, "0:01:00"),
        (3725, "1:02:05"),
        (3599.5, "1:00:00"),
        (360_000, "100:00:00"),
    ],
)
def test_seconds_are_shown_as_hours_minutes_seconds(seconds, text):
    assert clock(seconds) == text


def test_a_resumed_job_reports_where_it_resumes(capsys):
    Progress("search darts-0", epochs=4, steps=10, images=100, done=1.5)
    assert capsys.readouterr().out == "search darts-0: resumes from epoch 1.50 of 4\n"


def test_an_epoch_is_reported_with_its_figures(capsys):
    progress = Progress("search darts-0", epochs=4, steps=10, images=100, done=0.0)
    progress.step(0, 5)
    assert capsys.readouterr().out == "", "within an epoch there is a line every few seconds only"
    progress.epoch({"epoch": 3, "train_loss": 0.12345, "train_acc": 97.06, "valid_acc": 50.0})
    line = capsys.readouterr().out
    assert line.startswith("search darts-0  epoch 4/4: loss 0.123, acc 97.1 %, valid acc 50.0 %  ")
    assert line.endswith(" img/s  ETA 0:00:00\n")
