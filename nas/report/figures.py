"""Every figure of the report, as SVG files. PNG copies are not made: the page, MLflow and GitHub all show SVG."""

from collections.abc import Sequence
from pathlib import Path

from nas.architectures.channel import ChannelArchitecture
from nas.report import channels, drawing, error_size, plots, truth
from nas.report.collect import Derived, Study, TrialRecords
from nas.report.results_table import Row
from nas.report.slimming import draw_slimming, slimmed


def draw_study(study: Study, rows: Sequence[Row], folder: Path) -> None:
    """Draw the figures of all trials together, and those of each trial."""
    if rows:
        error_size.front(study, rows, folder / "front.svg")
    truth.curves(study, folder / "regret.svg")
    for trial in study.trials:
        draw_trial(trial, folder)


def draw_trial(trial: TrialRecords, folder: Path) -> None:
    """Draw the figures of one trial into an existing folder. They depend on no other trial."""
    if trial.search_history:
        plots.search(trial, folder / search_file(trial))
    if trial.results:
        plots.retrain(trial, folder / retrain_file(trial))
    for cell_type in slimmed(trial):
        draw_slimming(trial, cell_type, folder / slimming_file(trial, cell_type))
    for derived in trial.derived:
        title = trial.title + (f", {derived.name}" if len(trial.derived) > 1 else "")
        architecture = derived.parsed
        if isinstance(architecture, ChannelArchitecture):
            channels.kept(architecture, title, folder / channels_file(trial, derived))
        for name, graphs in architecture.sheets().items():
            cells = name if name == "cell" else f"{name} {'cells' if len(graphs) > 1 else 'cell'}"
            drawing.draw(graphs, folder / cell_file(trial, derived, name), f"{title}: {cells}")


def search_file(trial: TrialRecords) -> str:
    return f"search-{trial.key}.svg"


def retrain_file(trial: TrialRecords) -> str:
    return f"retrain-{trial.key}.svg"


def slimming_file(trial: TrialRecords, cell_type: str) -> str:
    return f"slimming-{trial.key}-{cell_type}.svg"


def cell_file(trial: TrialRecords, derived: Derived, sheet: str) -> str:
    return f"cell-{trial.key}-{_safe(derived.name)}-{sheet}.svg"


def channels_file(trial: TrialRecords, derived: Derived) -> str:
    return f"channels-{trial.key}-{_safe(derived.name)}.svg"


def _safe(name: str) -> str:
    """The name of an architecture may contain characters that a file name may not."""
    return "".join(sign if sign.isalnum() or sign in "-_.=" else "_" for sign in name)
