from collections import Counter
from itertools import combinations

import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.architectures.cell_shape import DARTS_EDGES
from nas.architectures.darts import PRIMITIVES, DartsArchitecture
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.spaces.darts.space import DartsSpace, random_cell, strongest_edges

SPACE = DartsSpace()


def test_edges_are_numbered_by_node_then_predecessor():
    assert len(DARTS_EDGES) == 14
    assert DARTS_EDGES.index((5, 4)) == 13
    assert DARTS_EDGES.index((3, 0)) == 2
    assert [DARTS_EDGES.index((node, 0)) for node in (2, 3, 4, 5)] == [0, 2, 5, 9]


def test_each_of_the_fourteen_edges_of_both_cells_chooses_among_the_primitives():
    assert SPACE.variables() == {"normal": (PRIMITIVES,) * 14, "reduce": (PRIMITIVES,) * 14}


@given(st.integers(0, 2**62))
def test_a_random_architecture_is_valid_and_depends_only_on_the_generator(seed):
    first, again = (SPACE.random(torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first == again
    assert SPACE.parse(first.to_dict()) == first
    for cell in (first.normal, first.reduce):
        assert all(op in PRIMITIVES[1:] for op, _ in cell)
        for node, (a, b) in enumerate(zip(cell[::2], cell[1::2], strict=True), start=2):
            assert 0 <= a[1] < b[1] < node


def test_a_draw_advances_only_its_own_generator():
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    drawn = [SPACE.random(generator) for _ in range(20)]
    assert len({a.id for a in drawn}) == 20
    assert all(a.normal != a.reduce for a in drawn)
    assert torch.equal(torch.get_rng_state(), before)


def within_four_sigma(counts, outcomes, total):
    p = 1 / outcomes
    assert len(counts) == outcomes
    assert all(abs(n - total * p) <= 4 * (total * p * (1 - p)) ** 0.5 for n in counts.values())


def test_operations_and_predecessors_are_drawn_uniformly():
    generator, total = torch.Generator().manual_seed(0), 4000
    cells = [random_cell(generator) for _ in range(total)]
    for index in range(8):
        within_four_sigma(Counter(cell[index][0] for cell in cells), 7, total)
    for node in range(2, 6):
        first, second = 2 * (node - 2), 2 * (node - 2) + 1
        pairs = Counter((cell[first][1], cell[second][1]) for cell in cells)
        assert set(pairs) == set(combinations(range(node), 2))
        within_four_sigma(pairs, len(pairs), total)
        within_four_sigma(Counter((cell[first][0], cell[second][0]) for cell in cells), 49, total)


def scored(scores, op=4):
    """14 edges with this operation, and these strengths where given: edge -> strength."""
    return [(op, scores.get(edge, 0.0)) for edge in DARTS_EDGES]


def test_the_two_strongest_edges_of_a_node_stay_in_order_of_predecessor():
    cell = strongest_edges(scored({(4, 3): 0.9, (4, 1): 0.4, (4, 0): 0.3, (5, 2): 0.2, (5, 4): 0.1, (3, 2): 0.1}))
    assert [pred for _, pred in cell] == [0, 1, 0, 2, 1, 3, 2, 4]


def test_of_equally_strong_edges_those_of_lower_predecessors_stay():
    assert [pred for _, pred in strongest_edges(scored({}))] == [0, 1] * 4
    cell = strongest_edges(scored({(5, 1): 0.5, (5, 3): 0.5, (5, 4): 0.5, (4, 2): 0.5}))
    assert [pred for _, pred in cell[4:]] == [0, 2, 1, 3]


@given(st.lists(st.tuples(st.integers(1, 7), st.floats(0, 1)), min_size=14, max_size=14))
def test_no_removed_edge_is_stronger_than_a_kept_one(edges):
    cell = strongest_edges(edges)
    for node in range(2, 6):
        kept = cell[2 * (node - 2) : 2 * (node - 1)]
        assert all(PRIMITIVES[edges[DARTS_EDGES.index((node, pred))][0]] == op for op, pred in kept)
        strength = {pred: edges[DARTS_EDGES.index((node, pred))][1] for pred in range(node)}
        stays = {pred for _, pred in kept}
        assert len(stays) == 2
        assert min(strength[pred] for pred in stays) >= max(
            (s for pred, s in strength.items() if pred not in stays), default=0
        )


def test_as_categories_a_node_chooses_a_pair_of_predecessors_and_two_operations():
    counts = [len(names) for names in SPACE.categories()["normal"]]
    assert counts == [1, 7, 7, 3, 7, 7, 6, 7, 7, 10, 7, 7]
    assert SPACE.categories()["normal"][6] == ("0+1", "0+2", "0+3", "1+2", "1+3", "2+3")


@given(st.integers(0, 2**62))
def test_every_random_architecture_is_one_choice_and_its_edges_run_in_the_supernet(seed):
    generator = torch.Generator().manual_seed(seed)
    choices = {
        cell_type: [int(torch.randint(len(names), (), generator=generator)) for names in rows]
        for cell_type, rows in SPACE.categories().items()
    }
    found, running = SPACE.choose(choices), SPACE.path(choices).choices
    for cell_type, cell in (("normal", found.normal), ("reduce", found.reduce)):
        edges = {(2 + index // 2, pred): PRIMITIVES.index(op) for index, (op, pred) in enumerate(cell)}
        assert running[cell_type] == [edges.get(edge, 0) for edge in DARTS_EDGES]


def test_the_cost_of_an_operation_is_that_of_the_common_table():
    found = SPACE.costs(ImageForm(3, 32, 32, 10), Size(cells=3, channels=4, stem="cifar"), affine=True)
    assert found["normal"][1] == (0, 0, 0, 2 * (36 + 16) + 16, 2 * (100 + 16) + 16, 36 + 16 + 8, 100 + 16 + 8)


def test_an_architecture_is_assembled_from_both_cells():
    found = SPACE.assemble({"normal": scored({}, op=1), "reduce": scored({(5, 4): 1.0}, op=7)})
    assert isinstance(found, DartsArchitecture)
    assert found.normal == tuple(("max_pool_3x3", pred) for pred in [0, 1] * 4)
    assert found.reduce == tuple(("dil_conv_5x5", pred) for pred in [0, 1, 0, 1, 0, 1, 0, 4])
