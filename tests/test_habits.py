"""Rules about the project's own files: levels of packages, light imports, dependencies. Pages: tests/test_docs.py."""

import ast
import graphlib
import json
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.main import get_command

from nas.commands.main import app
from nas.registry import METHODS

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())

# docs/design.md draws this table. An import may go down or stay on a floor, but may not cross a wall or close a circle.
FLOORS = {
    "nas.__main__": 6,
    "nas.commands": 6,
    "stages": 5,
    "nas.project": 4,
    "nas.report": 4,
    "nas.trained_network": 4,
    "nas.training": 4,
    "nas.data": 3,
    "nas.methods": 3,
    "nas.methods.shared": 3,
    "nas.spaces": 3,
    "nas.spaces.blocks": 3,
    "nas.spaces.channel": 3,
    "nas.spaces.darts": 3,
    "nas.spaces.enas": 3,
    "nas.spaces.mobile": 3,
    "nas.spaces.nasbench201": 3,
    "nas.tracking": 3,
    "nas.contracts": 2,
    "nas.engine": 2,
    "nas.architectures": 1,
    "nas.benchmark_table": 1,
    "nas.collapse": 1,
    "nas.complexity": 1,
    "nas.config": 1,
    "nas.records": 0,
    "nas.registry": 0,
    "nas": 0,
}
FAMILIES = ("channel", "darts", "enas", "mobile", "nasbench201")
WALLS = [
    ("nas.methods", "nas.spaces"),
    ("nas.report", "nas.training"),
    *((f"nas.spaces.{one}", f"nas.spaces.{other}") for one in FAMILIES for other in FAMILIES if one < other),
]
HEAVY = ("torch", "torchvision", "mlflow", "dvc", "sklearn", "matplotlib", "rich")  # typer itself may load pydantic
STAGES = sorted(path.stem for path in (PROJECT / "stages").glob("*.py") if "typer.Typer(" in path.read_text())


def words(command, path=()):
    """The words of every command and group: (), ("preset",), ("preset", "list"), ..."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from words(inner, (*path, name))


COMMANDS = list(words(get_command(app)))


def committed(path):
    """The text of a file at HEAD, as uncommitted edits are not checked."""
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip("not a Git checkout")
    return shown.stdout


def test_the_figures_of_the_default_are_those_of_the_committed_evidence():
    """Those in the header of its preset and in README's table. Costs are not compared: they differ by run."""
    recorded = {
        name: (f"{row['test_error_mean']:.2f}", f"{row['test_error_std']:.2f}")
        for name, row in json.loads(committed("report/results.metrics.json")).items()
        if "test_error_mean" in row
    }
    header = re.sub(r"\s*\n# +", " ", committed("presets/digits.yaml").partition("# Cost:")[0])
    said = {name: figures for name, *figures in re.findall(r"([\w-]+) (\d+\.\d+) \+- (\d+\.\d+)", header)}
    names = {"is_nas": "is_nas eps=0", "and": "is_nas eps=0.3"}  # "is_nas .. % (eps 0) and .. % (eps 0.3"
    assert {names.get(name, name): tuple(figures) for name, figures in said.items()} == recorded
    rows = [line.strip("| ").split(" | ") for line in committed("README.md").splitlines()]
    titles = {title: method for method, title in METHODS.items()}
    named = [(*row[0].partition(" eps="), row) for row in rows if len(row) == 7 and "±" in row[2]]
    table = {f"{titles[title]}{eps}{value}": row[2] for title, eps, value, row in named}
    assert table == {name: " ± ".join(figures) for name, figures in recorded.items()}


def module_name(path):
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def room(module):
    """`nas.spaces.darts.cells` -> `nas.spaces.darts`, the innermost room; None for a module of another project."""
    parts = module.split(".")
    if parts[0] not in ("nas", "stages"):
        return None
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next(name for name in names if name in FLOORS)


def within(place, area):
    return place == area or place.startswith(f"{area}.")


def imports(path):
    """Every module that a file imports, also inside functions."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" if origin == "nas" else origin for alias in node.names)


SOURCES = sorted([*PROJECT.glob("nas/**/*.py"), *PROJECT.glob("stages/**/*.py")])
MODULES = {module_name(path): path for path in SOURCES}


def arrows(path):
    """(room of the file, room of the import, the import) for each import from another room."""
    here = room(module_name(path))
    return {(here, room(module), module) for module in imports(path) if room(module) not in (None, here)}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_import_goes_up_or_through_a_wall(path):
    for here, there, module in arrows(path):
        for place in (here, there):
            assert place in FLOORS, f"{place} has no floor: add it to docs/design.md and to FLOORS"
        assert FLOORS[there] <= FLOORS[here], f"{module} lies above"
        for one, other in WALLS:
            sides = (within(here, one) and within(there, other)), (within(here, other) and within(there, one))
            assert not any(sides), f"{module} lies behind a wall"
        assert there != "nas.tracking" or here in ("stages", "nas.commands"), (
            "only stages and commands may call tracking"
        )


def files_imported(path):
    """The files of this project that a file imports, `name` of `from package import name` among them if a module."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            modules = {f"{origin}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else origin for name in modules}
    return {MODULES[name] for name in names if name in MODULES} - {path}


def test_files_import_each_other_in_no_circle():
    files: graphlib.TopologicalSorter[Path] = graphlib.TopologicalSorter()
    for path in SOURCES:
        files.add(path, *files_imported(path))
    files.prepare()  # raises CycleError, which names the circle


def test_rooms_import_each_other_in_no_circle():
    rooms: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for path in SOURCES:
        for here, there, _ in arrows(path):
            rooms.add(here, there)
    rooms.prepare()  # raises CycleError, which names the circle


def loaded_by(code):
    """The heavy packages that are loaded after running `code` in a new interpreter."""
    code += f"\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stderr.split()


def test_the_package_loads_nothing_heavy():
    assert loaded_by("import nas") == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_answers_help_without_loading_anything_heavy(stage):
    run = f"""
import runpy, sys
sys.argv = ["stages.{stage}", "--help"]
try:
    runpy.run_module("stages.{stage}", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""
    assert loaded_by(run) == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_answers_help_without_loading_anything_heavy(words):
    run = f"""
from nas.commands.main import app
try:
    app({[*words, "--help"]!r})
except SystemExit as end:
    assert not end.code, end.code
"""
    assert loaded_by(run) == []


def test_help_takes_less_than_half_a_second():
    """Of CPU time, as the machine may be busy."""

    def seconds():
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    before = seconds()
    subprocess.run([sys.executable, "-m", "nas", "--help"], cwd=PROJECT, capture_output=True, check=True)
    assert seconds() - before < 0.5


def dependencies():
    project, extras = PYPROJECT["project"], PYPROJECT["project"]["optional-dependencies"].values()
    groups = [PYPROJECT["build-system"]["requires"], project["dependencies"], *extras]
    return [Requirement(text) for group in groups for text in group]


def pins():
    found = re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / "requirements.lock").read_text(), re.MULTILINE)
    return {name.replace(".", "-").lower(): version for name, version in found}


@pytest.mark.parametrize("dependency", dependencies(), ids=lambda dependency: dependency.name)
def test_every_dependency_has_a_floor_and_a_ceiling(dependency):
    assert {specifier.operator for specifier in dependency.specifier} == {">=", "<"}


@pytest.mark.parametrize("dependency", dependencies(), ids=lambda dependency: dependency.name)
def test_the_lock_holds_every_dependency_within_its_bounds(dependency):
    assert dependency.specifier.contains(pins()[dependency.name.replace(".", "-").lower()])


def test_the_lock_names_no_host():
    assert "://" not in (PROJECT / "requirements.lock").read_text()


def test_contributing_stays_short():
    assert len((PROJECT / "CONTRIBUTING.md").read_text().splitlines()) < 60


def test_make_prints_every_target():
    text = (PROJECT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()
    shown = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert [target for target in targets if f"  make {target} " not in shown] == []
