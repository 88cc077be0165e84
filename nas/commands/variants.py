"""Reading an ablation: a file of variants, each of which becomes complete, validated parameters.

presets/ablations/<name>.yaml has two keys: `common`, changes of all variants, and `variants`, label -> changes. Both
are nested like params.yaml. They are merged into the current params.yaml, so any protocol can be ablated.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from nas.commands.preset import merge
from nas.config.params import Config
from nas.config.sections import ParamsError, Section, validate
from nas.config.yaml_file import read_yaml
from nas.project import PARAMS, parse, require
from nas.records import canonical

FOLDER = Path("presets/ablations")
LABEL = re.compile(
    r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*"
)  # part of the experiment's name, which has to be a valid Git ref


class Ablation(Section):
    common: dict[str, Any]
    variants: dict[str, dict[str, Any]] = Field(min_length=1)

    @field_validator("variants", mode="before")
    @classmethod
    def labels_that_name_experiments(cls, variants: Any) -> Any:
        for label in variants if isinstance(variants, dict) else ():
            if not isinstance(label, str):
                raise ValueError(f"label {label!r} is not a string in YAML: put it in quotes")
            if not LABEL.fullmatch(label):
                raise ValueError(f"label '{label}': expected letters and digits, with . _ or - between them")
        return variants


@dataclass(frozen=True)
class Variant:
    """`params` is the complete tree of its params.yaml; `overrides` are the options of `dvc exp run -S` for it."""

    label: str
    experiment: str
    params: dict[str, Any]
    config: Config
    overrides: list[str]


def names() -> list[str]:
    """The names of all ablations. Raises ProjectError outside a project."""
    require(FOLDER)
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def headline(name: str) -> str:
    """The first line of the file, which asks the ablation's question."""
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def read(name: str, params: Path = PARAMS) -> list[Variant]:
    """The variants of ablation `name`, merged into a parameter file, in the order of the ablation's file.

    Raises:
        ParamsError: the ablation does not exist, or it or a variant cannot be used; names file, variant and key.
    """
    known = names()
    if name not in known:
        raise ParamsError(f"'{name}' is not an ablation. Known: {', '.join(known)}; each is a file in {FOLDER}/.")
    path = FOLDER / f"{name}.yaml"
    ablation = validate(Ablation, read_yaml(path), "", str(path))
    base = read_yaml(params)
    parse(base, str(params))
    return [
        _variant(name, label, base, (ablation.common, changes), f"{path}, variant '{label}'")
        for label, changes in ablation.variants.items()
    ]


def _variant(name: str, label: str, base: dict[str, Any], layers: tuple[dict[str, Any], ...], source: str) -> Variant:
    tree = copy.deepcopy(base)
    for layer in layers:
        merge(tree, copy.deepcopy(layer))  # variants must not share the lists of `common`
    config = parse(tree, source)
    return Variant(label, f"ablation-{name}-{label}", tree, config, overrides(base, tree))


def overrides(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The options of `dvc exp run -S` that turn `base` into `wanted`, in Hydra's grammar. No key is removed."""
    before = dict(leaves(base))
    return [
        f"++{key}={hydra(value)}"  # ++ sets a key whether or not it exists
        for key, value in leaves(wanted)
        if key not in before or canonical(before[key]) != canonical(value)
    ]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("search.common.epochs", 16) and so on; a list is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def hydra(value: Any) -> str:
    """A value in Hydra's grammar: text always in quotes, where a backslash escapes only before a quote."""
    if isinstance(value, list):
        return "[" + ",".join(hydra(item) for item in value) + "]"
    if isinstance(value, str):
        return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value) + "'"
    return json.dumps(value)
