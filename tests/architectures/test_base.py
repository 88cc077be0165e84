import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nas.architectures.base import Architecture, ArchitectureError, register_architecture
from nas.architectures.darts import PRIMITIVES, DartsArchitecture
from nas.architectures.genotypes import GENOTYPES, parse_cell
from nas.records import canonical, content_id


@st.composite
def cells(draw):
    pairs = []
    for node in range(2, 6):
        preds = draw(st.lists(st.integers(0, node - 1), min_size=2, max_size=2, unique=True))
        pairs += [(draw(st.sampled_from(PRIMITIVES[1:])), pred) for pred in preds]
    return tuple(pairs)


@pytest.mark.parametrize("name", sorted(GENOTYPES))
def test_every_published_cell_survives_json(name):
    genotype = GENOTYPES[name]
    again = Architecture.from_dict(json.loads(json.dumps(genotype.to_dict())))
    assert again == genotype
    assert isinstance(again, DartsArchitecture)
    assert (again.canonical(), again.id) == (genotype.canonical(), genotype.id)


def test_published_cells_have_different_ids():
    assert len({genotype.id for genotype in GENOTYPES.values()}) == len(GENOTYPES) == 7


def test_the_second_darts_cell_is_the_printed_one():
    sep, skip, pool = "sep_conv_3x3", "skip_connect", "max_pool_3x3"
    normal = [(sep, 0), (sep, 1), (sep, 0), (sep, 1), (sep, 1), (skip, 0), (skip, 0), ("dil_conv_3x3", 2)]
    reduce = [(pool, 0), (pool, 1), (skip, 2), (pool, 1), (pool, 0), (skip, 2), (skip, 2), (pool, 1)]
    assert GENOTYPES["DARTS_V2"] == DartsArchitecture(normal=tuple(normal), reduce=tuple(reduce))


def test_cells_are_read_from_their_short_form():
    assert parse_cell("s5-0 d5-1 | mp-0 ap-2") == (
        ("sep_conv_5x5", 0), ("dil_conv_5x5", 1), ("max_pool_3x3", 0), ("avg_pool_3x3", 2)
    )  # fmt: skip


@given(cells(), cells())
def test_equal_content_has_an_equal_id_and_other_content_another(normal, reduce):
    first = DartsArchitecture(normal=normal, reduce=reduce)
    from_lists = DartsArchitecture.parse(
        {"reduce": [list(pair) for pair in reduce], "normal": [list(pair) for pair in normal]}
    )
    assert first == from_lists
    assert first.id == from_lists.id == content_id(first.to_dict())
    assert first.canonical() == canonical(first.to_dict())
    turned = DartsArchitecture(normal=reduce, reduce=normal)
    assert (turned.id == first.id) == (normal == reduce)


def test_an_architecture_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        GENOTYPES["DARTS_V1"].normal = GENOTYPES["DARTS_V2"].normal


def changed(**changes):
    return {**GENOTYPES["DARTS_V2"].to_dict(), **changes}


def with_pair(index, pair):
    pairs = GENOTYPES["DARTS_V2"].to_dict()["normal"]
    return changed(normal=[*pairs[:index], pair, *pairs[index + 1 :]])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(colour="red"), r"colour: Extra inputs are not permitted \(found 'red'\)"),
        (changed(schema_version=2), r"schema_version: Input should be 1 \(found 2\)"),
        (changed(space="dart"), "space 'dart' is not known; known: channel, darts"),
        ({"normal": []}, "space None is not known; known: channel, darts"),
        ({"space": "darts", "normal": GENOTYPES["DARTS_V2"].to_dict()["normal"]}, "reduce: Field required"),
        (changed(normal=GENOTYPES["DARTS_V2"].to_dict()["normal"][:7]), "normal has 7 pairs, expected 8"),
        (with_pair(1, ["none", 1]), "normal, node 2: operation 'none' is not one of max_pool_3x3, "),
        (with_pair(4, ["conv_7x7", 1]), "normal, node 4: operation 'conv_7x7' is not one of"),
        (with_pair(7, ["sep_conv_3x3", 5]), "normal, node 5: predecessor 5 is not below the node"),
        (with_pair(0, ["sep_conv_3x3", -1]), "normal, node 2: predecessor -1 is not below the node"),
        (with_pair(3, ["skip_connect", 0]), "normal, node 3: both edges come from 0, expected two predecessors"),
        (with_pair(3, ["skip_connect", "1"]), "normal.3.1: Input should be a valid integer"),
        (with_pair(3, ["skip_connect", 1, 2]), "normal.3"),
        (changed(reduce_concat=[2, 3, 4]), r"reduce_concat must be \[2, 3, 4, 5\]"),
        (changed(normal="s3-0"), "normal: Input should be a valid tuple"),
    ],
)
def test_a_faulty_record_is_refused_by_name(value, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_dict(value)


def test_a_space_can_be_taken_only_once():
    with pytest.raises(ValueError, match="'darts' is already registered"):
        register_architecture("darts")(DartsArchitecture)


def test_the_graphs_name_every_edge():
    normal, reduce = GENOTYPES["PDARTS"].graphs()
    assert (normal.name, reduce.name) == ("normal", "reduce")
    assert normal.inputs == ("c[k-2]", "c[k-1]")
    assert normal.nodes == ("0", "1", "2", "3")
    assert normal.edges[0] == ("c[k-2]", "0", "skip_connect")
    assert normal.edges[7] == ("2", "3", "dil_conv_5x5")
    assert normal.edges[8:] == tuple((str(node), "c[k]", "") for node in range(4))
