"""Pages for people: one self-contained HTML file, without network, that can be sent to a colleague.

The pieces below escape whatever text they are given; only what they return is HTML.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, NewType

from PIL import Image

from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_preview
from classifier_training.core.run_dir import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Html = NewType("Html", str)
"""Text that is HTML already."""

LONG_TEXT = 40
"""Characters from which on a cell is given width, so that its row does not become a column."""

SIDE = 112
"""Of a thumbnail, in pixels."""

STRIP_SIDE, STRIP_GAP = 96, 4

MAX_ROWS = 1000
"""Rows of a table that the page shows; files beside it hold all."""


@dataclass(frozen=True)
class Thumbnail:
    """An image with words below it.

    Args:
        uri: data URI of the image; empty when there is none to show.
        title: first line below it.
        words: the rest.
        enlarged: whether it has so few pixels that they should be seen one by one.
    """

    uri: str
    title: str
    words: str = ""
    enlarged: bool = False


@dataclass(frozen=True)
class Number:
    """A cell of a table that sorts by a number and shows it in words.

    Args:
        value: NaN or None for what is not defined.
        words: what is shown; the number itself when left out.
    """

    value: float | None
    words: str = ""


@dataclass(frozen=True)
class Opener:
    """A cell of a table with a button that shows a panel.

    Args:
        words: on the button.
        description: the same for those who hear it without the table around it.
        panel: name of the panel.
    """

    words: str
    description: str
    panel: str


Cell = str | int | float | Number | Opener


def write_page(path: Path, *, title: str, body: Iterable[Html]) -> None:
    """Write a page.

    Args:
        path: of the HTML file.
        title: of the browser's tab.
        body: pieces made by the functions of this module.
    """
    shell = (files("classifier_training.evaluation") / "page" / "report.html").read_text(encoding="utf-8")
    before, after = shell.split("<!--body-->")
    # Lone surrogates stand for bytes of a file name that no page can hold.
    page = before.replace("<!--title-->", escape(title)) + "\n".join(body) + after
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def replace_section(path: Path, title: str, new: Html, *, before: str) -> bool:
    """Put a section into a page that was written, in place of the one with its title, or before another one.

    Args:
        path: of the HTML file.
        title: of the section, which has none inside it.
        new: the section.
        before: title of the section that it stands before where the page has none of its title.

    Returns:
        Whether the page has it now.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    start = page.find(section(title).removesuffix("</section>"))
    end = start
    if start >= 0:
        end = page.index("</section>", start) + len("</section>")
    else:
        start = end = page.find(section(before).removesuffix("</section>"))
    if start < 0:
        return False
    write_text(path, page[:start] + new + page[end:])
    return True


def escape(text: str) -> Html:
    """Return text as HTML that shows exactly it."""
    return Html(html.escape(text))


def joined(*pieces: Html) -> Html:
    """Return pieces one after the other."""
    return Html("\n".join(pieces))


def header(title: str, words: str, facts: Sequence[tuple[str, str]] = ()) -> Html:
    """Return the head of a page: a title, a line, and the most important numbers with their names."""
    listed = f"\n{numbers(facts)}" if facts else ""
    return Html(f'<h1>{escape(title)}</h1>\n<p class="quiet">{escape(words)}</p>{listed}')


def numbers(pairs: Iterable[tuple[str, str]]) -> Html:
    """Return large numbers with their names below them."""
    listed = "".join(f"<li><strong>{escape(value)}</strong><span>{escape(name)}</span></li>" for value, name in pairs)
    return Html(f'<ul class="facts">{listed}</ul>')


def banner(kind: str, title: str, words: str, more: str) -> Html:
    """Return what a page has to say first: a word or two in the colour of a finding's kind, and the grounds."""
    return Html(
        f'<section class="banner {escape(kind)}" aria-label="verdict"><p class="status">{escape(title)}</p>'
        f'<p class="headline">{escape(words)}</p><p>{escape(more)}</p></section>'
    )


def steps(cards: Iterable[Html], *, first: int = 1) -> Html:
    """Return cards as a numbered list that begins with a number."""
    return Html(f'<ol class="steps" start="{first}">{"".join(f"<li>{card}</li>" for card in cards)}</ol>')


def section(title: str, *pieces: Html) -> Html:
    """Return a part of the page under a heading."""
    return Html(f"<section><h2>{escape(title)}</h2>\n{joined(*pieces)}</section>")


def paragraph(text: str) -> Html:
    """Return a paragraph."""
    return Html(f"<p>{escape(text)}</p>")


def card(kind: str, title: str, words: str, remedy: str, *pieces: Html, badge: str = "") -> Html:
    """Return a finding: its kind (error, warning, note, good), what it is, what to do, and what shows it.

    The badge is the kind unless it says something else.
    """
    todo = f'<p class="todo"><b>To do:</b> {escape(remedy)}</p>' if remedy else ""
    return Html(
        f'<article class="card {escape(kind)}"><span class="badge">{escape(badge or kind)}</span>'
        f"<h3>{escape(title)}</h3>"
        f"<p>{escape(words)}</p>{todo}{joined(*pieces)}</article>"
    )


def thumbnails(shown: Iterable[Thumbnail], *, kind: str = "gallery") -> Html:
    """Return images side by side; `kind` group draws a frame around them, for what belongs together."""
    return Html(f'<div class="{escape(kind)}">{"".join(map(_thumbnail, shown))}</div>')


def filtered(shown: Sequence[tuple[Thumbnail, Sequence[str]]]) -> Html:
    """Return images side by side, each with its kinds, and a button for each kind that leaves only those images."""
    counts = Counter(kind for _, kinds in shown for kind in kinds)
    numbers = {kind: str(number) for number, kind in enumerate(counts)}
    buttons = "".join(
        f'<button type="button" class="opener" data-filter="{numbers.get(kind, "")}" '
        f'aria-pressed="{str(not numbers.get(kind)).lower()}">{escape(kind)} ({number:,})</button>'
        for kind, number in (("All", len(shown)), *counts.items())
    )
    images = "".join(
        _thumbnail(image, f' data-kinds="{" ".join(numbers[kind] for kind in kinds)}"') for image, kinds in shown
    )
    return Html(
        f'<div class="filtered"><div class="gallery" role="group" aria-label="filter">{buttons}</div>'
        f'<div class="gallery">{images}</div></div>'
    )


def _thumbnail(shown: Thumbnail, attributes: str = "") -> str:
    size = ' class="small"' if shown.enlarged else ""
    image = f'<img{size} src="{escape(shown.uri)}" alt="{escape(shown.title)}">' if shown.uri else ""
    words = f"<b>{escape(shown.title)}</b>" + (f"<br>{escape(shown.words)}" if shown.words else "")
    return f'<figure class="thumb"{attributes}>{image}<figcaption>{words}</figcaption></figure>'


def plots(uris: Iterable[tuple[str, str]]) -> Html:
    """Return plots in a grid, given as data URI and description."""
    shown = "".join(f'<figure><img src="{escape(uri)}" alt="{escape(words)}"></figure>' for uri, words in uris)
    return Html(f'<div class="plots">{shown}</div>')


def strip(title: str, uri: str) -> Html:
    """Return a wide image with a title above it."""
    return Html(
        f'<div class="strip"><p><b>{escape(title)}</b></p><img src="{escape(uri)}" alt="{escape(title)}"></div>'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, number: int = 0, file: str = "") -> Html:
    """Return a table that sorts by a click on a column's name; numbers stand on the right.

    Args:
        columns: their names.
        rows: cells; the first `MAX_ROWS` are shown.
        number: of rows that there are, where they are not all given.
        file: beside the page, that has them all.
    """
    numeric = [not isinstance(value, str | Opener) for value in rows[0]] if rows else [False] * len(columns)
    heads = "".join(
        f'<th scope="col"{" class=number" if right else ""}><button type="button">{escape(name)}</button></th>'
        for name, right in zip(columns, numeric, strict=True)
    )
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:MAX_ROWS])
    number = max(number, len(rows))
    source = f' All are in <a href="{escape(file)}">{escape(file)}</a>.' if file else ""
    more = f'<p class="quiet">The first {MAX_ROWS:,} of {number:,}.{source}</p>' if number > MAX_ROWS else ""
    whole = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    # A region that scrolls must be reached by the keyboard.
    return Html(f'<div class="scroll" tabindex="0">{whole}</div>{more}')


def _cell(value: Cell) -> str:
    if isinstance(value, str):
        return f"<td{' class=long' if len(value) > LONG_TEXT else ''}>{escape(value)}</td>"
    if isinstance(value, Opener):
        return f"<td>{opener(value)}</td>"
    number = value if isinstance(value, Number) else Number(value)
    if number.value is None or math.isnan(number.value):
        # Below all others, whichever way they are sorted by their size.
        return '<td class="number" data-value="-1">n/a</td>'
    plain = f"{number.value:,}" if isinstance(number.value, int) else f"{number.value:.3f}"
    return f'<td class="number" data-value="{number.value}">{escape(number.words or plain)}</td>'


def opener(cell: Opener) -> Html:
    """Return a button that shows a panel, and hides it again."""
    return Html(
        f'<button type="button" class="opener" aria-controls="{escape(cell.panel)}" aria-expanded="false" '
        f'aria-label="{escape(cell.description)}">{escape(cell.words)}</button>'
    )


def panels(contents: Iterable[tuple[str, str, Html]]) -> Html:
    """Return panels, one of which is seen once its `Opener` is pressed: each a name, a heading and what is in it."""
    shown = "".join(
        f'<section class="panel" id="{escape(name)}" hidden><h3>{escape(heading)}</h3>{inside}</section>'
        for name, heading, inside in contents
    )
    return Html(f'<div class="panels">{shown}</div>')


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Return names and what they stand for."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return Html(f'<dl class="pairs">{listed}</dl>')


def code(text: str) -> Html:
    """Return text as it is, in letters of one width."""
    # A region that scrolls must be reached by the keyboard.
    return Html(f'<pre tabindex="0"><code>{escape(text)}</code></pre>')


def groups(pieces: Iterable[Html]) -> Html:
    """Return groups of thumbnails side by side, as many as fit."""
    return Html(f'<div class="groups">{"".join(pieces)}</div>')


def folded(summary: str, *pieces: Html, unfolded: bool = False) -> Html:
    """Return pieces that a click unfolds, or folds where they are `unfolded`."""
    return Html(
        f"<details{' open' if unfolded else ''}><summary>{escape(summary)}</summary>{joined(*pieces)}</details>"
    )


def footer(text: str) -> Html:
    """Return the last line of a page."""
    return Html(f"<footer>{escape(text)}</footer>")


def thumbnail(path: Path, title: str, words: str = "") -> Thumbnail:
    """Return a file's image for a page, or only its words when it cannot be read."""
    image = _small(path, SIDE)
    if image is None:
        return Thumbnail("", title, words)
    return Thumbnail(_uri(image), title, words, enlarged=max(image.size) < SIDE // 2)


def strip_uri(paths: Sequence[Path]) -> str:
    """Return files' images in a row, as one data URI; what cannot be read leaves its place grey."""
    width = len(paths) * (STRIP_SIDE + STRIP_GAP) - STRIP_GAP
    row = Image.new("RGB", (max(1, width), STRIP_SIDE), (235, 235, 235))
    for number, path in enumerate(paths):
        image = _small(path, STRIP_SIDE)
        if image is not None:
            scale = STRIP_SIDE / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            fitted = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
            left = number * (STRIP_SIDE + STRIP_GAP) + (STRIP_SIDE - size[0]) // 2
            row.paste(fitted, (left, (STRIP_SIDE - size[1]) // 2))
    return _uri(row)


def plot_uri(path: Path) -> str:
    """Return a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _small(path: Path, side: int) -> Image.Image | None:
    try:
        image = read_preview(path, min_side=side).image
    except UnreadableImageError:
        return None
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return image


def _uri(image: Image.Image) -> str:
    content = io.BytesIO()
    # Of the smallest, JPEG would show its own blocks.
    kind = "PNG" if max(image.size) < SIDE // 2 else "JPEG"
    image.save(content, kind, **({"quality": 80} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
