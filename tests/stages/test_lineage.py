import ast
import re
import shutil
from pathlib import Path

import pytest
import yaml

from nas.config.yaml_file import read_yaml
from nas.records import content_id
from nas.registry import METHODS
from stages.lineage import checkpoints, fingerprint, leaf, project_root, resolve

PROJECT = Path(__file__).parents[2]
STAGES = read_yaml(PROJECT / "dvc.yaml")["stages"]
TRIALS = [verb for verb, stage in STAGES.items() if "matrix" in stage]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """What a fingerprint reads: sources, params, and small stand-ins for the outputs of earlier stages."""
    for room in ("nas", "stages"):
        shutil.copytree(PROJECT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "dvc.yaml", tmp_path / "dvc.yaml")
    shutil.copy(PROJECT / "presets" / "digits.yaml", tmp_path / "params.yaml")
    written = ["data/prepared/" + name for name in ("spec.json", "train.safetensors", "test.safetensors")]
    written += [f"data/prepared/splits/{name}.json" for name in ("search_train", "search_valid", "retrain", "test")]
    written += [f"runs/darts-0/{name}" for name in ("search.json", "search.history.json", "architectures.json")]
    written += ["runs/darts-0/weights/main-0.safetensors"]
    for name in written:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("NAS_CACHE", raising=False)
    return tmp_path


def fingerprints(key="darts-0", seed=0):
    return {verb: fingerprint(verb, key, "darts", seed) for verb in ("search", "retrain", "evaluate")}


def changed(before):
    return {verb for verb, value in fingerprints().items() if value != before[verb]}


def with_value(tree, dotted, value):
    """A copy of the tree with another value at a dotted key."""
    key, _, rest = dotted.partition(".")
    return {**tree, key: with_value(tree[key], rest, value) if rest else value}


def write(project, tree):
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


@pytest.mark.parametrize(
    ("param", "stages"),
    [
        ("search.darts.alpha_lr", {"search"}),
        ("search.random.samples", set()),
        ("search.common.epochs", {"search"}),
        ("search.common.augment.crop_padding", {"search"}),
        ("retrain.lr", {"retrain"}),
        ("retrain.augment.flip", {"retrain"}),
        ("retrain.cells", {"retrain", "evaluate"}),
        ("evaluate.batch", {"evaluate"}),
        ("evaluate.table", {"evaluate"}),
        ("derive.darts.rule", set()),
        ("runtime.threads", {"search", "retrain", "evaluate"}),
        ("seeds", set()),
        ("methods", set()),
    ],
)
def test_a_fingerprint_depends_on_the_params_of_the_stage_only(project, param, stages):
    before, tree = fingerprints(), read_yaml(project / "params.yaml")
    assert leaf(tree, param) != 12345
    write(project, with_value(tree, param, 12345))
    assert changed(before) == stages


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("nas/methods/darts.py", {"search"}),
        ("nas/methods/random.py", set()),
        ("nas/spaces/darts/batched.py", {"search", "retrain", "evaluate"}),
        ("nas/training/loop.py", {"search", "retrain"}),
        ("nas/engine/graphs.py", {"search", "retrain", "evaluate"}),
        ("nas/training/retrain.py", {"retrain", "evaluate"}),
        ("nas/training/sized.py", {"retrain", "evaluate"}),
        ("nas/training/evaluate.py", {"evaluate"}),
        ("nas/report/page.py", set()),
        ("stages/search.py", {"search"}),
        ("data/prepared/train.safetensors", {"search", "retrain"}),
        ("data/prepared/test.safetensors", {"evaluate"}),
        ("data/prepared/splits/search_valid.json", {"search"}),
        ("data/prepared/splits/retrain.json", {"retrain"}),
        ("data/prepared/splits/test.json", {"evaluate"}),
        ("runs/darts-0/architectures.json", {"retrain", "evaluate"}),
        ("runs/darts-0/weights/main-0.safetensors", {"evaluate"}),
        ("runs/darts-0/search.history.json", {"evaluate"}),
        ("nas/benchmark_table.py", {"evaluate"}),
    ],
)
def test_a_fingerprint_depends_on_the_content_of_the_deps_only(project, name, stages):
    before = fingerprints()
    (project / name).touch()
    assert changed(before) == set()
    with (project / name).open("a") as file:
        file.write("\n# changed\n")
    assert changed(before) == stages


ROOMS = ("architectures", "data", "engine", "methods", "spaces", "training", "report")
FILES = ("benchmark_table", "collapse", "complexity", "contracts")
UNFOLLOWED = {"nas/training/checkpoint.py", "nas/training/progress.py", "nas/data/spec.py"}  # cannot change a result
DATA = {f"nas/data/{name}.py" for name in ("colours", "crops", "dataset")}
NOT_RUN = {  # imported by a stage's modules, but not called by the stage
    "derive": {
        *DATA,
        "nas/engine/placement.py",
        "nas/engine/graphs.py",
        "nas/engine/schedules.py",
        "nas/engine/tasks.py",
    },
    "retrain": {"nas/complexity.py"},
    "evaluate": {"nas/training/loop.py"},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("verb", STAGES)
def test_the_code_that_a_stage_imports_is_among_its_deps(verb, method):
    """The code that results depend on; a change of code that is missing from the deps would keep old results."""
    deps = [dep if isinstance(dep, str) else next(iter(dep)) for dep in STAGES[verb]["deps"]]
    listed = [PROJECT / dep.replace("${item.method}", method) for dep in deps if dep.startswith("nas/")]
    followed = {file for path in listed for file in (path.rglob("*.py") if path.is_dir() else [path])}
    missing: set[Path] = set()
    waiting = list(followed)
    while waiting:
        for file in modules(waiting.pop()) - followed - missing:
            missing.add(file)
            waiting.append(file)
    assert {file.relative_to(PROJECT).as_posix() for file in missing} - UNFOLLOWED == NOT_RUN.get(verb, set())


def modules(path):
    """The files that results depend on and that a file imports at its head."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = (name.split(".") for name in names if name and name.startswith("nas."))
    files = (PROJECT.joinpath(*name).with_suffix(".py") for name in ours if name[1] in ROOMS + FILES)
    return {file for file in files if file.is_file()}


def test_a_new_file_in_a_dep_changes_the_fingerprint_python_caches_and_other_files_do_not(project):
    before = fingerprints()
    (project / "nas/spaces/__pycache__").mkdir()
    (project / "nas/spaces/__pycache__/ops.pyc").write_text("x")
    (project / "notes.txt").write_text("x")
    (project / "nas/unrelated.py").write_text("x")
    assert changed(before) == set()
    (project / "nas/spaces/new.py").write_text("x")
    assert changed(before) == {"search", "retrain", "evaluate"}


def test_comments_and_the_order_of_keys_do_not_matter(project):
    before, path = fingerprints(), project / "params.yaml"
    tree = read_yaml(path)
    path.write_text("# a remark\n" + path.read_text() + "# another\n")
    assert changed(before) == set()
    write(
        project, {name: dict(reversed(v.items())) if isinstance(v, dict) else v for name, v in reversed(tree.items())}
    )
    assert changed(before) == set()


def test_each_stage_key_method_and_seed_has_its_own_folder(project, monkeypatch):
    distinct = {fingerprint("search", f"{m}-{s}", m, s) for m in METHODS for s in (0, 1)}
    distinct |= set(fingerprints().values())
    assert len(distinct) == 2 * len(METHODS) + 2  # the search of darts-0 is in both sets
    assert all(re.fullmatch(r"[0-9a-f]{32}", value) for value in distinct)
    here = fingerprint("search", "darts-0", "darts", 0)
    assert checkpoints("search", "darts-0", "darts", 0) == project / ".nas" / "ckpt" / here
    monkeypatch.setenv("NAS_CACHE", str(project / "cache"))
    assert checkpoints("search", "darts-0", "darts", 0) == project / "cache" / here


def test_the_key_alone_changes_the_fingerprint(project):
    assert fingerprint("search", "darts-0", "darts", 0) != fingerprint("search", "darts-1", "darts", 0)


def test_a_temporary_copy_keeps_its_checkpoints_in_the_main_repository(project, monkeypatch):
    assert project_root() == project
    monkeypatch.setenv("DVC_ROOT", str(project / "main"))
    assert project_root() == project / "main"


def test_the_fingerprint_does_not_depend_on_the_path(project, tmp_path_factory, monkeypatch):
    before, other = fingerprints(), tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(project, other)
    monkeypatch.chdir(other)
    assert fingerprints() == before
    assert content_id(before) == content_id(fingerprints())


def values_of(method):
    return {"key": f"{method}-0", "item.method": method, "item.seed": "0"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("verb", STAGES)
def test_every_dep_is_source_code_or_written_by_an_earlier_stage(verb, method):
    earlier = list(STAGES)[: list(STAGES).index(verb)]
    outs = {resolve(out, values_of(method)) for stage in earlier for out in written_by(STAGES[stage])}
    for dep in STAGES[verb]["deps"]:
        path = resolve(dep, values_of(method))
        if path.startswith(("nas/", "stages/")):
            assert (PROJECT / path).exists(), path
        else:
            assert path in outs | {"runs"}, path


def written_by(stage):
    """The outs of a stage and the histories that DVC plots."""
    return [*stage["outs"], *(path for plot in stage.get("plots", ()) for path in plot)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("verb", STAGES)
def test_every_param_of_a_stage_is_in_the_default_preset(verb, method):
    tree = read_yaml(PROJECT / "presets" / "digits.yaml")
    for param in STAGES[verb].get("params", []):
        leaf(tree, resolve(param, values_of(method)))  # raises KeyError


@pytest.mark.parametrize("verb", STAGES)
def test_every_stage_depends_on_its_own_program(verb):
    assert f"stages/{verb}.py" in STAGES[verb]["deps"]
    assert f"python -m stages.{verb}" in STAGES[verb]["cmd"]


def test_an_unknown_variable_in_a_dep_is_an_error():
    assert resolve("runs/${key}/${item.seed}", {"key": "darts-0", "item.seed": "0"}) == "runs/darts-0/0"
    with pytest.raises(KeyError, match=r"item\.colour"):
        resolve("${item.colour}", {})
