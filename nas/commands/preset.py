"""Presets: what differs from presets/digits.yaml, one file per protocol, merged into a whole, validated params.yaml.

python -m nas.commands.preset list
python -m nas.commands.preset show cifar10
python -m nas.commands.preset use cifar10-small
python -m nas.commands.preset use cifar10 --recipe fast
python -m nas.commands.preset use cifar10 --data cifar100

A recipe is a retraining that any preset can take in place of its own, a data set are the images that it can take: files
in presets/recipes/ and presets/data/, laid over it.
"""

import io
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.project import PARAMS, clear_errors, parse

FOLDER = Path("presets")
RECIPES = FOLDER / "recipes"
DATA = FOLDER / "data"
BASE = "digits"
HEADER = """\
# Every value that can change a result is here, and nothing else is. No key has a default in the code.
# This is {source}: {headline}
"""
RETRAINED = """\
# Retraining is that of {source}: {headline}
"""
SHOWN = """\
# Images are those of {source}: {headline}
"""
OTHER = """\
# To run another protocol: python -m nas.commands.preset use {other}
"""
RecipeOption = Annotated[str, typer.Option(help="A file in presets/recipes/; none: the preset's own retraining.")]
DataOption = Annotated[str, typer.Option(help="A file in presets/data/; none: the preset's own images.")]
app = typer.Typer(add_completion=False, help=__doc__)


@app.command("list")
@clear_errors
def list_presets() -> None:
    """Name every preset, recipe and data set, with the first line of its file."""
    path_of(BASE)  # says so when this is not the project's folder
    layers = {
        "": [path_of(name) for name in names()],
        "\nRecipes, to retrain by in place of a preset's own (RECIPE=NAME; --recipe NAME):": files(RECIPES),
        "\nData sets, in place of a preset's own (DATA=NAME; --data NAME):": files(DATA),
    }
    width = max(len(path.stem) for paths in layers.values() for path in paths)
    for title, paths in layers.items():
        typer.echo("\n".join([title] * bool(title) + [f"{path.stem:{width}} {headline(path)}" for path in paths]))


@app.command()
@clear_errors
def show(name: str, recipe: RecipeOption = "", data: DataOption = "") -> None:
    """Print the whole params.yaml that preset NAME makes."""
    typer.echo(render(name, recipe, data), nl=False)


@app.command()
@clear_errors
def use(
    name: str,
    recipe: RecipeOption = "",
    data: DataOption = "",
    params: Path = typer.Option(PARAMS, help="The file to write."),
) -> None:
    """Write preset NAME, merged and validated, into params.yaml; what stood there is kept beside."""
    from nas.records import write_text

    text = render(name, recipe, data)  # all that can be refused is refused here, before anything is written
    before, written = (params.parent / ".nas" / f"params.{name}.yaml" for name in ("before", "written"))
    before.parent.mkdir(exist_ok=True)
    old = params.read_text(encoding="utf-8") if params.is_file() else text
    if old not in (text, written.read_text(encoding="utf-8") if written.is_file() else text):  # somebody's own
        write_text(before, old)
        typer.echo(f"What stood in {params} is in {before}")
    write_text(params, text)
    write_text(written, text)
    typer.echo(f"{params} is now {source(name, recipe, data)}. Next: make repro")
    if needed := said_of_data(path_in(DATA, data) if data else path_of(name)):
        typer.echo(f"It reads {needed}")


def names() -> list[str]:
    """Every preset, the default first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (name != BASE, name))


def files(folder: Path) -> list[Path]:
    """Every recipe, or every data set."""
    return sorted(folder.glob("*.yaml"))


def headline(path: Path) -> str:
    """The first line of the file: what the protocol is."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def said_of_data(path: Path) -> str:
    """What the header of a file says under `Data:`, in its own lines; nothing where it does not."""
    header = path.read_text(encoding="utf-8").partition("\n\n")[0]
    _, _, rest = header.partition("\n# Data: ")
    return re.split(r"\n# \S", rest)[0].replace("\n# ", "\n").strip()


def source(name: str, recipe: str = "", data: str = "") -> str:
    """The file or files that a params.yaml comes from."""
    layers = (f"{folder / layer}.yaml" for folder, layer in ((FOLDER, name), (RECIPES, recipe), (DATA, data)) if layer)
    return " with ".join(layers)


def path_of(name: str) -> Path:
    """The file of a preset; ParamsError names those that exist."""
    from nas.config.sections import ParamsError

    known = names()
    if BASE not in known:
        raise ParamsError(f"{FOLDER / BASE}.yaml: no such file; run from the project's folder")
    if name not in known:
        raise ParamsError(f"'{name}' is not a preset. Known: {', '.join(known)}; each is a file in {FOLDER}/.")
    return FOLDER / f"{name}.yaml"


def path_in(folder: Path, name: str) -> Path:
    """The file of a recipe or a data set; ParamsError names those that exist."""
    from nas.config.sections import ParamsError

    known, what = [path.stem for path in files(folder)], {RECIPES: "a recipe", DATA: "a data set"}[folder]
    if name not in known:
        raise ParamsError(f"'{name}' is not {what}. Known: {', '.join(known)}; each is a file in {folder}/.")
    return folder / f"{name}.yaml"


def render(name: str, recipe: str = "", data: str = "") -> str:
    """The text of params.yaml for a preset: the base with its comments, the values of the preset, a fresh header.

    Raises:
        ParamsError: the merged tree has an unknown, missing or impossible value, or a recipe has nothing to retrain;
            the message names the files.
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
            f"{path}: 'retrain.seeds' is [], so nothing is retrained and no recipe is of use; leave it out"
        )
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
