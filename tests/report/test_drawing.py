from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architectures.base import CellGraph, cell_graph
from nas.architectures.cell_shape import NODES
from nas.architectures.darts import PRIMITIVES
from nas.architectures.genotypes import GENOTYPES
from nas.report.drawing import compose, draw
from nas.report.layout import arrange

DARTS_V2 = GENOTYPES["DARTS_V2"].graphs()[0]


@st.composite
def cells(draw):
    pairs = []
    for node in range(2, 2 + NODES):
        preds = draw(st.lists(st.integers(0, node - 1), min_size=2, max_size=2, unique=True))
        pairs += [(draw(st.sampled_from(PRIMITIVES[1:])), pred) for pred in preds]
    return cell_graph("normal", tuple(pairs), (2, 3, 4, 5))


def assert_clear(graph):
    """No text covers another, no box covers another, and all lie within the picture."""
    canvas = compose([graph], graph.name)
    texts, frames = [text.box for text in canvas.texts], canvas.frames
    labels = [label for _, _, label in graph.edges if label]
    assert len(texts) == 1 + len(graph.inputs) + len(graph.nodes) + 1 + len(labels)
    assert len(frames) == len(texts) - 1
    assert not [pair for pair in combinations(texts, 2) if pair[0].overlaps(pair[1])]
    assert not [pair for pair in combinations(frames, 2) if pair[0].overlaps(pair[1])]
    assert all(canvas.box.holds(box) for box in (*texts, *frames))


@pytest.mark.parametrize("name", ["DARTS_V2", "EOI_SEG"])
def test_no_label_of_a_published_cell_covers_another_or_a_box(name):
    for graph in GENOTYPES[name].graphs():
        assert_clear(graph)


@given(cells())
@settings(max_examples=8)
def test_no_label_of_any_cell_covers_another_or_leaves_the_figure(graph):
    assert_clear(graph)


def test_two_operations_between_the_same_nodes_have_a_line_each():
    assert_clear(
        CellGraph("pair", ("in",), ("a",), "out", (("in", "a", "conv"), ("in", "a", "pool"), ("a", "out", "")))
    )


def test_labels_are_the_operations_in_short_and_unknown_ones_in_full():
    ops = ("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "skip_connect", "conv_1x1", "mlp")
    graph = CellGraph("ops", ("in",), ("a",), "out", (*(("in", "a", op) for op in ops), ("a", "out", "")))
    shown = {text.text for text in compose([graph], "").texts} - {"", "in", "a", "out"}
    assert shown == {"sep 3×3", "dil 5×5", "max 3×3", "skip", "conv 1×1", "mlp"}


def test_edges_run_from_left_to_right():
    layout = arrange(DARTS_V2, lambda slot: 1.0)
    column = {slot: at for at, slots in enumerate(layout.columns) for slot in slots}
    for path, (source, target, _) in zip(layout.paths, DARTS_V2.edges, strict=True):
        assert (path[0].text, path[-1].text) == (source, target)
        assert [column[slot] for slot in path] == sorted({column[slot] for slot in path})


def test_crossings_that_can_be_avoided_are():
    crossed = CellGraph(
        "x", ("a", "b"), ("c", "d"), "out", (("a", "d", "p"), ("b", "c", "q"), ("c", "out", ""), ("d", "out", ""))
    )
    heights = arrange(crossed, lambda slot: 1.0).heights
    named = {slot.text: height for slot, height in heights.items()}
    assert (named["a"] > named["b"]) == (named["d"] > named["c"]) == (named["p"] > named["q"])


def test_cycles_and_unknown_nodes_are_refused():
    cycle = (("in", "a", ""), ("a", "b", ""), ("b", "a", ""), ("b", "out", ""))
    with pytest.raises(ValueError, match="form a cycle"):
        arrange(CellGraph("loop", ("in",), ("a", "b"), "out", cycle), lambda slot: 1.0)
    with pytest.raises(ValueError, match="in -> z names an unknown node"):
        arrange(CellGraph("odd", ("in",), (), "out", (("in", "z", ""),)), lambda slot: 1.0)


def test_equal_drawings_have_equal_bytes(tmp_path):
    for name in ("first", "second"):
        draw([DARTS_V2], tmp_path / name, "DARTS_V2, normal cell")
    first = (tmp_path / "first").read_bytes()
    assert first == (tmp_path / "second").read_bytes()
    assert len(first) > 10_000
