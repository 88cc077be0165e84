"""Presets: what differs from presets/digits.yaml, one file per protocol, merged into a whole, validated params.yaml.

python -m stages.preset list
python -m stages.preset show cifar10
python -m stages.preset use cifar10-small
python -m stages.preset use cifar10 --recipe fast

A recipe is a retraining that any preset can take in place of its own: a file in presets/recipes/, laid over it.
"""

import io
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated, Any

import typer

from stages.common import PARAMS, clear_errors, parse

FOLDER = Path("presets")
RECIPES = FOLDER / "recipes"
BASE = "digits"
HEADER = """\
# Every value that can change a result is here, and nothing else is. No key has a default in the code.
# This is {source}: {headline}
"""
RETRAINED = """\
# Retraining is that of {source}: {headline}
"""
OTHER = """\
# To run another protocol: python -m stages.preset use {other}
"""
RecipeOption = Annotated[str, typer.Option(help="A file in presets/recipes/; none: the preset's own retraining.")]
app = typer.Typer(add_completion=False, help=__doc__)


@app.command("list")
@clear_errors
def list_presets() -> None:
    """Name every preset and every recipe, with the first line of its file."""
    path_of(BASE)  # says so when this is not the project's folder
    width = max(map(len, (*names(), *recipes())))
    for name in names():
        typer.echo(f"{name:{width}} {headline(path_of(name))}")
    typer.echo("\nRecipes, to retrain by in place of a preset's own (--recipe NAME; make preset RECIPE=NAME):")
    for name in recipes():
        typer.echo(f"{name:{width}} {headline(recipe_path(name))}")


@app.command()
@clear_errors
def show(name: str, recipe: RecipeOption = "") -> None:
    """Print the whole params.yaml that preset NAME makes."""
    typer.echo(render(name, recipe), nl=False)


@app.command()
@clear_errors
def use(name: str, recipe: RecipeOption = "", params: Path = typer.Option(PARAMS, help="The file to write.")) -> None:
    """Write preset NAME, merged and validated, into params.yaml; what was written there by hand goes."""
    from nas.records import write_text

    text = render(name, recipe)  # all that can be refused is refused here, before anything is written
    write_text(params, text)
    typer.echo(f"{params} is now {source(name, recipe)}. Next: make repro")


def names() -> list[str]:
    """Every preset, the default first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (name != BASE, name))


def recipes() -> list[str]:
    """Every recipe."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def headline(path: Path) -> str:
    """The first line of the file: what the protocol is."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def source(name: str, recipe: str = "") -> str:
    """The file or files that a params.yaml comes from."""
    return f"presets/{name}.yaml" + (f" with presets/recipes/{recipe}.yaml" if recipe else "")


def path_of(name: str) -> Path:
    """The file of a preset; ParamsError names those that exist."""
    from nas.config import ParamsError

    known = names()
    if BASE not in known:
        raise ParamsError(f"{FOLDER / BASE}.yaml: no such file; run from the project's folder")
    if name not in known:
        raise ParamsError(f"'{name}' is not a preset. Known: {', '.join(known)}; each is a file in {FOLDER}/.")
    return FOLDER / f"{name}.yaml"


def recipe_path(name: str) -> Path:
    """The file of a recipe; ParamsError names those that exist."""
    from nas.config import ParamsError

    if name not in recipes():
        raise ParamsError(f"'{name}' is not a recipe. Known: {', '.join(recipes())}; each is a file in {RECIPES}/.")
    return RECIPES / f"{name}.yaml"


def render(name: str, recipe: str = "") -> str:
    """The text of params.yaml for a preset: the base with its comments, the values of the preset, a fresh header.

    Raises:
        ParamsError: the merged tree has an unknown, missing or impossible value, or a recipe has nothing to retrain;
            the message names the files.
    """
    from nas.config import ParamsError, read_yaml

    base, path = path_of(BASE), path_of(name)
    changes = {} if name == BASE else read_yaml(path)
    if recipe:
        merge(changes, read_yaml(recipe_path(recipe)))
    config = parse(merge(read_yaml(base), changes), source(name, recipe))
    if recipe and not config.retrain.seeds:
        raise ParamsError(
            f"{path}: 'retrain.seeds' is [], so nothing is retrained and no recipe is of use; leave it out"
        )
    header = HEADER.format(source=f"presets/{name}.yaml", headline=headline(path))
    if recipe:
        header += RETRAINED.format(source=f"presets/recipes/{recipe}.yaml", headline=headline(recipe_path(recipe)))
    header += OTHER.format(other="cifar10-small" if name == BASE else BASE)
    return header + "\n" + with_comments(without_header(base.read_text(encoding="utf-8")), changes)


def with_comments(base: str, changes: dict[str, Any]) -> str:
    """YAML text with the changes merged in, its comments, order and brackets kept."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096  # fold no line
    yaml.representer.add_representer(type(None), write_null)
    stream = io.StringIO()
    yaml.dump(merge(yaml.load(base), changes), stream)
    return stream.getvalue()


def write_null(representer: Any, _: None) -> Any:
    """`null`, where ruamel.yaml would leave the place empty."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def merge(base: MutableMapping[str, Any], changes: dict[str, Any]) -> MutableMapping[str, Any]:
    """`base` with the changes laid over it, in place: mappings merge key by key, lists and scalars replace."""
    for key, value in changes.items():
        inner = base.get(key)
        if isinstance(inner, MutableMapping) and isinstance(value, dict):
            merge(inner, value)
        elif isinstance(inner, list) and isinstance(value, list):
            inner[:] = value  # not a new list: the old one knows that it is written in brackets
        else:
            base[key] = value
    return base


def without_header(text: str) -> str:
    """The text from its first key on."""
    lines = text.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    return "".join(lines[first:])


if __name__ == "__main__":
    app()
