"""The addresses of the review: pages, images, and the requests of their scripts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from classifier_training.core.errors import UserError, reason_of
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.workflows.reviewing import pages
from classifier_training.workflows.reviewing.app import page
from classifier_training.workflows.reviewing.beside import Beside
from classifier_training.workflows.reviewing.decisions import Action, Decisions
from classifier_training.workflows.reviewing.decisions import Request as Decision
from classifier_training.workflows.reviewing.queues import STATES, Filter, Queues, reasons
from classifier_training.workflows.reviewing.retraining import WAYS
from classifier_training.workflows.reviewing.thumbnails import SIDES, Thumbnails

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import QueryParams
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from classifier_training.workflows.reviewing.collection import Collection
    from classifier_training.workflows.reviewing.retraining import Retraining

log = logging.getLogger(__name__)

MAX_ITEMS = 200
"""Images that one request asks about, or decides on."""

MAX_BODY = 200_000
"""Bytes of a request."""


@dataclass(frozen=True)
class Review:
    """What the pages of one session show and change.

    Args:
        collection: the images.
        decisions: on them.
        retraining: trains with the corrections; None where there is no run.
    """

    collection: Collection
    decisions: Decisions
    retraining: Retraining | None = None

    @cached_property
    def queues(self) -> Queues:
        """The lists."""
        return Queues(self.collection, self.decisions)

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """The images as they are sent."""
        return Thumbnails(self.collection)

    @cached_property
    def beside(self) -> Beside:
        """The nearest images, and explanations."""
        return Beside(self.collection)

    def routes(self) -> list[BaseRoute]:
        """All addresses. Handlers that are no coroutines run in threads."""
        return [
            Route("/", self.overview),
            Route("/look", self.look),
            Route("/grid", self.grid),
            Route("/image/{id}/{size}", self.image),
            Route("/api/list", self.list_ids),
            Route("/api/items", self.items),
            Route("/api/beside/{id}", self.show_beside),
            Route("/api/why/{id}", self.why),
            Route("/api/decide", self.decide, methods=["POST"]),
            Route("/api/features", self.compute_features, methods=["POST"]),
            Route("/api/retrain", self.show_retraining),
            Route("/api/retrain/{way}", self.retrain, methods=["POST"]),
        ]

    # pages

    def overview(self, request: Request) -> Response:
        """Show the lists, the confusion matrix and the classes."""
        self.decisions.refresh()
        return page(request, title="Review", body=pages.overview(self), scripts=["overview.js"])

    def look(self, request: Request) -> Response:
        """Show one image at a time."""
        return self._list_page(request, pages.look, "look.js")

    def grid(self, request: Request) -> Response:
        """Show many images at once."""
        return self._list_page(request, pages.grid, "grid.js")

    def _list_page(self, request: Request, body: pages.ListPage, script: str) -> Response:
        queue = self.queues.all.get(request.query_params.get("queue", ""))
        if queue is None:
            return PlainTextResponse("there is no such list, or it is empty\n", 404)
        content = body(self, queue, read_filter(request.query_params))
        return page(request, title=queue.title, body=content, scripts=[script], wide=True)

    # what scripts ask for

    def list_ids(self, request: Request) -> Response:
        """The images of a list: their ids, how many are decided, and the first that is not."""
        self.decisions.refresh()
        name = request.query_params.get("queue", "")
        if name not in self.queues.all:
            return PlainTextResponse("there is no such list\n", 404)
        rows = self.queues.select(name, read_filter(request.query_params))
        decided = self.decisions.is_decided[rows]
        first = int(decided.argmin()) if len(rows) and not decided.all() else 0
        ids = [self.collection.ids[row] for row in rows.tolist()]
        return JSONResponse({"ids": ids, "first": first, "decided": int(decided.sum())})

    def items(self, request: Request) -> Response:
        """What there is to know about some images."""
        self.decisions.refresh()
        rows = [self._row(name) for name in request.query_params.get("ids", "").split(",")[:MAX_ITEMS]]
        return JSONResponse({"items": [self.item(row) for row in rows if row is not None]})

    def image(self, request: Request) -> Response:
        """One image, encoded anew."""
        row, size = self._row(request.path_params["id"]), request.path_params["size"]
        if row is None or size not in SIDES:
            return PlainTextResponse("there is no such image\n", 404)
        try:
            content, kind = self.thumbnails.encoded(row, size)
        except UnreadableImageError as error:
            return PlainTextResponse(f"{error.reason}\n", 404)
        return Response(content, media_type=kind, headers={"cache-control": "private, max-age=600"})

    def show_beside(self, request: Request) -> Response:
        """Training images of the label of an image, and of the class that is suggested."""
        row = self._row(request.path_params["id"])
        if row is None:
            return PlainTextResponse("there is no such image\n", 404)
        label, suggested = self.decisions.label(row), self.collection.suggestion(row)
        names = [label] if self.collection.is_labelled else []
        names += [suggested] if suggested is not None and suggested not in names else []
        groups = []
        for name in names:
            found = self.beside.of_class(row, name)
            images = [{"id": self.collection.ids[other], "path": self.collection.paths[other], "similarity": similarity}
                      for other, similarity in found]  # fmt: skip
            groups.append({"label": name, "images": images})
        return JSONResponse({"state": self.beside.state, "words": self.beside.words, "groups": groups})

    def why(self, request: Request) -> Response:
        """Why the model predicts an image as it does."""
        row = self._row(request.path_params["id"])
        if row is None:
            return PlainTextResponse("there is no such image\n", 404)
        return JSONResponse(self.beside.why(row))

    # what changes something

    async def decide(self, request: Request) -> Response:
        """Write decisions down, and answer when they are on the disk."""
        asked = await _json(request)
        try:
            wanted = [self._decision(entry) for entry in asked["decisions"][:MAX_ITEMS]]
        except (KeyError, TypeError, ValueError) as error:
            return PlainTextResponse(f"no decision: {error}\n", 400)
        try:
            stale = await run_in_threadpool(self.decisions.decide, wanted)
        except (UserError, OSError) as error:
            log.warning("not saved: %s", error)
            return PlainTextResponse(f"not saved: {reason_of(error)}\n", 500)
        rows = dict.fromkeys(one.row for one in wanted)
        return JSONResponse(
            {
                "items": [self.item(row) for row in rows],
                "stale": [self.collection.ids[row] for row in stale],
            }
        )

    def compute_features(self, _request: Request) -> Response:
        """Compute the features that the nearest images are found by."""
        self.beside.compute()
        return JSONResponse({"state": self.beside.state, "words": self.beside.words})

    def retrain(self, request: Request) -> Response:
        """Train with the corrections."""
        way = request.path_params["way"]
        if self.retraining is None or way not in WAYS:
            return PlainTextResponse("there is no run to train from, or no such way\n", 404)
        self.retraining.start(way)
        return JSONResponse(self.retraining.to_dict())

    def show_retraining(self, _request: Request) -> Response:
        """How far that is."""
        return JSONResponse(self.retraining.to_dict() if self.retraining else {"state": "absent"})

    # parts

    def _row(self, name: str) -> int | None:
        return self.collection.rows.get(name)

    def _decision(self, entry: Mapping[str, Any]) -> Decision:
        row = self.collection.rows[str(entry["id"])]
        action, seen, new = entry["action"], entry.get("seen"), entry.get("new", "")
        if action not in get_args(Action) or not isinstance(seen, int | None) or not isinstance(new, str):
            raise ValueError("an action, a label and a number are expected")
        new.encode()
        return Decision(row, action, new=new, seen=seen, back=int(entry.get("back", 0)))

    def item(self, row: int) -> dict[str, Any]:
        """An image as the scripts know it."""
        collection, predicted = self.collection, self.collection.predicted
        found = self.decisions.standing(row)
        top = []
        if predicted is not None:
            pairs = zip(predicted.top[row].tolist(), predicted.probabilities[row].tolist(), strict=True)
            top = [{"label": predicted.class_names[name], "probability": share} for name, share in pairs if name >= 0]
        return {
            "id": collection.ids[row],
            "path": collection.paths[row],
            "split": collection.splits[row],
            "label": collection.labels[row],
            "current": self.decisions.label(row),
            "number": self.decisions.number(row),
            "decision": found and {name: getattr(found, name) for name in ("action", "new", "who", "when", "why")},
            "top": top,
            "suggested": collection.suggestion(row),
            "reasons": reasons(collection, row),
        }


def read_filter(query: QueryParams) -> Filter:
    """Read what part of a list an address asks for."""
    state = query.get("state", "")
    return Filter(
        split=query.get("split", ""),
        # The form sends the labels with a mark, since an empty label is legal and "any" is none.
        label=_marked(query.get("label", "")),
        true=_marked(query.get("true", "")),
        predicted=_marked(query.get("predicted", "")),
        state=state if state in STATES else "",
        text=query.get("text", ""),
    )


def _marked(text: str) -> str | None:
    return text.removeprefix(pages.MARK) if text.startswith(pages.MARK) else None


async def _json(request: Request) -> dict[str, Any]:
    import json

    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY:
            return {}
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
