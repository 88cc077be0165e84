"""`nas preset`: protocols. A file in presets/ lists what differs from presets/digits.yaml.

nas preset list
nas preset show cifar10
nas preset use cifar10-small
nas preset use cifar10 --recipe fast
nas preset use cifar10 --data cifar100

A preset is merged into the default and validated; the result is the whole params.yaml. A recipe (presets/recipes/)
replaces the preset's retraining, a data set (presets/data/) its images.
"""

import io
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.project import PARAMS, clear_errors, parse, require

FOLDER = Path("presets")
RECIPES = FOLDER / "recipes"
DATA = FOLDER / "data"
BASE = "digits"
HEADER = """\
# Every value that can change a result is in this file. No key has a default in the code.
# This is {source}: {headline}
"""
RETRAINED = """\
# Retraining is that of {source}: {headline}
"""
SHOWN = """\
# Images are those of {source}: {headline}
"""
OTHER = """\
# To run another protocol: nas preset use {other}
"""
NameArgument = Annotated[str, typer.Argument(help="A preset; `nas preset list` names them.")]
RecipeOption = Annotated[str, typer.Option(help="A recipe, to replace the preset's retraining.")]
DataOption = Annotated[str, typer.Option(help="A data set, to replace the preset's images.")]
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.command("list")
@clear_errors
def list_presets() -> None:
    """List presets, recipes and data sets, each with the first line of its file."""
    path_of(BASE)  # raises ProjectError outside a project
    layers = {
        "": [path_of(name) for name in names()],
        "\nRecipes, which replace the retraining of a preset (--recipe NAME; make: RECIPE=NAME):": files(RECIPES),
        "\nData sets, which replace the images of a preset (--data NAME; make: DATA=NAME):": files(DATA),
    }
    width = max(len(path.stem) for paths in layers.values() for path in paths)
    for title, paths in layers.items():
        typer.echo("\n".join([title] * bool(title) + [f"{path.stem:{width}} {headline(path)}" for path in paths]))


@app.command()
@clear_errors
def show(name: NameArgument, recipe: RecipeOption = "", data: DataOption = "") -> None:
    """Print the params.yaml that preset NAME gives."""
    typer.echo(render(name, recipe, data), nl=False)


@app.command()
@clear_errors
def use(
    name: NameArgument,
    recipe: RecipeOption = "",
    data: DataOption = "",
    params: Annotated[Path, typer.Option(help="The file to write.")] = PARAMS,
) -> None:
    """Write preset NAME to params.yaml. An edited params.yaml is first copied to .nas/params.before.yaml."""
    from nas.records import write_text

    text = render(name, recipe, data)  # refuses whatever can be refused before anything is written
    before, written = (params.parent / ".nas" / f"params.{name}.yaml" for name in ("before", "written"))
    before.parent.mkdir(exist_ok=True)
    old = params.read_text(encoding="utf-8") if params.is_file() else text
    if old not in (text, written.read_text(encoding="utf-8") if written.is_file() else text):  # edited by hand
        write_text(before, old)
        typer.echo(f"The previous {params} was copied to {before}")
    write_text(params, text)
    write_text(written, text)
    typer.echo(f"{params} is now {source(name, recipe, data)}. Next: make repro")
    if needed := data_note(path_in(DATA, data) if data else path_of(name)):
        typer.echo(f"It reads {needed}")


def names() -> list[str]:
    """Every preset, the default first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (name != BASE, name))


def files(folder: Path) -> list[Path]:
    """Every recipe, or every data set."""
    return sorted(folder.glob("*.yaml"))


def headline(path: Path) -> str:
    """The first line of the file, which describes the protocol."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def data_note(path: Path) -> str:
    """The paragraph `Data:` in the header of a file; empty if absent."""
    header = path.read_text(encoding="utf-8").partition("\n\n")[0]
    _, _, rest = header.partition("\n# Data: ")
    return re.split(r"\n# \S", rest)[0].replace("\n# ", "\n").strip()


def source(name: str, recipe: str = "", data: str = "") -> str:
    """The file or files that a params.yaml is made from."""
    layers = (f"{folder / layer}.yaml" for folder, layer in ((FOLDER, name), (RECIPES, recipe), (DATA, data)) if layer)
    return " with ".join(layers)


def path_of(name: str) -> Path:
    """The file of a preset. Raises ParamsError, which lists the presets, and ProjectError outside a project."""
    from nas.config.sections import ParamsError

    require(FOLDER / f"{BASE}.yaml")
    known = names()
    if name not in known:
        raise ParamsError(f"'{name}' is not a preset. Known: {', '.join(known)}; each is a file in {FOLDER}/.")
    return FOLDER / f"{name}.yaml"


def path_in(folder: Path, name: str) -> Path:
    """The file of a recipe or a data set. Raises ParamsError, which lists those that exist."""
    from nas.config.sections import ParamsError

    known, what = [path.stem for path in files(folder)], {RECIPES: "a recipe", DATA: "a data set"}[folder]
    if name not in known:
        raise ParamsError(f"'{name}' is not {what}. Known: {', '.join(known)}; each is a file in {folder}/.")
    return folder / f"{name}.yaml"


def render(name: str, recipe: str = "", data: str = "") -> str:
    """The text of params.yaml for a preset: the default with its comments, the preset's values and a new header.

    Raises:
        ParamsError: the merged parameters have an unknown, missing or impossible value, or a recipe is given where
            nothing is retrained; the message names the files.
    """
    from nas.config.sections import ParamsError
    from nas.config.yaml_file import read_yaml

    base, path = path_of(BASE), path_of(name)
    changes = {} if name == BASE else read_yaml(path)
    header = HEADER.format(source=path.as_posix(), headline=headline(path))
    for folder, layer, line in ((RECIPES, recipe, RETRAINED), (DATA, data, SHOWN)):
        if layer:
            file = path_in(folder, layer)
            merge(changes, read_yaml(file))
            header += line.format(source=file.as_posix(), headline=headline(file))
    config = parse(merge(read_yaml(base), changes), source(name, recipe, data))
    if recipe and not config.retrain.seeds:
        raise ParamsError(
            f"{path}: 'retrain.seeds' is [], so nothing is retrained and a recipe has no effect; leave it out"
        )
    header += OTHER.format(other="cifar10-small" if name == BASE else BASE)
    return header + "\n" + with_comments(without_header(base.read_text(encoding="utf-8")), changes)


def with_comments(base: str, changes: dict[str, Any]) -> str:
    """YAML text with the changes merged in. Its comments, order and brackets are kept."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.Representer = type("Representer", (yaml.Representer,), {})  # DVC uses the original class, so do not change it
    yaml.representer.add_representer(type(None), write_null)
    yaml.width = 4096  # do not fold lines
    stream = io.StringIO()
    yaml.dump(merge(yaml.load(base), changes), stream)
    return stream.getvalue()


def write_null(representer: Any, _: None) -> Any:
    """Write None as `null`; ruamel.yaml would write nothing."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def merge(base: MutableMapping[str, Any], changes: dict[str, Any]) -> MutableMapping[str, Any]:
    """Merge the changes into `base`, in place: mappings key by key; lists and scalars are replaced."""
    for key, value in changes.items():
        inner = base.get(key)
        if isinstance(inner, MutableMapping) and isinstance(value, dict):
            merge(inner, value)
        elif isinstance(inner, list) and isinstance(value, list):
            inner[:] = value  # keep the list object, which records that it is written in brackets
        else:
            base[key] = value
    return base


def without_header(text: str) -> str:
    """The text from its first key to its end."""
    lines = text.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    return "".join(lines[first:])
