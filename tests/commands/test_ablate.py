"""nas/commands/ablate.py and nas/commands/variants.py, and every file in presets/ablations/."""

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nas.commands import ablate, experiments, preset, variants
from nas.config.sections import ParamsError
from nas.config.yaml_file import read_yaml
from nas.project import parse
from nas.training.checkpoint import BusyError, workplace

PROJECT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (PROJECT / "presets/ablations").glob("*.yaml"))
PRESETS = sorted(path.stem for path in (PROJECT / "presets").glob("*.yaml"))


def refused(text):
    """The error message for an ablation `mine` with this text."""
    Path("presets/ablations/mine.yaml").write_text(text)
    result = CliRunner().invoke(ablate.app, ["run", "mine"])
    assert result.exit_code == 1, result.output
    return result.stderr.strip()


@pytest.mark.parametrize("protocol", PRESETS)
@pytest.mark.parametrize("name", NAMES)
def test_every_ablation_works_with_every_protocol(project, name, protocol):
    """Two exceptions: without retraining, methods whose space has no table are refused; and iterations of three epochs
    are refused with a warm-up of five."""
    Path("params.yaml").write_text(preset.render(protocol))
    refusals = {
        "which has no benchmark table": protocol.startswith("nasbench201") and name.startswith(("lfr-darts", "tenas")),
        "'epochs_each' is 3: expected more than the 5": protocol == "imagenet-is-nas" and name.startswith("lfr-darts"),
    }
    for message, expected in refusals.items():
        if expected:
            with pytest.raises(ParamsError, match=message):
                variants.read(name)
            return
    read = variants.read(name)
    assert [v.experiment for v in read] == [f"ablation-{name}-{v.label}" for v in read]
    assert len({v.config.model_dump_json() for v in read}) == len(read), "no two variants are equal"


@pytest.mark.parametrize("name", NAMES)
def test_every_ablation_opens_with_a_question_and_its_conditions(name):
    header = (PROJECT / f"presets/ablations/{name}.yaml").read_text().partition("\n\n")[0]
    assert header.splitlines()[0].endswith("?")
    for word in ("Question: ", "Command:  make ablation NAME=" + name, "Expected: ", "Cost: ", "Source: "):
        assert f"\n# {word}" in header


def test_the_list_gives_each_question(project):
    output = CliRunner().invoke(ablate.app, ["list"]).output.splitlines()
    assert [line.split()[0] for line in output] == NAMES
    assert all(line.endswith(variants.headline(name)) for line, name in zip(output, NAMES, strict=True))


def test_common_changes_are_merged_into_params_and_then_those_of_the_variant(project):
    base = read_yaml(Path("params.yaml"))
    text = """
common: {methods: [darts], search: {common: {epochs: 7}, darts: {alpha_lr: 0.5}}}
variants:
  a: {}
  b: {methods: [random, eoinas], search: {darts: {alpha_lr: 0.25}}}
"""
    Path("presets/ablations/mine.yaml").write_text(text)
    first, second = variants.read("mine")
    assert (first.config.methods, second.config.methods) == (("darts",), ("random", "eoinas"))
    assert (first.config.common.epochs, second.config.common.epochs) == (7, 7)
    assert [v.config.search["darts"].alpha_lr for v in (first, second)] == [0.5, 0.25]
    assert first.params["retrain"] == base["retrain"]
    assert second.overrides == [
        "++methods=['random','eoinas']",
        "++search.common.epochs=7",
        "++search.darts.alpha_lr=0.25",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {a: {}}", "mine.yaml: 'common' is missing."),
        ("common: {}\nvariants: {}", "mine.yaml: 'variants': dictionary should have at least 1 item"),
        ("common: {}\nvariant: {a: {}}", "'variant' is not a known key. Did you mean 'variants'?"),
        ("common: {}\nvariants: {a: 3}", "'variants.a' is 3"),
        ("common: {}\nvariants: {0.5: {}}", "label 0.5 is not a string in YAML: put it in quotes"),
        ("common: {}\nvariants: {off: {}}", "label False is not a string in YAML: put it in quotes"),
        ("common: {}\nvariants: {a/b: {}}", "label 'a/b': expected letters and digits, with . _ or - between them"),
        (
            "common: {}\nvariants: {a: {}, b: {search: {common: {epcohs: 3}}}}",
            "mine.yaml, variant 'b': 'search.common.epcohs' is not a known key. Did you mean 'epochs'?",
        ),
        ("common: {retrain: {epochs: 0}}\nvariants: {a: {}}", "mine.yaml, variant 'a': 'retrain.epochs' is 0"),
    ],
)
def test_a_faulty_ablation_is_refused_with_file_variant_and_key(project, text, message):
    error = refused(text)
    assert error.startswith("error: presets/ablations/mine.yaml")
    assert message in error


def test_faulty_params_are_distinguished_from_a_faulty_variant(project):
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("seeds: [0, 1]", "seeds: [0, 0]"))
    assert refused("common: {}\nvariants: {a: {}}").startswith("error: params.yaml: 'seeds'")


def test_an_unknown_name_is_refused_with_the_known_ones(project):
    result = CliRunner().invoke(ablate.app, ["run", "../digits"])
    assert result.exit_code == 1
    assert f"'../digits' is not an ablation. Known: {', '.join(NAMES)}" in result.stderr


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="$"), max_size=8)
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = SCALARS | st.lists(SCALARS, max_size=3)


@given(VALUES)
def test_dvc_reads_the_wanted_values_from_the_overrides(tmp_path_factory, value):
    from dvc.utils.hydra import apply_overrides

    path = tmp_path_factory.mktemp("hydra") / "params.yaml"
    path.write_text("methods: [random]\nsearch:\n  lfr_darts:\n    n_grow: 3 # a remark\n")
    wanted = {"methods": ["lfr_darts"], "search": {"lfr_darts": {"n_grow": value}, "is_nas": {"new": {"key": value}}}}
    apply_overrides(path, variants.overrides(read_yaml(path), wanted))
    assert read_yaml(path) == wanted


def test_only_differences_become_overrides():
    tree = read_yaml(PROJECT / "presets/digits.yaml")
    other = copy.deepcopy(tree)
    assert variants.overrides(tree, other) == []
    other["data"]["pad"] = 32
    other["search"]["common"]["clip"] = 5  # 5.0 in the preset; DVC distinguishes 5 from 5.0
    assert variants.overrides(tree, other) == ["++data.pad=32", "++search.common.clip=5"]
    assert parse(other).common.clip == 5.0


def test_the_message_of_a_busy_stage_is_the_one_that_causes_a_second_try(tmp_path):
    with workplace(tmp_path / "stage"), pytest.raises(BusyError, match=experiments.BUSY), workplace(tmp_path / "stage"):
        pass
