"""The report as one file: pictures and styles inside, no scripts, nothing fetched."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nas.architectures.base import CellGraph
from nas.architectures.channel import ChannelArchitecture
from nas.collapse import collapsed
from nas.report import channels
from nas.report.collect import Found, Study, Trial
from nas.report.plots import slimmed
from nas.report.sheet import Sheet
from nas.report.table import Row

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


def cell_name(trial: Trial, found: Found, sheet: str) -> str:
    """File name of a drawing without suffix; an architecture's name may hold what a file's may not."""
    return f"cell-{trial.key}-{_safe(found.name)}-{sheet}"


def channels_name(trial: Trial, found: Found) -> str:
    return f"channels-{trial.key}-{_safe(found.name)}"


def _safe(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_.=" else "_" for sign in name)


def page(study: Study, rows: Sequence[Row], sheets: Sequence[Sheet], figures: Path) -> str:
    """index.html; the first of `sheets` is the table of `rows`, `figures` the folder of the drawn .svg files."""
    title = f"Architecture search on {study.data.name}"
    searches = len(study.trials)
    networks = sum(len(trial.results) for trial in study.trials)
    links = " ".join(f'<a href="#{escape(trial.key)}">{escape(trial.key)}</a>' for trial in study.trials)
    first, *others = sheets
    regret = figures / "regret.svg"
    front_alt = "Test error against parameters and against multiply-adds of every network. " + "; ".join(
        f"{row.label}: {row.test_error_mean:.2f} % at {row.params_m:.3f} M" for row in rows
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
            *([_picture(regret, "Regret of the found cell over the course of each search", REGRET)] if regret.exists()
              else []),
            *(_table(sheet) for sheet in others),
            f"<h2>Trials</h2><nav>{links}</nav>",
            *(_trial(trial, figures) for trial in study.trials),
            "</body></html>",
            "",
        ]
    )  # fmt: skip


REGRET = (
    "What the best cell of the table has more than the one that each search would have found by then; thin: each "
    "search, thick: the mean of a method."
)


def _front(figures: Path, alt: str) -> list[str]:
    caption = (
        "Small: each network. Large: the mean of a row; bars: ± one standard deviation over search seeds, where there "
        "are several. Lines join what was found with growing eps; hollow: controls, and the dashed lines between them."
    )
    return ["<h2>Error and size</h2>", _picture(figures / "front.svg", alt, caption)]


def _table(sheet: Sheet) -> str:
    header, *body = sheet.cells
    kinds = [' class="number"' if right else "" for right in sheet.right]
    head = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for kind, text in zip(kinds, header, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, line, strict=True)) + "</tr>"
        for line in body
    ]
    items = "".join(f"<li>{escape(note)}</li>" for note in sheet.notes)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{table}</div><ul>{items}</ul>'


def _trial(trial: Trial, figures: Path) -> str:
    """Its cells in sight; the curves and the numbers of each network on demand."""
    parts = [f'<section id="{escape(trial.key)}"><h2>{escape(trial.key)}</h2>', *_warnings(trial)]
    for found in trial.found:
        drawings = [_cells(trial, found, *sheet, figures) for sheet in found.parsed.sheets().items()]
        if isinstance(found.parsed, ChannelArchitecture):  # many cells, so the picture of all of them comes first
            inner = f"<details><summary>Cells</summary>{''.join(drawings)}</details>"
            drawings = [*_channels(trial, found, found.parsed, figures), inner]
        if len(trial.found) == 1:
            parts += [f"<p>{_identity(found)}</p>", *drawings]
        else:
            title = f"<summary>{escape(found.name)} <small>{_errors(trial, found)}</small></summary>"
            parts.append(f"<details>{title}<p>{_identity(found)}</p>{''.join(drawings)}</details>")
    drawn = {"search": ("Search", trial.search_history), "retrain": ("Retraining", trial.results)}
    for stage, text in ((stage, text) for stage, (text, something) in drawn.items() if something):
        alt = f"{text} of {trial.key}: curves over the epochs"
        picture = _picture(figures / f"{stage}-{trial.key}.svg", alt, "")
        parts.append(f"<details><summary>{text} curves</summary>{picture}</details>")
    for kind in slimmed(trial):
        alt = f"What each operation of the {kind} cell was worth at every slimming point, and which one went"
        picture = _picture(
            figures / f"slimming-{trial.key}-{kind}.svg",
            alt,
            "Bright is high, dark is low, each panel by itself; a cross marks what went.",
        )
        parts.append(f"<details><summary>Slimming of the {kind} cell</summary>{picture}</details>")
    return "\n".join([*parts, _networks(trial), "</section>"])


def _warnings(trial: Trial) -> list[str]:
    """Cells in which the search collapsed, by its last epoch."""
    last = trial.search_history[-1] if trial.search_history else {}
    return [f'<p class="warning">Collapse: {escape(text)} at the end.</p>' for text in collapsed(last).values()]


def _identity(found: Found) -> str:
    return f"Architecture <strong>{escape(found.name)}</strong>, id <code>{escape(found.id)}</code>"


def _errors(trial: Trial, found: Found) -> str:
    errors = ", ".join(f"{tested.test_error:.2f} %" for tested in trial.results if tested.name == found.name)
    return f"test error {errors}"


def _networks(trial: Trial) -> str:
    chosen = any(tested.best_error is not None for tested in trial.results)
    best = ("Best epoch's, %", "Best epoch") if chosen else ()
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


def _cells(trial: Trial, found: Found, sheet: str, graphs: Sequence[CellGraph], figures: Path) -> str:
    texts = []
    for graph in graphs:
        edges = (f"{source} to {target}: {label or 'part of the output'}" for source, target, label in graph.edges)
        texts.append(f"{graph.name} cell. {'; '.join(edges)}")
    return _picture(figures / f"{cell_name(trial, found, sheet)}.svg", ". ".join(texts), "")


def _channels(trial: Trial, found: Found, architecture: ChannelArchitecture, figures: Path) -> list[str]:
    """The picture of kept channels, and below it how the cells came out."""
    header, *rows = channels.cells_table(architecture)
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    told = "".join(
        f"<li>{escape(text)}</li>" for text in channels.sentences(architecture, found.notes.get("sizes", {}))
    )
    alt = "Channels that each edge of each cell keeps, of the operation, of its middle and of the skip"
    return [
        _picture(figures / f"{channels_name(trial, found)}.svg", alt, "White: none, dark: all channels of the cell."),
        f"<ul>{told}</ul>",
        f"<details><summary>Cells in numbers</summary>{table}</details>",
    ]


def _picture(path: Path, alt: str, caption: str) -> str:
    """An SVG as an image of its own: the ids inside cannot meet those of another one."""
    data = b64encode(path.read_bytes()).decode("ascii")
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = "cell" if path.name.startswith("cell-") else "plot"
    return (
        f'<figure class="scroll {kind}"><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">{text}</figure>'
    )
