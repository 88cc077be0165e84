"""LFR-DARTS in NAS-Bench-201's skeleton: three iterations, none that may stay, and a table that knows nothing of it."""

from typing import Any

import pytest
import torch

from nas.architectures.nasbench201 import CELL_TYPES, OPERATIONS
from nas.config.sections import ParamsError
from nas.methods import method_module
from nas.project import parse
from nas.spaces.nasbench201.cells import MixedCell, Residual, joined, layout
from nas.spaces.registry import get_space
from tests.methods.settings import PRESET, STAGED, STEPS, TREE, advance, build, in_double
from tests.methods.test_methods import assert_equal, saved
from tests.spaces.nasbench201.test_space import NONE, OFFICIAL, ONE, POOL, SKIP, THREE

lfr: Any = method_module("lfr_darts")
SPACE: Any = get_space("nasbench201_layered")
SHORT = {**STAGED, "epochs_each": 2, "warmup": 1}
ALL = torch.ones(6, 5, dtype=torch.bool)


def params(**changes):
    return lfr.Params.model_validate({**PRESET["lfr_darts"], **STAGED, **changes})


def table(*leaders):
    """Zeros, but the given operation of each edge leads by 1, and skips come next."""
    alpha = torch.zeros(6, 5, dtype=torch.float64)
    alpha[:, SKIP] = 0.5
    for e, op in enumerate(leaders):
        alpha[e, op] = 1.0 + 0.1 * e
    return alpha


# --- The plan


@pytest.mark.parametrize("name", ["layered", "nasbench201_layered"])
def test_the_stages_of_a_space_name_its_cell_types_in_order_of_depth(name):
    space: Any = get_space(name)
    assert list(lfr.cell_types(space.stages)) == list(space.variables())
    assert len(lfr.normals(space.stages)) == len(space.stages) == 3


@pytest.mark.parametrize("joint", [True, False])
def test_every_iteration_finds_the_cell_of_a_stage_which_is_then_repeated(joint):
    found = params(joint_reduction=joint, n_grow=5)
    assert found.iterations(SPACE.stages) == tuple((cell_type,) for cell_type in CELL_TYPES)
    assert [len(lfr.row(found, SPACE.stages, at)) for at in range(4)] == [3, 7, 11, 15]
    assert joined([t] * 5 for t in dict.fromkeys(lfr.row(found, SPACE.stages, 3))) == layout(OFFICIAL, CELL_TYPES)
    ended = params(future="absent", n_grow=2)
    assert [lfr.row(ended, SPACE.stages, at)[-1] for at in range(3)] == list(CELL_TYPES)
    assert params(groups=[["cell_3"], ["cell_1", "cell_2"]]).iterations(SPACE.stages) == (
        ("cell_3",),
        ("cell_1", "cell_2"),
    )


def test_groups_name_the_types_of_the_space():
    with pytest.raises(ValueError, match="'groups' must name each of cell_1, cell_2, cell_3 once"):
        params(groups=[["normal_1"], ["cell_2"], ["cell_3"]]).check_space(SPACE)


def test_without_retraining_nothing_would_judge_what_it_finds():
    tree = {**TREE, "methods": ["lfr_darts"], "retrain": {**TREE["retrain"], "seeds": []}}
    tree["search"] = {**PRESET, "lfr_darts": {**PRESET["lfr_darts"], **STAGED}}
    tree["evaluate"] = {**TREE["evaluate"], "table": {"path": "t.csv", "sha256": "0" * 64}}
    with pytest.raises(ParamsError) as caught:
        parse(tree)
    assert "'search.lfr_darts.space' is 'nasbench201_layered', which has no benchmark table" in str(caught.value)
    assert parse({**tree, "retrain": TREE["retrain"]}).retrain.seeds == (0,)


# --- Pruning


def test_none_stays_on_an_edge_where_it_leads_and_every_edge_stays():
    cell = lfr.prune(table(THREE, NONE, SKIP, POOL, NONE, ONE), ALL, SPACE, None)
    assert [op for op, _ in cell] == [OPERATIONS[op] for op in (THREE, NONE, SKIP, POOL, NONE, ONE)]
    assert [pred for _, pred in cell] == [0, 0, 1, 0, 1, 2]


def test_the_weakest_skips_give_way_to_what_is_second_on_their_edge():
    alpha = table(*[SKIP] * 6)
    alpha[:, POOL] = 0.2
    cell = lfr.prune(alpha, ALL, SPACE, 2)
    assert [op for op, _ in cell] == ["avg_pool_3x3"] * 4 + ["skip_connect"] * 2


def test_progressive_pruning_keeps_of_five_what_it_would_of_eight():
    method = build("lfr_darts", method={**STAGED, "epochs_each": 4, "prune": "progressive"})
    left = []
    for epoch in range(4):
        advance(method, epoch * STEPS, (epoch + 1) * STEPS)
        left.append(method.alive["cell_1"].sum(-1).tolist())
        assert method.alive["cell_2"].all(), "a future cell keeps all"
    assert left == [[5] * 6, [3] * 6, [2] * 6, [2] * 6]


# --- A search


def test_a_search_goes_through_three_iterations():
    method = build("lfr_darts", method={**SHORT, "n_grow": 2})
    rows = advance(method, 0, 6 * STEPS)
    assert [row["cells"] for row in rows] == [3, 3, 4, 4, 5, 5]
    states = [" ".join(state for _, state in record["row"]) for record in method.records]
    assert states == ["current future future", "found found current future", "found found found found current"]
    assert [list(record["cells"]) for record in method.records] == [[kind] for kind in CELL_TYPES]
    assert method.search_state()["depth"] == 6
    for record, mixed in zip(method.records, (2**2 + 4**2 + 8**2, 4**2 + 8**2, 8**2), strict=True):
        assert record["params"]["mixed"] == 6 * 10 * mixed
    assert method.records[0]["params"]["found"] == 0, "a residual block is no cell"
    (main,) = lfr.derive(method.search_state(), lfr.DeriveParams(rule="collected", controls=()), SPACE)
    found = {kind: tuple(op for op, _ in pairs) for kind, pairs in method.discrete.items()}
    assert main.architecture.cells == found


def test_future_operations_weigh_a_fifth():
    method = build("lfr_darts", method=SHORT)
    advance(method, 0, 2 * STEPS - 1)
    weights = method.mix().weights
    assert not torch.allclose(weights["cell_1"], torch.tensor(0.2), atol=1e-3)
    assert (weights["cell_2"] == 0.2).all()
    assert (weights["cell_3"] == 0.2).all()


@pytest.mark.parametrize("inherit", [False, True])
def test_the_engine_and_the_reference_walk_the_same_search(monkeypatch, inherit):
    """In float64 throughout, alphas too, over two growths."""
    runs = {}
    for reference in (True, False):
        monkeypatch.setattr(torch, "randn", lambda *a, randn=torch.randn, **k: randn(*a, **k).double())
        with in_double(monkeypatch, lfr.Method, reference):
            method = build("lfr_darts", method={**SHORT, "inherit": inherit, "alpha_lr": 0.5})
            runs[reference] = method, advance(method, 0, 6 * STEPS)
        monkeypatch.undo()
    (plain, expected), (quick, rows) = runs[True], runs[False]
    assert quick.discrete == plain.discrete
    assert quick.alphas["cell_3"].dtype == torch.float64
    for found, row in zip(rows, expected, strict=True):
        assert found == pytest.approx(row, rel=1e-9)
    for found, record in zip(quick.records, plain.records, strict=True):
        for kind, cell in record["cells"].items():
            assert found["cells"][kind]["strengths"] == pytest.approx(cell["strengths"], rel=1e-9)
    for name, value in plain.supernet.state_dict().items():
        torch.testing.assert_close(quick.supernet.state_dict()[name], value, rtol=1e-9, atol=1e-9)


PROGRESSIVE = {**STAGED, "epochs_each": 4, "prune": "progressive", "skip_dropout": 0.1, "inherit": True}


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({**SHORT, "inherit": True}, 2 * STEPS + 1),  # in the second iteration
        ({**SHORT, "future": "absent"}, 5 * STEPS),  # in the third
        (PROGRESSIVE, 4 * STEPS),  # at the end of the first
        (PROGRESSIVE, 7 * STEPS + 1),  # with two operations left, in the second
    ],
)
def test_a_search_goes_on_wherever_it_was_to_the_same_bits(changes, at):
    whole = build("lfr_darts", method=changes)
    advance(whole, 0, at)
    kept, generator = saved(whole.state_dict()), torch.get_rng_state()
    last = min(at + 3 * STEPS, whole.epochs * STEPS)
    advance(whole, at, last)
    again = build("lfr_darts", seed=9, method=changes)
    again.load_state_dict(kept)
    torch.set_rng_state(generator)
    advance(again, at, last)
    assert_equal(again.state_dict(), whole.state_dict())
    assert again.records == whole.records


def test_found_cells_run_one_operation_an_edge_and_cost_less():
    method = build("lfr_darts", method={**SHORT, "n_grow": 1})
    macs = []
    for epoch in range(6):
        advance(method, epoch * STEPS, (epoch + 1) * STEPS)
        macs.append(method.image_macs)
    assert macs[0] == macs[1] > macs[2] > macs[4]
    assert [type(part) for part in method.supernet.cells[:2]] == [MixedCell, Residual]
    for edge, (op, _) in zip(method.supernet.cells[0].edges, method.discrete["cell_1"], strict=True):
        assert {i for i, held in enumerate(edge.ops) if list(held.parameters())} <= {OPERATIONS.index(op)}


# --- Derivation

CELLS = {
    "cell_1": SPACE.discretise([(op, 1.0) for op in (THREE, ONE, THREE, SKIP, NONE, ONE)]),
    "cell_2": SPACE.discretise([(op, 1.0) for op in (ONE, THREE, THREE, SKIP, NONE, ONE)]),
    "cell_3": SPACE.discretise([(op, 1.0) for op in (NONE, NONE, THREE, SKIP, ONE, NONE)]),
}


def test_the_controls_repeat_or_swap_the_cells_of_the_stages():
    controls = ("repeat_1", "repeat_3", "swapped")
    state = {"found": {kind: [list(pair) for pair in cell] for kind, cell in sorted(CELLS.items(), reverse=True)}}
    found = lfr.derive(state, lfr.DeriveParams(rule="collected", controls=controls), SPACE)
    one, two, three = (tuple(op for op, _ in CELLS[kind]) for kind in CELL_TYPES)
    stages = {derived.name: tuple(derived.architecture.cells.values()) for derived in found}
    expected = {"main": (one, two, three), "repeat_1": (one,) * 3, "repeat_3": (three,) * 3}
    assert stages == {**expected, "swapped": (three, two, one)}


def test_the_notes_compare_edge_by_edge_and_follow_connections_alone():
    notes = lfr.layers(CELLS, SPACE)
    assert notes["differences"] == pytest.approx({"1-2": 2 / 6, "1-3": 4 / 6, "2-3": 4 / 6})
    assert notes["cells"]["cell_1"] == {"mean_kernel": 2.0, "skip_share": 1 / 6, "depth": 3}
    assert notes["cells"]["cell_3"]["depth"] == 0, "what node 1 gives on is nothing: no edge leads there"


def test_the_log_speaks_of_no_edges_that_go(capsys):
    advance(build("lfr_darts", method=SHORT), 0, 2 * STEPS)
    said = capsys.readouterr().out
    assert "  cell_1: " in said
    assert "third edge" not in said
