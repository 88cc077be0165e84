"""nas/commands/preset.py, and every file in presets/."""

import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from nas.commands import preset
from nas.config.yaml_file import read_yaml
from nas.project import load

PROJECT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (PROJECT / "presets").glob("*.yaml"))
RECIPES = sorted(path.stem for path in (PROJECT / "presets/recipes").glob("*.yaml"))
DATA = sorted(path.stem for path in (PROJECT / "presets/data").glob("*.yaml"))
OTHERS = [name for name in NAMES if name != preset.BASE]


def run(*arguments):
    return CliRunner().invoke(preset.app, list(arguments))


def leaves(tree, prefix=""):
    """Dotted key -> value of every leaf: {"search.common.epochs": 16, ...}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {key: leaf for name in tree for key, leaf in leaves(tree[name], f"{prefix}.{name}".lstrip(".")).items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_becomes_a_valid_params_file(project, name):
    result = run("use", name)
    assert result.exit_code == 0, result.output
    load(project / "params.yaml")
    assert f"presets/{name}.yaml" in (project / "params.yaml").read_text().splitlines()[1]
    assert run("show", name).output == (project / "params.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_written_values_are_the_default_with_those_of_the_preset(project, name):
    base, changes = leaves(read_yaml(Path("presets/digits.yaml"))), leaves(read_yaml(Path(f"presets/{name}.yaml")))
    run("use", name)
    replaced = {
        name for name in base if any(key.startswith(f"{name}.") for key in changes)
    }  # null in the default, a mapping in the preset
    assert leaves(read_yaml(Path("params.yaml"))) == {k: v for k, v in (base | changes).items() if k not in replaced}


@pytest.mark.parametrize("name", OTHERS)
def test_a_preset_lists_only_what_differs(name):
    base = leaves(read_yaml(PROJECT / "presets/digits.yaml"))
    changes = leaves(read_yaml(PROJECT / f"presets/{name}.yaml"))
    assert [key for key, value in changes.items() if base.get(key) == value] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_starts_with_its_conditions(name):
    header = (PROJECT / f"presets/{name}.yaml").read_text().partition("\n\n")[0]
    for word in ("Command: ", "Expected: ", "Cost: ", "Hardware: ", "Source: "):
        assert f"\n# {word}" in header


def test_the_committed_params_are_those_of_digits():
    shown = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=PROJECT, capture_output=True, check=False)
    if shown.returncode:
        pytest.skip("not a Git checkout")  # an edited params.yaml is not checked
    assert yaml.safe_load(shown.stdout) == yaml.safe_load((PROJECT / "presets/digits.yaml").read_text())


def test_comments_order_and_brackets_are_kept(project):
    run("use", "cifar10")
    lines = (project / "params.yaml").read_text().splitlines()
    assert "seeds: [0, 1, 2, 3]           # one trial per method and seed; its key is <method>-<seed>" in lines
    assert "    order: second             # first | second (unrolled)" in lines


def test_going_back_to_digits_leaves_no_trace(project):
    run("use", "digits")
    before = (project / "params.yaml").read_bytes()
    run("use", "cifar10")
    run("use", "digits")
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {common: {epcohs: 3}}", "'search.common.epcohs' is not a known key. Did you mean 'epochs'?"),
        ("sedes: [1]", "'sedes' is not a known key. Did you mean 'seeds'?"),
        ("retrain: {epochs: 0}", "'retrain.epochs' is 0"),
        ("retrain: 3", "'retrain' is 3"),
        ("seeds: 1: 2", "not valid YAML"),
        ("- seeds", "expected a mapping"),
    ],
)
def test_a_faulty_preset_is_refused_and_nothing_is_written(project, text, message):
    (project / "presets/mine.yaml").write_text(text)
    before = sorted((path, path.read_bytes()) for path in project.glob("*.yaml"))
    result = run("use", "mine")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: presets/mine.yaml: ")
    assert message in result.stderr
    assert sorted((path, path.read_bytes()) for path in project.glob("*.yaml")) == before


def test_an_unknown_name_is_refused_with_the_known_ones(project):
    result = run("use", "../params")
    assert result.exit_code == 1
    assert "'../params' is not a preset. Known: digits, " in result.stderr


def test_another_file_can_be_written(project):
    before = (project / "params.yaml").read_bytes()
    assert run("use", "cifar10", "--params", "other.yaml").exit_code == 0
    assert (project / "params.yaml").read_bytes() == before
    assert load(project / "other.yaml").retrain.epochs == 600


def test_the_list_shows_the_first_line_of_each_file(project):
    output = run("list").output
    for path in preset.FOLDER.rglob("*.yaml"):
        if path.parent.name == "ablations":
            continue
        assert f"{path.stem} " in output
        assert preset.headline(path) in output


# --- Recipes


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_every_key_of_retrain_but_the_seeds(recipe):
    tree = read_yaml(PROJECT / f"presets/recipes/{recipe}.yaml")
    expected = leaves(read_yaml(PROJECT / "presets/digits.yaml")["retrain"]).keys() - {"seeds"}
    assert leaves(tree.pop("retrain")).keys() == expected  # so no value of the preset remains
    assert leaves(tree).keys() <= {"runtime.precision"}
    header = (PROJECT / f"presets/recipes/{recipe}.yaml").read_text().partition("\n\n")[0]
    for word in ("Command: ", "Source: "):
        assert f"\n# {word}" in header


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_replaces_the_retraining_of_a_preset(project, recipe):
    result = run("use", "cifar10-eoinas", "--recipe", recipe)
    assert result.exit_code == 0, result.output
    text = (project / "params.yaml").read_text()
    assert text.splitlines()[1].startswith("# This is presets/cifar10-eoinas.yaml: ")
    headline = preset.headline(preset.path_in(preset.RECIPES, recipe))
    assert text.splitlines()[2] == f"# Retraining is that of presets/recipes/{recipe}.yaml: {headline}"
    written, tree = read_yaml(Path("params.yaml")), read_yaml(Path(f"presets/recipes/{recipe}.yaml"))
    assert leaves(written["retrain"]) == leaves(tree["retrain"]) | {"seeds": [0]}
    assert written["search"]["eoinas"]["warmup"] == 20  # the search is still the preset's
    assert run("show", "cifar10-eoinas", "--recipe", recipe).output == text


def test_the_recipe_of_cifar_is_that_of_the_presets():
    recipe = leaves(read_yaml(PROJECT / "presets/recipes/cifar.yaml")["retrain"])
    tree = leaves(read_yaml(PROJECT / "presets/cifar10.yaml")["retrain"])
    assert tree.items() <= recipe.items()


@pytest.mark.parametrize("recipe", ["faster", "../cifar10"])
def test_an_unknown_recipe_is_refused_with_the_known_ones(project, recipe):
    result = run("use", "cifar10", "--recipe", recipe)
    assert result.exit_code == 1
    assert f"'{recipe}' is not a recipe. Known: cifar, fashion-mnist, fast, " in result.stderr


def test_a_recipe_where_nothing_is_retrained_is_refused(project):
    result = run("use", "nasbench201", "--recipe", "cifar")
    assert result.exit_code == 1
    assert "presets/nasbench201.yaml: 'retrain.seeds' is [], so nothing is retrained" in result.stderr


def test_a_faulty_recipe_is_named_with_its_preset(project):
    (project / "presets/recipes/mine.yaml").write_text("retrain: {epochs: 0}")
    before = (project / "params.yaml").read_bytes()
    result = run("use", "cifar10", "--recipe", "mine")
    assert result.exit_code == 1
    assert "presets/cifar10.yaml with presets/recipes/mine.yaml: 'retrain.epochs' is 0" in result.stderr
    assert (project / "params.yaml").read_bytes() == before


# --- Data sets


@pytest.mark.parametrize("data", DATA)
def test_a_data_set_sets_every_key_of_data_but_the_splits(data):
    tree = read_yaml(PROJECT / f"presets/data/{data}.yaml")
    expected = leaves(read_yaml(PROJECT / "presets/digits.yaml")["data"]).keys()
    assert leaves(tree.pop("data")).keys() == {key for key in expected if not key.startswith(("splits", "stratified"))}
    assert tree == {}
    header = (PROJECT / f"presets/data/{data}.yaml").read_text().partition("\n\n")[0]
    for word in ("Command: ", "Data: "):
        assert f"\n# {word}" in header


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("cifar10", "nasbench201"))])
def test_a_data_set_replaces_the_images_of_a_preset_and_keeps_its_splits(project, name, data):
    own = read_yaml(Path(f"presets/{name}.yaml"))["data"]
    result = run("use", name, "--data", data)
    assert result.exit_code == 0, result.output
    written, tree = read_yaml(Path("params.yaml"))["data"], read_yaml(Path(f"presets/data/{data}.yaml"))["data"]
    assert tree.items() <= written.items()
    assert written["splits"] == read_yaml(Path("presets/digits.yaml"))["data"]["splits"] | own.get("splits", {})
    headline = preset.headline(preset.path_in(preset.DATA, data))
    assert f"# Images are those of presets/data/{data}.yaml: {headline}\n" in (project / "params.yaml").read_text()


def test_an_unknown_data_set_is_refused_with_the_known_ones(project):
    result = run("use", "cifar10", "--data", "cifar")
    assert result.exit_code == 1
    assert "'cifar' is not a data set. Known: cifar10, cifar100, fashion-mnist; each is a file" in result.stderr


def test_own_images_need_one_file(project):
    """The example in docs/own-data.md."""
    shown = (PROJECT / "docs/own-data.md").read_text().partition("# Flowers")[2].partition("```")[0]
    (project / "presets/data/flowers.yaml").write_text(f"# Flowers{shown}")
    result = run("use", "cifar10", "--data", "flowers")
    assert result.exit_code == 0, result.output
    data = load(project / "params.yaml").data
    assert (data.name, data.root, data.image_size) == ("folder", "data/raw/flowers", 32)
    assert "It reads data/raw/flowers/train/<class>/*.jpg" in result.output


def test_use_reports_the_data_that_a_preset_reads(project):
    output = run("use", "cifar10-small").output
    assert "params.yaml is now presets/cifar10-small.yaml. Next: make repro\nIt reads data/raw/cifar10.npz" in output
    assert "DATA=cifar10" in output
    assert "#" not in output
    assert "It reads 170 MB" in run("use", "cifar10-small", "--data", "cifar10").output


def test_null_is_written_as_null():
    assert preset.with_comments("a: 1 # why\n", {"a": None}) == "a: null # why\n"
