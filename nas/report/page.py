"""The report as one HTML file, with pictures and styles embedded; it has no scripts and loads nothing."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nas.architectures.base import CellGraph
from nas.architectures.channel import ChannelArchitecture
from nas.collapse import collapsed
from nas.report import channels
from nas.report.collect import Derived, Study, TrialRecords
from nas.report.figures import cell_file, channels_file, retrain_file, search_file, slimming_file
from nas.report.results_table import Row
from nas.report.sheet import Sheet
from nas.report.slimming import slimmed

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1f2328; background: #fff;
       max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } p { margin: .25rem 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .4rem .7rem; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #1f2328; vertical-align: bottom; white-space: normal; }
td { border-bottom: 1px solid #e6e9ed; } .number { text-align: right; }
td:first-child { font-weight: 600; }
ul { padding-left: 1.2rem; font-size: .9rem; color: #424a53; } li { margin: .3rem 0; }
figure { margin: .5rem 0; } figcaption { font-size: .9rem; color: #57606a; }
img { max-width: 100%; height: auto; display: block; } .cell img { max-width: none; }
.plot img { min-width: 36rem; }
details { border: 1px solid #d8dee4; border-radius: 8px; padding: .6rem .9rem; margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; } summary small { font-weight: 400; color: #57606a; }
code { font-size: .85em; background: #f3f5f7; padding: .1em .3em; border-radius: 4px; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #d55e00; padding-left: .6rem; }
nav a { margin-right: .8rem; } a { color: #0a58a8; }
@media (max-width: 40rem) { table { font-size: .82rem; } th, td { padding: .35rem .35rem; } }
@media print { details { border: 0; } }
"""


def page(study: Study, rows: Sequence[Row], sheets: Sequence[Sheet], figures: Path) -> str:
    """The text of index.html. The first sheet is the table of `rows`; `figures` is the folder of the SVG files."""
    title = f"Architecture search on {study.data.name}"
    searches = len(study.trials)
    networks = sum(len(trial.results) for trial in study.trials)
    links = " ".join(f'<a href="#{escape(trial.key)}">{escape(trial.title)}</a>' for trial in study.trials)
    first, *others = sheets
    regret = figures / "regret.svg"
    front_alt = "Test error against parameters and against multiply-adds of every network. " + "; ".join(
        f"{row.title}: {row.test_error_mean:.2f} % at {row.params_m:.3f} M" for row in rows
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{CSS}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{searches} searches, {networks} networks trained from scratch, "
            f"tested on {study.images} images of {escape(study.data.name)}.</p>",
            _table(first),
            *(_front(figures, front_alt) if rows else []),
            *([_picture(regret, "Regret of the best cell so far over each search", REGRET)] if regret.exists()
              else []),
            *(_table(sheet) for sheet in others),
            f"<h2>Trials</h2><nav>{links}</nav>",
            *(_trial(trial, figures) for trial in study.trials),
            "</body></html>",
            "",
        ]
    )  # fmt: skip


REGRET = (
    "Accuracy of the best cell of the benchmark table minus that of the cell that the search would derive at that "
    "point. Thin lines: searches. Thick lines: means of methods."
)


def _front(figures: Path, alt: str) -> list[str]:
    caption = (
        "Small marks: networks. Large marks: means of rows, with bars of ± one standard deviation over search seeds if "
        "there are several. Lines join architectures of growing eps. Controls are hollow, with dashed lines."
    )
    return ["<h2>Error and size</h2>", _picture(figures / "front.svg", alt, caption)]


def _table(sheet: Sheet) -> str:
    header, *body = sheet.cells
    classes = [' class="number"' if right else "" for right in sheet.right]
    head = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for kind, text in zip(classes, header, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(classes, line, strict=True)) + "</tr>"
        for line in body
    ]
    items = "".join(f"<li>{escape(note)}</li>" for note in sheet.notes)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{table}</div><ul>{items}</ul>'


def _trial(trial: TrialRecords, figures: Path) -> str:
    """The section of a trial: its cells; curves and results of its networks in collapsed parts."""
    parts = [
        f'<section id="{escape(trial.key)}"><h2>{escape(trial.title)} <code>{escape(trial.key)}</code></h2>',
        *_warnings(trial),
    ]
    for derived in trial.derived:
        architecture = derived.parsed
        drawings = [_cells(trial, derived, *sheet, figures) for sheet in architecture.sheets().items()]
        if isinstance(architecture, ChannelArchitecture):  # many cells, so the overview comes first
            inner = f"<details><summary>Cells</summary>{''.join(drawings)}</details>"
            drawings = [*_channels(trial, derived, architecture, figures), inner]
        if len(trial.derived) == 1:
            parts += [f"<p>{_identity(derived)}</p>", *drawings]
        else:
            title = f"<summary>{escape(derived.name)} <small>{_errors(trial, derived)}</small></summary>"
            parts.append(f"<details>{title}<p>{_identity(derived)}</p>{''.join(drawings)}</details>")
    drawn = [("Search", search_file(trial), trial.search_history), ("Retraining", retrain_file(trial), trial.results)]
    for text, file in ((text, file) for text, file, rows in drawn if rows):
        picture = _picture(figures / file, f"{text} of {trial.title}: curves over the epochs", "")
        parts.append(f"<details><summary>{text} curves</summary>{picture}</details>")
    for cell_type in slimmed(trial):
        alt = f"Values of each operation of the {cell_type} cell at every slimming point, and which one was removed"
        picture = _picture(
            figures / slimming_file(trial, cell_type),
            alt,
            "Bright is high and dark is low, within each panel. A cross marks the removed operation.",
        )
        parts.append(f"<details><summary>Slimming of the {cell_type} cell</summary>{picture}</details>")
    return "\n".join([*parts, _networks(trial), "</section>"])


def _warnings(trial: TrialRecords) -> list[str]:
    """A warning for each cell type that has collapsed in the last epoch of the search."""
    last = trial.search_history[-1] if trial.search_history else {}
    return [
        f'<p class="warning">Collapse: {escape(text)} after the last epoch.</p>' for text in collapsed(last).values()
    ]


def _identity(derived: Derived) -> str:
    return f"Architecture <strong>{escape(derived.name)}</strong>, id <code>{escape(derived.id)}</code>"


def _errors(trial: TrialRecords, derived: Derived) -> str:
    errors = ", ".join(f"{tested.test_error:.2f} %" for tested in trial.results if tested.name == derived.name)
    return f"test error {errors}"


def _networks(trial: TrialRecords) -> str:
    chosen = any(tested.best_error is not None for tested in trial.results)
    best = ("Best epoch, %", "Epoch number") if chosen else ()
    titles = ("Architecture", "Retrain seed", "Test error, %", *best, "Test loss", "Params, M", "Multiply-adds, M")
    head = "".join(f'<th scope="col"{" class=number" if at else ""}>{title}</th>' for at, title in enumerate(titles))
    lines = []
    for tested in trial.results:
        texts = [
            str(tested.seed),
            f"{tested.test_error:.2f}",
            *([f"{tested.best_error:.2f}", str(tested.best_epoch)] if chosen else []),
            f"{tested.test_loss:.4f}",
            f"{tested.params_m:.3f}",
            f"{tested.macs_m:.2f}",
        ]
        numbers = "".join(f'<td class="number">{text}</td>' for text in texts)
        lines.append(f"<tr><td>{escape(tested.name)}</td>{numbers}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<details><summary>Networks</summary><div class="scroll">{table}</div></details>'


def _cells(trial: TrialRecords, derived: Derived, sheet: str, graphs: Sequence[CellGraph], figures: Path) -> str:
    texts = []
    for graph in graphs:
        edges = (f"{source} to {target}: {label or 'part of the output'}" for source, target, label in graph.edges)
        texts.append(f"{graph.name} cell. {'; '.join(edges)}")
    return _picture(figures / cell_file(trial, derived, sheet), ". ".join(texts), "")


def _channels(trial: TrialRecords, derived: Derived, architecture: ChannelArchitecture, figures: Path) -> list[str]:
    """The picture of kept channels, and statistics of the cells below it."""
    header, *rows = channels.cells_table(architecture)
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    items = "".join(
        f"<li>{escape(text)}</li>" for text in channels.sentences(architecture, derived.notes.get("sizes", {}))
    )
    alt = "Channels that each edge of each cell keeps, of the operation, of its middle and of the skip"
    return [
        _picture(figures / channels_file(trial, derived), alt, "White: no channels. Dark: all channels of the cell."),
        f"<ul>{items}</ul>",
        f"<details><summary>Cells in numbers</summary>{table}</details>",
    ]


def _picture(path: Path, alt: str, caption: str) -> str:
    """An SVG file as a separate image, so that the ids of two pictures cannot clash."""
    data = b64encode(path.read_bytes()).decode("ascii")
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = "cell" if path.name.startswith("cell-") else "plot"
    return (
        f'<figure class="scroll {kind}"><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">{text}</figure>'
    )
