import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nas import project
from nas.config.data import Slice
from nas.config.params import SearchCommon, parse_config, parse_run_key, run_key
from nas.config.sections import ParamsError
from nas.config.yaml_file import read_yaml
from nas.methods import sections
from nas.registry import METHODS

TREE = read_yaml(Path(__file__).parents[2] / "presets" / "digits.yaml")
SEARCH, DERIVE = sections()


def parse(**changes):
    """The digits preset with some keys changed, for instance `search__common__epochs=3`."""
    tree = copy.deepcopy(TREE)
    for name, value in changes.items():
        *above, key = name.split("__")
        section = tree
        for part in above:
            section = section[part]
        section[key] = value
    return project.parse(tree)


def without(dotted):
    tree = copy.deepcopy(TREE)
    *above, key = dotted.split(".")
    section = tree
    for part in above:
        section = section[part]
    del section[key]
    return parse_config(tree, SEARCH, DERIVE)


def refused(**changes):
    with pytest.raises(ParamsError) as caught:
        parse(**changes)
    return str(caught.value)


def test_the_preset_becomes_a_model_of_models():
    config = parse()
    assert isinstance(config.common, SearchCommon)
    assert config.search.keys() == {"common", *METHODS}
    assert all(isinstance(config.search[name], SEARCH[name]) for name in METHODS)
    assert all(isinstance(config.derive[name], DERIVE[name]) for name in METHODS)
    assert config.retrain.seeds == tuple(TREE["retrain"]["seeds"])


def test_every_section_is_frozen():
    config = parse()
    parts = (config, config.runtime, config.data, config.data.splits, config.common, config.common.augment)
    for part in (*parts, *config.search.values(), *config.derive.values(), config.retrain, config.evaluate):
        name = next(iter(type(part).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, getattr(part, name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "'sedes' is not a known key. Did you mean 'seeds'? Known: data, derive, evaluate, methods, "),
        ({"search__common__epcohs": 3}, "'search.common.epcohs' is not a known key. Did you mean 'epochs'?"),
        ({"search__darts__alpha_rl": 3}, "'search.darts.alpha_rl' is not a known key. Did you mean 'alpha_lr'?"),
        ({"search__eoinas__lamda": 3}, "'search.eoinas.lamda' is not a known key. Did you mean 'lambda'?"),
        (
            {"search__dart": {}},
            "'search.dart' is not a known key. Did you mean 'darts'? Known: asng, common, darts, eoinas, gdas, given, ",
        ),
        ({"derive__dart": {}}, "'derive.dart' is not a known key. Did you mean 'darts'? Known: asng, darts, eoinas, "),
        (
            {"retrain__augment__cutuot": 3},
            "'retrain.augment.cutuot' is not a known key. Did you mean 'cutout'? Known: color_jitter, crop_padding, "
            "cutout, flip, resized_crop.",
        ),
        ({"data__splits__xyz": "train"}, "'data.splits.xyz' is not a known key. Known: retrain, search_train, "),
    ],
)
def test_an_unknown_key_is_reported_with_its_path_a_suggestion_and_the_known_keys(changes, message):
    error = refused(**changes)
    assert error.startswith(f"params.yaml: {message}")
    assert "\n" not in error


@pytest.mark.parametrize(
    "key", ["runtime", "seeds", "runtime.threads", "search.common", "search.common.epochs", "search.darts.order",
            "derive.random.rule", "retrain.augment.flip", "data.sha256"]
)  # fmt: skip
def test_no_key_has_a_default(key):
    with pytest.raises(ParamsError, match=rf"^params\.yaml: (section )?'{key}' is missing\.$"):
        without(key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrain__epochs": 0}, "'retrain.epochs' is 0: input should be greater than or equal to 1."),
        ({"search__common__lr": 0.0}, "'search.common.lr' is 0.0: input should be greater than 0."),
        ({"search__common__momentum": 1.0}, "'search.common.momentum' is 1.0: input should be less than 1."),
        ({"search__common__cells": 2}, "'search.common.cells' is 2: input should be greater than or equal to 3."),
        ({"search__common__channels": 5}, "'search.common.channels' is 5: input should be a multiple of 2."),
        ({"search__darts__order": "third"}, "'search.darts.order' is 'third': input should be 'first' or 'second'."),
        ({"search__random__samples": 0}, "'search.random.samples' is 0: input should be greater than or equal to 1."),
        ({"retrain__lr": float("inf")}, "'retrain.lr' is inf: input should be a finite number."),
        ({"retrain__lr": float("nan")}, "'retrain.lr' is nan: input should be a finite number."),
        ({"runtime__device": "gpu"}, "'runtime.device' is 'gpu': input should be 'cpu' or 'cuda'."),
        ({"seeds": []}, "'seeds' is []: list should have at least 1 item after validation, not 0."),
        ({"retrain__seeds": [2**31]}, "'retrain.seeds.0' is 2147483648: input should be less than 2147483648."),
        ({"seeds": [1, 1]}, "'seeds' is [1, 1]: expected distinct values, found a value more than once."),
        (
            {"methods": ["darts", "darts"]},
            "'methods' is ['darts', 'darts']: expected distinct values, found a value more than once.",
        ),
        (
            {"search__common__lr_warmup_epochs": 3},
            "'search.common': 'lr_warmup_epochs' is 3: expected less than 'epochs', 3.",
        ),
        ({"search__common__lr_min": 0.5}, "'search.common': 'lr_min' is 0.5: expected at most 'lr', 0.025."),
        ({"retrain__warmup_epochs": 10}, "'retrain': 'warmup_epochs' is 10: expected less than 'epochs', 10."),
        (
            {"search__darts__warmup_epochs": 3},
            "'search.darts': 'warmup_epochs' is 3: expected less than the 3 of 'search.common.epochs', or alpha never "
            "moves.",
        ),
        (
            {"retrain": TREE["retrain"] | {"schedule": "linear", "epochs": 5}},
            "'retrain': 'epochs' is 5: expected more than 5, the length of the last phase of schedule linear.",
        ),
        (
            {"retrain": TREE["retrain"] | {"schedule": "exponential", "lr_min": 0.1}},
            "'retrain': 'lr_min' is 0.1: expected 0.0, because schedule exponential does not use it.",
        ),
        (
            {"retrain__augment__resized_crop": [0.5, 1.0]},
            "'retrain.augment': 'crop_padding' is 1: expected 0, because 'resized_crop' replaces the padded crop.",
        ),
        (
            {"retrain__augment__resized_crop": [1.0, 0.5]},
            "'retrain.augment': 'resized_crop' is [1.0, 0.5]: expected the smaller area share first.",
        ),
        (
            {"retrain__augment__resized_crop": [0.0, 0.5]},
            "'retrain.augment.resized_crop.0' is 0.0: input should be greater than 0.",
        ),
        (
            {"retrain__augment__color_jitter": [0.4, 0.4, 0.4, 0.6]},
            "'retrain.augment.color_jitter.3' is 0.6: input should be less than or equal to 0.5.",
        ),
        (
            {"retrain__schedule": "step"},
            "'retrain.schedule' is 'step': input should be 'cosine', 'linear', 'exponential' or 'one_cycle'.",
        ),
    ],
)
def test_an_invalid_value_is_reported_with_what_is_allowed(changes, message):
    assert refused(**changes).splitlines()[0] == f"params.yaml: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrain__epochs": "20"}, "'retrain.epochs' is '20': input should be a valid integer."),
        ({"retrain__epochs": 2.0}, "'retrain.epochs' is 2.0: input should be a valid integer."),
        ({"retrain__epochs": True}, "'retrain.epochs' is True: input should be a valid integer."),
        ({"retrain__lr": "0.1"}, "'retrain.lr' is '0.1': input should be a valid number."),
        ({"runtime__deterministic": 1}, "'runtime.deterministic' is 1: input should be a valid boolean."),
        ({"data__root": None}, "'data.root' is None: input should be a valid string."),
        ({"retrain": 3}, "'retrain' is 3: input should be a valid dictionary or instance of Retrain."),
        ({"seeds": 3}, "'seeds' is 3: input should be a valid list."),
        ({"search": None}, "'search' is None: input should be a valid dictionary."),
    ],
)
def test_no_type_is_converted(changes, message):
    assert refused(**changes) == f"params.yaml: {message}"


def test_an_integer_is_accepted_where_a_float_is_expected():
    assert parse(retrain__lr=1).retrain.lr == 1.0


def test_every_invalid_key_has_its_own_line():
    lines = refused(retrain__epochs=0, evaluate__bacth=3, runtime__threads="two").splitlines()
    assert [line.split("'")[1] for line in lines] == ["runtime.threads", "retrain.epochs", "evaluate.bacth"]


@pytest.mark.parametrize("name", ["search_train", "search_valid", "retrain"])
@pytest.mark.parametrize("text", ["test", "test[:50%]"])
def test_only_the_test_split_may_read_the_test_part(name, text):
    message = f"'{name}' is '{text}': expected a slice of train, because only the evaluate stage reads the test part."
    assert message in refused(**{f"data__splits__{name}": text})


def test_the_test_split_is_a_slice_of_the_test_part():
    assert "'test' is 'train[50%:]': expected a slice of test." in refused(data__splits__test="train[50%:]")
    assert parse(data__splits__test="test[:10]").data.splits.test == "test[:10]"


@pytest.mark.parametrize("text", ["valid", "train[50%]", "train[:101%]", "train[-5:]", "train[a:]", "train[:5%", ""])
def test_a_malformed_slice_is_refused(text):
    assert refused(data__splits__retrain=text).startswith(f"params.yaml: 'data.splits.retrain' is {text!r}: ")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"file": "a.npz", "array": "mine"}, "'data.splits.retrain.sha256' is missing."),
        ({"file": "a.npz", "array": "mine", "sha256": "0", "x": 1}, "'data.splits.retrain.sha256' is '0': "),
        (
            {"file": "a.npz", "array": "mine", "sha256": "0" * 64, "files": 1},
            "'data.splits.retrain.files' is not a known key. Did you mean 'file'? Known: array, file, sha256.",
        ),
        (3, "'data.splits.retrain' is 3: "),
    ],
)
def test_a_split_from_a_file_names_file_array_and_checksum(split, message):
    assert f"params.yaml: {message}" in refused(data__splits__retrain=split)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search__asng__epochs": 0},
            "'search.asng.epochs' is 0: input should be greater than or equal to 1, or input",
        ),
        ({"search__asng__delta0": "x"}, "'search.asng.delta0' is 'x': input should be a valid number, or input should"),
        ({"search__asng__cost_at": 3}, "'search.asng.cost_at' is 3: input should be 'search', or input should be a"),
        ({"search__is_nas__eps": [0, "a"]}, "'search.is_nas.eps.1' is 'a': input should be a valid number."),
    ],
)
def test_a_key_of_several_types_has_one_error_line(changes, message):
    error = refused(**changes)
    assert message in error
    assert len(error.splitlines()) == 1


def test_an_error_inside_one_of_several_types_names_its_key():
    lines = refused(search__asng__cost_at={"cells": 20, "channels": 36, "stems": "cifar"}).splitlines()
    assert lines[0] == "params.yaml: 'search.asng.cost_at.stem' is missing."
    assert lines[1].startswith(
        "params.yaml: 'search.asng.cost_at.stems' is not a known key. Did you mean 'stem'? Known: "
    )


def test_best_of_last_is_at_most_the_number_of_epochs():
    assert "'best_of_last' is 11: expected at most 'epochs', 10" in refused(retrain__best_of_last=11)


def test_only_arrays_and_folders_take_a_checksum():
    message = f"'sha256' is {'0' * 64}: expected null, because 'name' is neither arrays nor folder."
    assert refused(data__sha256="0" * 64) == f"params.yaml: 'data': {message}"
    for name in ("arrays", "folder"):
        assert parse(data__name=name, data__sha256="0" * 64).data.sha256 == "0" * 64
        assert parse(data__name=name).data.sha256 is None  # the prepare stage then reports it
    assert "'data.sha256' is 'abc'" in refused(data__name="arrays", data__sha256="abc")
    message = "'image_size' is 32: expected null, because 'name' is not folder."
    assert refused(data__image_size=32) == f"params.yaml: 'data': {message}"


def test_a_fault_of_the_whole_file_names_no_empty_key():
    assert refused(retrain__seeds=[]).startswith("params.yaml: 'retrain.seeds' is ")


def test_a_method_must_be_known_and_have_its_sections():
    assert "'methods' contains 'dart', which is not a known method." in refused(methods=["dart"])
    assert "Did you mean 'lfr_darts'? Known: " in refused(methods=["lfr-darts"])
    with pytest.raises(ParamsError, match=r"'methods' contains 'darts', which is not a known method\. Known: random\."):
        parse_config(
            {**TREE, "search": {k: TREE["search"][k] for k in ("common", "random")},
             "derive": {"random": TREE["derive"]["random"]}},
            {"random": SEARCH["random"]}, {"random": DERIVE["random"]},
        )  # fmt: skip
    with pytest.raises(ParamsError, match=r"params\.yaml: section 'search\.darts' is missing\."):
        without("search.darts")
    with pytest.raises(ParamsError, match=r"params\.yaml: section 'derive\.darts' is missing\."):
        without("derive.darts")


def test_the_section_of_an_unused_method_may_be_missing_but_not_invalid():
    tree = {**TREE, "methods": ["random"], "search": {k: TREE["search"][k] for k in ("common", "random")}}
    assert parse_config(tree, SEARCH, DERIVE).methods == ("random",)
    assert "'search.darts.alpha_lr' is -1" in refused(methods=["random"], search__darts__alpha_lr=-1)


def test_runs_are_in_the_order_of_the_table():
    assert parse(methods=["darts", "random"], seeds=[3, 0]).runs() == [
        ("darts-3", "darts", 3), ("darts-0", "darts", 0), ("random-3", "random", 3), ("random-0", "random", 0)
    ]  # fmt: skip


@given(st.sampled_from(["random", "darts", "lfr_darts", "is_nas"]), st.integers(0, 2**31 - 1))
def test_parsing_a_run_key_returns_its_method_and_seed(method, seed):
    assert parse_run_key(run_key(method, seed)) == (method, seed)


@pytest.mark.parametrize("key", ["darts", "darts-", "-3", "darts-x", "", "darts-0.5"])
def test_an_invalid_run_key_is_refused(key):
    with pytest.raises(ParamsError, match=f"'{key}' is not a run key: expected <method>-<seed>"):
        parse_run_key(key)


def test_a_run_key_splits_at_its_last_dash():
    assert parse_run_key("lfr_darts-3") == ("lfr_darts", 3)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("train", (0, 10)),
        ("train[:50%]", (0, 5)),
        ("train[25%:]", (2, 10)),
        ("test[3:7]", (3, 7)),
        ("train[9:]", (9, 10)),
    ],
)
def test_a_slice_has_bounds(text, bounds):
    assert Slice.parse(text).bounds(10) == bounds


@given(st.integers(1, 99), st.integers(2, 10_000))
def test_slices_up_to_and_from_a_percentage_leave_no_gap_and_no_overlap(percent, count):
    if count * percent // 100:
        assert (
            Slice.parse(f"train[:{percent}%]").bounds(count)[1] == Slice.parse(f"train[{percent}%:]").bounds(count)[0]
        )


@pytest.mark.parametrize("text", ["train[5:5]", "train[:11]", "train[7:3]", "train[:1%]"])
def test_an_empty_or_too_long_slice_is_refused(text):
    with pytest.raises(ValueError, match="asks for samples"):
        Slice.parse(text).bounds(10)


def yaml_file(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return path


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    text = "{a: 1e-3, b: 1E+2, c: -2.5e-1, d: 3, e: .5, f: 1e3x, g: '1e-3', h: 1.0, i: null, j: true}"
    assert read_yaml(yaml_file(tmp_path, text)) == {
        "a": 0.001, "b": 100.0, "c": -0.25, "d": 3, "e": 0.5, "f": "1e3x", "g": "1e-3", "h": 1.0, "i": None, "j": True
    }  # fmt: skip
    assert isinstance(read_yaml(yaml_file(tmp_path, "d: 3"))["d"], int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' appears more than once in the mapping at line 1"),
        ("s:\n  x: 1\n  y: {z: 1, z: 2}\n", "key 'z' appears more than once in the mapping at line 3"),
        ("a: b: c", "not valid YAML: "),
        ("- 1\n- 2\n", "expected a mapping of sections, found list"),
        ("", "expected a mapping of sections, found NoneType"),
    ],
)
def test_an_invalid_file_is_named(tmp_path, text, message):
    path = yaml_file(tmp_path, text)
    with pytest.raises(ParamsError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match="no such file; run from the project's folder"):
        parse_config(read_yaml(tmp_path / "params.yaml"), SEARCH, DERIVE, str(tmp_path / "params.yaml"))


def test_an_error_names_the_file_it_was_read_from(tmp_path):
    path = yaml_file(tmp_path, "methods: [darts]")
    with pytest.raises(ParamsError) as caught:
        parse_config(read_yaml(path), SEARCH, DERIVE, str(path))
    assert f"{path}: 'retrain' is missing." in str(caught.value).splitlines()


def test_an_invalid_element_of_a_list_is_reported_once_and_not_as_a_list_too_short():
    digits = Path(__file__).parents[2] / "presets" / "digits.yaml"
    tree = {**read_yaml(digits), "seeds": [-1]}
    with pytest.raises(ParamsError) as error:
        parse_config(tree, *sections())
    assert str(error.value) == "params.yaml: 'seeds.0' is -1: input should be greater than or equal to 0."


SHA = "0" * 64


def test_a_table_is_a_file_and_its_checksum():
    config = parse(evaluate__table={"path": "t.csv", "sha256": SHA})
    assert config.evaluate.table is not None
    assert (config.evaluate.table.path, config.evaluate.table.sha256) == ("t.csv", SHA)
    assert "'evaluate.table.sha256' is 'x'" in refused(evaluate__table={"path": "t.csv", "sha256": "x"})
    assert "'evaluate.table.sha256' is missing" in refused(evaluate__table={"path": "t.csv"})


def test_without_retraining_a_benchmark_table_is_required():
    message = refused(retrain__seeds=[])
    assert "'retrain.seeds' is [] and 'evaluate.table' is null, so the derived architectures would not be" in message


def test_without_retraining_every_method_searches_where_the_table_is():
    table = {"path": "t.csv", "sha256": SHA}
    message = refused(retrain__seeds=[], evaluate__table=table, methods=["darts"])
    assert "'search.darts.space' is 'darts', which has no benchmark table, and 'retrain.seeds' is empty" in message
    spaces = {"search__darts__space": "nasbench201", "methods": ["darts"]}
    assert parse(retrain__seeds=[], evaluate__table=table, **spaces).retrain.seeds == ()
    assert parse(evaluate__table=table, methods=["darts", "tenas"]).retrain.seeds, "with retraining both may stand"
