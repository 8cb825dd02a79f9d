"""What mkdocs is told in mkdocs.yml to call: pages of the repository's own files, and the reference of settings."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))

from reference import navigation, pages

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "examples/first_run.ipynb": "notebook.md",
}
"""Files of the repository outside docs/ that are pages, too."""


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of the reference where the menu names it."""
    assert config.nav is not None
    config.nav = [{"Reference": navigation()} if item == "Reference" else item for item in config.nav]


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Add the pages that do not lie in docs/."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = notebook_page(text) if source.endswith(".ipynb") else text
        files.append(File.generated(config, page, content=relink(text, source)))
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Let links from docs/ to files beside it lead to their pages."""
    return relink(markdown, f"docs/{page.file.src_uri}") if page.file.generated_by is None else markdown


def relink(text: str, source: str) -> str:
    """Rewrite links between files of the repository as links between pages of the site.

    Args:
        text: Markdown.
        source: path of its file in the repository.
    """
    folder = (ROOT / source).parent

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        path = (folder / target).resolve()
        inside = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else target
        page = OUTSIDE.get(inside) or (inside.removeprefix("docs/") if inside.startswith("docs/") else None)
        if page is None:
            return found[0]
        # A file's name is what the repository shows; on the site it is the title of the page.
        if words.endswith(".md") and path.is_file():
            words = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return f"[{words}]({page}{anchor})"

    return re.sub(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)", link, text)


def notebook_page(text: str) -> str:
    """Return a notebook's cells as Markdown."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts)
