import json
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.report.building import sheets
from nas.report.collect import collect
from nas.report.fronts import area, fronts, notes, sheet
from nas.report.results_table import results_metrics, summarise
from nas.report.sheet import latex, markdown

COUNTED = {"train_images": 1_000_000, "valid_images": 500_000, "judged_images": 2_000_000}


@pytest.fixture
def study(disk, write):
    """IS-NAS with a control for each of its two networks, ASNG with the same eps in searches of their own."""
    derived = [("eps=0.1", "DARTS_V2", (2.0, 2.5)), ("eps=0.2", "EOI_SEG", (4.0, 4.0))]
    controls = [(f"{name}-random_matched", cell, (6.0, 6.0)) for name, cell, _ in derived]
    write(disk.folder / "is_nas-0", "is_nas-0", "is_nas", 0, [*derived, *controls], {"train_images": 1_000_000})
    write(disk.folder / "asng-0", "asng-0", "asng", 0, derived[::-1], COUNTED)
    return collect([disk.runs[0], disk.runs[2], ("asng-0", "asng", 0)], *disk.where()[1:3])


def test_area_is_the_dominated_part_of_the_rectangle():
    assert area([(0.0, 0.0)], (2.0, 90.0)) == 100.0
    assert area([(1.0, 45.0)], (2.0, 90.0)) == 25.0
    # Two steps: 1 x 60 beyond the first point, and 0.5 x 15 more beyond the second, of 2 x 90.
    assert area([(1.0, 30.0), (1.5, 15.0)], (2.0, 90.0)) == pytest.approx(100 * (60 + 7.5) / 180)
    assert area([(2.0, 0.0), (0.0, 90.0)], (2.0, 90.0)) == 0.0  # on the border
    assert area([], (2.0, 90.0)) == 0.0


points = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=5)


@given(points)
def test_area_counts_the_cells_of_a_grid_that_a_point_dominates(dots):
    inside = sum(any(x <= column and y <= row for x, y in dots) for column in range(10) for row in range(10))
    assert area(dots, (10, 10)) == pytest.approx(inside)
    assert all(area(list(order), (10, 10)) == pytest.approx(inside) for order in permutations(dots))


def test_a_front_is_a_set_of_one_trial_and_a_control_one_of_its_own(study):
    by_label = {one.label: one for one in fronts(study)}
    assert list(by_label) == [
        "is_nas",
        "is_nas random_matched",
        "asng",
    ]  # random has one architecture, so no front
    corner = 1.1 * 0.12, 90.0  # DARTS_V2 is the largest network
    expected = area([(0.12, 2.25), (0.08, 4.0)], corner)
    assert by_label["is_nas"].params_area == by_label["asng"].params_area == pytest.approx(expected)
    assert by_label["is_nas random_matched"].params_area == pytest.approx(area([(0.12, 6.0), (0.08, 6.0)], corner))
    assert (by_label["is_nas"].searches, by_label["is_nas"].networks, by_label["is_nas"].params_area_std) == (
        1,
        2,
        None,
    )


def test_members_are_ordered_by_eps_and_their_sizes_compared(study):
    assert [(one.falls, one.pairs) for one in fronts(study)] == [(1, 1), (1, 1), (1, 1)]  # asng's record has eps fall


def test_equal_sizes_do_not_count_as_falling(disk, write):
    same = [("eps=0", "DARTS_V2", (2.0, 2.5)), ("eps=1", "DARTS_V2", (2.0, 2.5)), ("eps=2", "EOI_GNAS", (2.0, 2.0))]
    write(disk.folder / "is_nas-0", "is_nas-0", "is_nas", 0, same)
    (front,) = fronts(collect([disk.runs[2]], *disk.where()[1:3]))
    assert (front.falls, front.pairs) == (0, 2)


def test_a_backward_pass_counts_as_two_forward_ones_and_a_control_has_no_search(study):
    passes = {one.label: one.passes_m for one in fronts(study)}
    assert passes == {"is_nas": 3.0, "is_nas random_matched": None, "asng": 3 * 1.5 + 2.0}
    assert "One search of IS-NAS needs 0.46 of the passes of ASNG-NAS, and 1.00 of its time." in notes(fronts(study))


def test_deviation_is_over_search_seeds(disk):
    (front,) = fronts(collect(disk.runs[2:], *disk.where()[1:3]))
    corner = 1.1 * 0.12, 90.0
    first, second = area([(0.12, 2.25), (0.08, 4.0)], corner), area([(0.12, 3.25), (0.09, 5.0)], corner)
    assert front.params_area == pytest.approx((first + second) / 2)
    assert front.params_area_std == pytest.approx(abs(first - second) / 2**0.5)


def test_tables_and_metrics_include_the_fronts(study):
    rows = summarise(study)
    text = markdown(sheets(study, rows))
    assert "| IS-NAS random_matched | 1 | 2 |" in text
    assert latex([sheet(fronts(study))]).count(r"\\") == 4
    metrics = json.loads(results_metrics(rows, {f"front {one.label}": one.metrics for one in fronts(study)}))
    assert metrics["front asng"].keys() == {"params_area_mean", "macs_area_mean", "n", "falls", "pairs"}


def test_what_was_not_retrained_has_no_front(study):
    bare = [replace(trial, results=()) for trial in study.trials]
    assert fronts(replace(study, trials=tuple(bare))) == []
    some = fronts(replace(study, trials=(*bare[:-1], study.trials[-1])))
    assert [front.label for front in some] == ["asng"]


def test_without_several_architectures_there_is_no_front(disk):
    study = collect(disk.runs[:2], *disk.where()[1:3])
    assert fronts(study) == []
    assert len(sheets(study, summarise(study))) == 1
