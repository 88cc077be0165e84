"""Channel masks in the report: the page, the picture, the sentences."""

from html import unescape

import pytest

from nas.architectures.channel import ChannelArchitecture
from nas.architectures.channel_masks import Gates, every, uniform
from nas.records import write_record
from nas.report import build, channels
from nas.report.style import OPS, colour

SIZES = {"compact": {"params": 13_986, "macs": 165_614}, "masked": {"params": 29_790, "macs": 278_400}}


def architecture(op="sep_conv_3x3", skip_mode="gated", cells=3):
    skips = {"gated": every, "none": lambda w: 0}[skip_mode]
    return ChannelArchitecture.of(
        uniform(op, cells, 2, lambda w: Gates(1, every(w) if op != "sep_conv_3x3" else 1, skips(w))), skip_mode
    )


def test_the_page_shows_the_picture_the_numbers_and_the_cells(tmp_path, write, disk):
    run = ("tenas-0", "tenas", 0)
    write(disk.folder / "tenas-0", *run, derived=[("main", "DARTS_V1", (3.0, 5.0))])
    masked = architecture()
    entry = {"name": "main", "id": masked.id, "architecture": masked.to_dict(), "notes": {"sizes": SIZES}}
    owner = {"key": "tenas-0", "method": "tenas", "seed": 0}
    write_record(
        disk.folder / "tenas-0" / "architectures.json",
        "architectures",
        {**owner, "rule": "open", "architectures": [entry]},
    )
    tested = {"name": "main", "id": masked.id, "seed": 0, "test_acc": 97.0, "test_error": 3.0, "test_loss": 0.1}
    body = {**owner, "data": "digits", "images": 400, "results": [{**tested, "params_m": 0.01, "macs_m": 0.2}]}
    write_record(disk.folder / "tenas-0" / "evaluate.json", "evaluation", body)
    build([run], disk.folder, disk.spec, disk.out)
    drawn = {path.name for path in (disk.out / "figures").glob("*.svg")}
    cells = {f"cell-tenas-0-main-{name}.svg" for name in ("normal-0", "reduce-1", "reduce-2")}
    assert drawn == cells | {"channels-tenas-0-main.svg", "front.svg", "retrain-tenas-0.svg", "search-tenas-0.svg"}
    text = unescape((disk.out / "index.html").read_text(encoding="utf-8"))
    assert "compact 13,986 parameters and 165,614 multiply-adds" in text
    assert "<td>1R</td><td>4</td><td>14</td><td>14</td><td>56</td><td>4</td>" in text
    assert text.index("Channels that each edge") < text.index("normal-0 cell.")


@pytest.mark.parametrize(
    ("op", "skip_mode", "kinds"),
    [
        ("sep_conv_3x3", "gated", ["op", "mid", "skip"]),
        ("conv_3x3", "gated", ["op", "skip"]),
        ("dil_conv_3x3", "none", ["op"]),
    ],
)
def test_only_gates_that_exist_are_drawn(op, skip_mode, kinds, tmp_path):
    masked = architecture(op, skip_mode)
    assert channels.shown(masked) == kinds
    channels.kept(masked, "TENAS", tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert [f"Channels {title}" in drawn for title in channels.TITLES.values()] == [
        kind in kinds for kind in channels.TITLES
    ]


def test_the_table_numbers_the_cells():
    titles, *rows = channels.cells_table(architecture(cells=5))
    assert len(titles) == len(rows[0]) == 7
    assert [row[0] for row in rows] == ["0", "1R", "2", "3R", "4"]
    assert rows[1][1:] == ["4", "14", "14", "56", "4", "4, 4, 4, 4, 4, 4"]


def test_the_distance_of_cells_is_stated_if_there_is_one():
    assert len(channels.sentences(architecture(cells=5), {})) == 2
    size, skips, distance = channels.sentences(architecture(cells=8), {})
    assert size.startswith("The masks have the size of the search: 8 cells, 2 channels.")
    assert skips.startswith("83.3 % of the inputs of nodes are skips. An edge with an operation keeps 1.0 ")
    assert "Jaccard distance between normal cells of a stage: 0.000" in distance


def test_an_edge_has_the_colour_of_its_operation_whatever_it_keeps():
    labels = [
        "sep_conv_3x3 (2) + skip (3)",
        "sep_conv_3x3 (4)",
        "skip_connect (2)",
        "conv_3x3 (3)",
        "conv_3x3 (1) + skip (1)",
    ]
    assert colour(labels, labels[0]) == colour(labels, labels[1]) == OPS["sep_conv_3x3"]
    assert colour(labels, labels[2]) == OPS["skip_connect"]
    assert colour(labels, labels[3]) == colour(labels, labels[4])
