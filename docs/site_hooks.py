"""Hooks of mkdocs: README and its neighbours become pages; links to files outside of docs/ lead to copies of them."""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")


def links(text: str, change: Callable[[str], str | None]) -> str:
    """The text with every relative link target replaced by `change(target)`; a link without a target becomes text."""

    def replaced(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        new = change(target)
        return "REMOVED" if new is None else new + ("" if new.endswith(".txt") else anchor)

    return re.sub(r"\[([^\]]*)\]\(REMOVED\)", r"\1", LINK.sub(replaced, text))


def in_site(path: str, sources: set[str]) -> str | None:
    """A path of the project as a path of the site; None for a folder. Files outside of docs/ are noted as sources."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if not (ROOT / path).is_file():
        return None
    sources.add(path)
    return f"source/{path}.txt"


def site_text(page: str, sources: set[str]) -> str:
    """The Markdown of a page of the project, its links as the site needs them."""
    where = posixpath.dirname(page)
    site = posixpath.dirname(PAGES.get(page, page.removeprefix("docs/")))

    def change(target: str) -> str | None:
        new = in_site(posixpath.normpath(posixpath.join(where, target)), sources)
        return None if new is None else posixpath.relpath(new, site or ".")

    return links((ROOT / page).read_text(encoding="utf-8"), change)


def on_files(files: Files, config: Any) -> Files:
    sources: set[str] = set()
    for page in PAGES:
        files.append(File.generated(config, PAGES[page], content=site_text(page, sources)))
    for file in files.documentation_pages():
        if not file.generated_by:
            file.content_string = site_text(f"docs/{file.src_uri}", sources)
    for path in sorted(sources):
        content = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"source/{path}.txt", content=content))
    return files
