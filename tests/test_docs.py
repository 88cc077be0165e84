"""The documentation: links and anchors work, every page and module is named, no line is longer than 120 characters."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from tests.test_habits import FLOORS

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
PAGES = sorted([*PROJECT.glob("*.md"), *DOCS.glob("**/*.md")])
ROOMS = ("bench", "docs", "nas", "stages", "tests")
SOURCES = sorted(path for room in ROOMS for path in PROJECT.glob(f"{room}/**/*.py"))
WIDTH = 120
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def name(path):
    return str(path.relative_to(PROJECT))


def prose(page):
    """The lines of a page outside of code blocks, each with its number."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside and not line.startswith("    "):  # four spaces are a code block, too
            yield number, line


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if re.match("#+ ", line)]
    texts = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def test_a_heading_has_the_anchor_that_github_gives_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# DARTS, first `order`\n```\n# no heading\n```\n## [A link](x.md): why?\n")
    assert anchors(page) == {"darts-first-order", "a-link-why"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match("[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def nav(entries):
    """Every page in a nav of mkdocs, in order."""
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from nav(value) if isinstance(value, list) else [value]


def test_the_site_names_every_page_once():
    named = list(nav(yaml.safe_load((PROJECT / "mkdocs.yml").read_text())["nav"]))
    made = [
        "changelog.md",
        "contributing.md",
        "index.md",
    ]  # from pages outside of docs/; README is the index
    assert sorted(named) == sorted([*made, *(page.relative_to(DOCS).as_posix() for page in DOCS.glob("**/*.md"))])


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").exists()


def tree():
    """Every path that docs/tree.md names, from the indentation of its code blocks."""
    paths = []
    folders: list[str] = []
    for block in FENCE.findall((DOCS / "tree.md").read_text()):
        for line in block.splitlines()[1:-1]:
            entry = line.split()[0]
            depth = (len(line) - len(line.lstrip())) // 2
            folders[depth:] = [entry]
            paths.append("".join(folders).removeprefix("."))
    return [path for path in paths if path]


def test_the_file_tree_names_only_what_is_there():
    made = ("runs/", "report/")  # a fresh clone has them, a copy for tests may not
    assert [path for path in tree() if not (PROJECT / path).exists() and path not in made] == []


def test_the_file_tree_names_every_package_and_module():
    modules = [path for room in ("nas", "stages") for path in PROJECT.glob(f"{room}/**/*.py")]
    packages = {f"{name(path.parent)}/" for path in modules}
    wanted = packages | {name(path) for path in modules if path.name != "__init__.py"}
    named = tree()
    assert sorted(wanted - set(named)) == []
    assert len(named) == len(set(named))


def commands(program):
    """The arguments of every command that a page runs with this program, in a code block or in a code span."""
    for page in PAGES:
        text = page.read_text()
        blocks = [line for block in FENCE.findall(text) for line in block.splitlines()]
        for code in [*blocks, *re.findall(r"`([^`]+)`", FENCE.sub("", text))]:
            for found in re.findall(rf"(?:^|&& |; |=off ){program} ([^#;&`]*)", code.strip()):
                yield found.split()


def test_every_make_target_in_a_page_exists():
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    used = {words[0] for words in commands("make") if words and words[0].isalpha()}
    assert used - targets == set()
    assert len(used) > 5


def test_every_module_that_a_page_runs_exists():
    used = {words[0] for words in commands("python -m") if words}
    places = {module: PROJECT / module.replace(".", "/") for module in used if re.fullmatch(r"[a-z_.]+", module)}
    assert [module for module, path in places.items() if not (path.is_dir() or path.with_suffix(".py").exists())] == []


def test_every_command_of_nas_in_a_page_exists():
    from nas.commands.main import app

    for words in commands("nas"):
        command = get_command(app)
        for word in [word for word in words if not word.startswith("-")]:
            if not hasattr(command, "commands"):
                break  # the rest are arguments
            assert word in command.commands, f"nas {' '.join(words)}"
            command = command.commands[word]


def test_the_design_page_has_the_level_of_every_package():
    rows = re.findall(r"^\| (\d) \| `([\w.]+)` \|", (DOCS / "design.md").read_text(), re.MULTILINE)
    packages = {
        package: level
        for package, level in FLOORS.items()
        if package.count(".") < 2 and package not in ("nas", "nas.__main__")
    }
    assert {package: int(level) for level, package in rows} == packages


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_line_of_a_page_exceeds_the_width(page):
    """Tables, code and the targets of links excepted."""
    lines = [(number, re.sub(r"\]\([^)]*\)", "]()", line)) for number, line in prose(page)]
    assert [number for number, line in lines if len(line) > WIDTH and not line.startswith("|")] == []


def test_no_line_of_code_comment_or_docstring_exceeds_the_width():
    long = [
        f"{name(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(re.sub(r" +# (type: ignore|noqa).*", "", line)) > WIDTH and "noqa: E501" not in line
    ]
    assert long == []
