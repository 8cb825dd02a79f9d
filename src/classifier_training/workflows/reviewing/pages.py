"""The pages of the review, as HTML; their scripts fill in the images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from classifier_training.core.display import shorten
from classifier_training.core.errors import shown
from classifier_training.core.types import SPLITS
from classifier_training.evaluation import report
from classifier_training.evaluation.mistakes import MAX_MATRIX, most_confused
from classifier_training.evaluation.report import Html, escape, joined
from classifier_training.workflows.reviewing.queues import Filter, Queue, progress_words
from classifier_training.workflows.reviewing.retraining import WAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.workflows.reviewing.routes import Review

ListPage = Callable[["Review", Queue, Filter], Iterable[Html]]

MARK = "="
"""Before a label in an address: an empty label is legal, and no label asks for any."""

KEYS = "123456789bcfhijklmnopqtvwxy"
"""Keys of the classes, in their order. The other letters are those of actions."""

MAX_PAIRS = 40
MAX_NAME = 28

ACTIONS = (
    ("keep", "Enter", "right", "the label is right"),
    ("suggested", "a", "accept", "take the suggested label"),
    ("drop", "d", "drop", "leave the image out"),
    ("skip", "s", "skip", "go on without a decision"),
    ("undo", "u", "undo", "take the last decision back"),
    ("search", "/", "other class", "search a class by its name, or name a new one"),
    ("why", "e", "why", "why the model predicts this, from its training images"),
    ("zoom", "z", "zoom", "the image in its own size"),
    ("grid", "g", "grid", "many images at once"),
    ("help", "?", "help", "the keys"),
)
"""Buttons: name, key, words, and what they do."""

GRID_ACTIONS = ("keep", "suggested", "drop", "undo", "search", "help")

STATE_WORDS = {
    "": "any", "open": "not looked at", "keep": "right", "relabel": "relabelled", "drop": "dropped", "move": "moved",
}  # fmt: skip


def overview(review: Review) -> Iterator[Html]:
    """The first page: lists, confusion matrix, classes, and what can be done with the decisions."""
    collection, queues = review.collection, review.queues
    number = len(collection)
    decided = int(review.decisions.is_decided.sum())
    facts = [
        (f"{number:,}", "images"),
        (f"{len(collection.class_names):,}", "classes"),
        (f"{decided:,}", "looked at"),
    ]
    yield report.header("Review", collection.title, facts)
    cards = "".join(_card(review, queue) for queue in queues.all.values())
    more = [report.paragraph("Copies of images are being looked for.")] if queues.is_searching else []
    yield report.section("Lists", Html(f'<ul class="queues">{cards}</ul>'), *more)
    counts = queues.confusion()
    if counts is not None and collection.predicted is not None and counts.any():
        names = collection.predicted.class_names
        pieces = [_matrix(counts, names)] if len(names) <= MAX_MATRIX else [_pairs(counts, names)]
        yield report.section("Confusion matrix", *pieces)
    if collection.is_labelled:
        yield report.section("Classes", _classes(review))
    if review.retraining is not None:
        yield _retraining(review)
    files = ", ".join(str(place.file) for place in collection.places)
    yield report.footer(f"Decisions of {review.decisions.who} are added to {files}. No image is changed.")


def _card(review: Review, queue: Queue) -> str:
    done = review.queues.num_decided(queue.rows)
    number = len(queue.rows)
    address = address_of("/look", queue.name)
    return (
        f'<li class="card queue"><h3><a href="{escape(address)}">{escape(queue.title)}</a></h3>'
        f"<p>{escape(queue.words)}</p>"
        f'<p class="quiet"><progress max="{number}" value="{done}" aria-label="{escape(queue.title)}"></progress> '
        f'{escape(progress_words(done, number))} · <a href="{escape(address_of("/grid", queue.name))}" '
        f'aria-label="{escape(queue.title)} as a grid">grid</a></p></li>'
    )


def address_of(path: str, queue: str, **filters: str | None) -> str:
    """Return the address of a list, or of a part of it; labels are given as they are."""
    marked = {name: f"{MARK}{value}" for name, value in filters.items() if value is not None}
    return f"{path}?{urlencode({'queue': queue, **marked}, errors='surrogateescape')}"


def _matrix(counts: NDArray, names: tuple[str, ...]) -> Html:  # type: ignore[type-arg]
    heads = "".join(f'<th scope="col" title="{escape(name)}">{escape(_short(name))}</th>' for name in names)
    lines = []
    support = counts.sum(axis=1)
    for true, name in enumerate(names):
        cells = []
        for predicted, count in enumerate(counts[true].tolist()):
            if not count:
                cells.append("<td></td>")
                continue
            words = "correct" if predicted == true else f"predicted as {shown(names[predicted])}"
            kind = "right" if predicted == true else "wrong"
            tenth = round(10 * count / support[true])
            address = address_of("/look", "all", true=name, predicted=names[predicted])
            cells.append(
                f'<td class="{kind}"><a class="cell s{tenth}" href="{escape(address)}" '
                f'aria-label="{escape(f"{shown(name)}, {words}: {count:,}")}">{count:,}</a></td>'
            )
        lines.append(f'<tr><th scope="row" title="{escape(name)}">{escape(_short(name))}</th>{"".join(cells)}</tr>')
    return Html(
        '<div class="scroll" tabindex="0" role="region" aria-label="confusion matrix"><table class="matrix">'
        "<caption>Rows: label; columns: predicted. A cell opens its images.</caption>"
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _pairs(counts: NDArray, names: tuple[str, ...]) -> Html:  # type: ignore[type-arg]
    rows = "".join(
        f'<tr><td><a href="{escape(address_of("/look", "all", true=names[one.true], predicted=names[one.predicted]))}">'
        f"{escape(shown(names[one.true]))}</a></td><td>{escape(shown(names[one.predicted]))}</td>"
        f'<td class="number">{one.count:,}</td><td class="number">{one.share:.0%}</td></tr>'
        for one in most_confused(counts, MAX_PAIRS)
    )
    return _table("confused classes", ("label", "predicted", "images", "share of the class"), rows)


def _table(name: str, columns: tuple[str, ...], rows: str) -> Html:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table><thead><tr>{heads}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _classes(review: Review) -> Html:
    counts = review.queues.class_counts()
    rows = "".join(
        f'<tr><td><a href="{escape(address_of("/look", "all", label=name))}">{escape(shown(name))}</a></td>'
        f'<td class="number">{counts.get(name, 0):,}</td>'
        f'<td><a href="{escape(address_of("/grid", "all", label=name))}" '
        f'aria-label="{escape(shown(name))} as a grid">grid</a></td></tr>'
        for name in review.collection.class_names
    )
    return _table("classes", ("class", "images", "at once"), rows)


def _retraining(review: Review) -> Html:
    assert review.retraining is not None
    buttons = " ".join(
        f'<button type="button" data-retrain="{way}"{" class=main" if added else ""}>{escape(words)}</button>'
        for way, (words, added) in WAYS.items()
    )
    return report.section(
        "Train with the corrections",
        report.paragraph(review.retraining.words),
        Html(
            f'<p id="retrain">{buttons} '
            '<span id="retrain-state" role="status" class="quiet"></span></p>'
            '<div id="retrain-result"></div><details id="retrain-log" hidden><summary>log</summary>'
            '<pre tabindex="0"><code></code></pre></details>'
        ),
    )


def look(review: Review, queue: Queue, wanted: Filter) -> Iterator[Html]:
    """The page that shows one image at a time."""
    yield _bar(review, queue, wanted, "/look", "/grid", "grid")
    yield Html(
        f'<div id="look" {_class_data(review)}>'
        '<section class="view" aria-label="image"><figure id="figure"><img id="image" alt="">'
        '<figcaption id="path"></figcaption></figure><p id="end" class="card" hidden></p></section>'
        '<aside class="side" aria-label="decision"><p id="state" role="status"></p>'
        '<dl class="pairs" id="facts"></dl><ul id="reasons"></ul>'
        '<h2 id="top-title">The model says</h2><ol id="top"></ol>'
        f'<h2>Label</h2><div id="classes"></div><div id="actions">{_buttons()}</div></aside>'
        '<section id="why" aria-label="why the model predicts this" hidden></section>'
        '<section id="beside" aria-label="training images"></section></div>'
    )
    yield _dialogs()


def grid(review: Review, queue: Queue, wanted: Filter) -> Iterator[Html]:
    """The page that shows many images at once."""
    yield _bar(review, queue, wanted, "/grid", "/look", "one by one")
    yield Html(
        f'<div id="grid" {_class_data(review)}>'
        '<p id="state" role="status"></p><div class="tools" aria-label="decision" role="group">'
        f'<div id="classes"></div><div id="actions">{_buttons(*GRID_ACTIONS)}</div>'
        '<p class="quiet"><span id="selected">0 selected</span> · <button type="button" class="plain" '
        'data-action="all">select all on the page <kbd>Ctrl A</kbd></button></p></div>'
        '<ul id="tiles" role="listbox" aria-multiselectable="true" aria-label="images" tabindex="0"></ul>'
        '<p class="turn"><button type="button" data-action="previous">previous <kbd>←</kbd></button> '
        '<span id="part"></span> <button type="button" data-action="next">next <kbd>→</kbd></button></p></div>'
    )
    yield _dialogs()


def _bar(review: Review, queue: Queue, wanted: Filter, here: str, other: str, words: str) -> Html:
    collection = review.collection
    splits = [split for split in (*SPLITS, "") if split in set(collection.splits)]
    selects = []
    if len(splits) > 1:
        options = [("", "any"), *((split, split) for split in splits if split)]
        selects.append(_select("split", "split", options, wanted.split))
    if collection.is_labelled:
        names = [("", "any"), *((f"{MARK}{name}", shown(name)) for name in collection.class_names)]
        selects.append(_select("label", "label", names, "" if wanted.label is None else f"{MARK}{wanted.label}"))
    selects.append(_select("state", "decision", list(STATE_WORDS.items()), wanted.state))
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(MARK + value)}">'
        for name, value in (("true", wanted.true), ("predicted", wanted.predicted))
        if value is not None
    )
    cell = ""
    if wanted.true is not None or wanted.predicted is not None:
        label = "" if wanted.true is None else f"{shown(wanted.true)} "
        guess = "" if wanted.predicted is None else f"predicted as {shown(wanted.predicted)}"
        cell = f" · {label}{guess}"
    return Html(
        f'<header class="bar"><div><h1>{escape(queue.title + cell)}</h1>'
        '<p class="quiet"><progress id="progress" max="1" value="0" aria-label="looked at"></progress> '
        f'<span id="count"></span> · <a id="other" href="{other}">{escape(words)}</a></p></div>'
        f'<form class="filters" action="{here}"><input type="hidden" name="queue" value="{escape(queue.name)}">'
        f'{hidden}{"".join(selects)}<label>path has <input name="text" value="{escape(wanted.text)}" size="10"></label>'
        '<button type="submit">show</button></form></header>'
    )


def _select(name: str, words: str, options: list[tuple[str, str]], chosen: str) -> str:
    listed = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>'
        f"{escape(shorten(text, MAX_NAME))}</option>"
        for value, text in options
    )
    return f'<label>{escape(words)} <select name="{name}">{listed}</select></label>'


def _class_data(review: Review) -> Html:
    names = review.collection.class_names
    keys = [*KEYS, *[""] * max(0, len(names) - len(KEYS))]
    listed = [{"name": name, "shown": shown(name), "key": key} for name, key in zip(names, keys, strict=False)]
    labelled = str(review.collection.is_labelled).lower()
    return Html(f'data-classes="{escape(json.dumps(listed))}" data-labelled="{labelled}"')


def _buttons(*names: str) -> str:
    return "".join(
        f'<button type="button" data-action="{name}" title="{escape(does)}">{escape(words)} '
        f"<kbd>{escape(key)}</kbd></button>"
        for name, key, words, does in ACTIONS
        if not names or name in names
    )


def _dialogs() -> Html:
    keys = "".join(f"<dt><kbd>{escape(key)}</kbd></dt><dd>{escape(does)}</dd>" for _, key, _, does in ACTIONS)
    return joined(
        Html(
            '<dialog id="help" aria-labelledby="help-title"><h2 id="help-title">Keys</h2><dl class="pairs">'
            "<dt><kbd>1</kbd> …</dt><dd>the class with that key</dd>"
            f"{keys}<dt><kbd>←</kbd> <kbd>→</kbd></dt><dd>to the image before, to the next one</dd>"
            "<dt><kbd>Space</kbd></dt><dd>as Enter; in the grid, selects an image</dd></dl>"
            '<form method="dialog"><button>close <kbd>Esc</kbd></button></form></dialog>'
        ),
        Html(
            '<dialog id="search" aria-labelledby="search-title"><h2 id="search-title">Which class?</h2>'
            '<input id="search-text" autocomplete="off" role="combobox" aria-expanded="true" '
            'aria-controls="search-list" aria-label="name of the class">'
            '<ul id="search-list" role="listbox" aria-label="classes"></ul></dialog>'
        ),
        Html(
            '<dialog id="zoomed" aria-label="image in its own size"><form method="dialog"><button>close '
            '<kbd>Esc</kbd></button></form><div class="pan" tabindex="0"><img alt=""></div></dialog>'
        ),
    )


def _short(name: str) -> str:
    return shorten(shown(name), MAX_NAME)
