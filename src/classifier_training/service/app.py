"""The web application of `serve`: its endpoints, and how a request becomes an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from classifier_training.core.errors import plural
from classifier_training.core.runtime import num_cores
from classifier_training.inference.predictor import Outputs
from classifier_training.inference.rows import to_json
from classifier_training.inference.sources import Item
from classifier_training.service.engine import PRODUCTION
from classifier_training.service.frame import Frame, error_response, facts_of
from classifier_training.service.observing import Answer, Observers
from classifier_training.service.pages import page_routes
from classifier_training.service.preparing import FORM, RAW_TYPES, Prepared, Sent, prepare, read_form
from classifier_training.service.protocol import (
    EXTENSIONS,
    LENGTH_HEADER,
    NOVELTY,
    PROBABILITIES,
    MalformedError,
    model_metadata,
    padding_of,
    parse,
    render,
)
from classifier_training.service.records import read_labels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence

    from numpy.typing import NDArray
    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from classifier_training.service.arms import RolloutRecorder
    from classifier_training.service.engine import Arms, Engine
    from classifier_training.service.limits import Gate
    from classifier_training.service.metrics import Metrics
    from classifier_training.service.observing import Observer
    from classifier_training.service.settings import Limits

log = logging.getLogger(__name__)

SERVER = "classifier-training"

MOST_SHADOWED = 32
"""Requests that the shadow has not answered; of more it sees none."""


class Service:
    """Answers requests with the engines of its arms.

    Args:
        arms: which run answers.
        gate: what is let in.
        metrics: that count.
        name: of the model in the protocol's addresses.
        version: of this program.
        observers: that see each answer.
        tasks: what else goes on while requests are answered, such as a watcher.
        recorder: of a roll-out; the last of the observers where there is one.
    """

    def __init__(
        self,
        arms: Arms,
        gate: Gate,
        metrics: Metrics,
        *,
        name: str,
        version: str,
        observers: Sequence[Observer] = (),
        tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        recorder: RolloutRecorder | None = None,
    ) -> None:
        self.arms, self.gate, self.metrics = arms, gate, metrics
        self.name, self.version = name, version
        self.is_draining = False
        self._pool = ThreadPoolExecutor(num_cores(), thread_name_prefix="prepare")
        self.recorder = recorder
        self._observers = Observers(
            [*observers, *([] if recorder is None else [recorder])],
            dropped=lambda number: metrics.unseen.inc(number),
            failed=lambda: metrics.observer_errors.inc(),
        )
        self._tasks = tuple(tasks)
        self._shadowing: set[asyncio.Task[None]] = set()

    @property
    def limits(self) -> Limits:
        """What clients may send."""
        return self.gate.limits

    def app(self) -> ASGIApp:
        """Return the application."""
        model = "/v2/models/{name}"
        handlers: list[tuple[str, str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("POST", "/classify", "classify", self.classify),
            ("GET", "/v2/health/live", "health", self.live),
            ("GET", "/v2/health/ready", "health", self.ready),
            ("GET", "/v2", "metadata", self.server_metadata),
            ("GET", "/metrics", "metrics", self.show_metrics),
        ]
        if self.recorder is not None and self.recorder.is_recording:
            handlers.append(("POST", "/feedback", "feedback", self.take_labels))
        for place in (model, f"{model}/versions/{{version}}"):
            handlers += [
                ("GET", place, "metadata", self.metadata),
                ("GET", f"{place}/ready", "health", self.model_ready),
                ("POST", f"{place}/infer", "infer", self.infer),
            ]
        routes: list[BaseRoute] = [
            Route(path, _named(handler, kind), methods=[method]) for method, path, kind, handler in handlers
        ]
        errors: Any = {HTTPException: error_response, Exception: error_response}
        routes += page_routes(self)
        return Frame(Starlette(routes=routes, exception_handlers=errors, lifespan=self._lifespan), metrics=self.metrics)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        running = [asyncio.get_running_loop().create_task(task()) for task in self._tasks]
        yield
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._close()

    async def _close(self) -> None:
        """Finish what is under way behind the answers."""
        await asyncio.gather(*self._shadowing, return_exceptions=True)
        await asyncio.to_thread(self._observers.close)
        self._pool.shutdown(wait=False)
        for engine in self.arms.engines.values():
            engine.close()

    async def live(self, _request: Request) -> Response:
        """Whether the process answers."""
        return JSONResponse({"live": True})

    async def ready(self, _request: Request) -> Response:
        """Whether requests are welcome."""
        return JSONResponse({"ready": not self.is_draining}, 503 if self.is_draining else 200)

    async def server_metadata(self, _request: Request) -> Response:
        """What this server is."""
        return JSONResponse({"name": SERVER, "version": self.version, "extensions": list(EXTENSIONS)})

    async def metadata(self, request: Request) -> Response:
        """What the model takes and gives."""
        return JSONResponse(model_metadata(self.name, self._engine(request)[1]))

    async def model_ready(self, request: Request) -> Response:
        """Whether requests to the model are welcome."""
        self._engine(request)
        answer = {"name": self.name, "ready": not self.is_draining}
        return JSONResponse(answer, 503 if self.is_draining else 200)

    async def show_metrics(self, request: Request) -> Response:
        """All metrics, for Prometheus."""
        text, kind = self.metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})

    async def classify(self, request: Request) -> Response:
        """Answer images with predict's rows."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != FORM and kind not in RAW_TYPES and not kind.startswith("image/"):
            raise HTTPException(
                415, f"content-type {kind[:64]!r}: expected image/*, application/octet-stream or {FORM}"
            )
        arm, engine = self._engine(request)
        async with self.gate.body(request) as body:
            since = time.perf_counter()
            if kind == FORM:
                sent = await self._in_thread(read_form, body, request.headers["content-type"], self.limits)
            elif not body:
                raise HTTPException(400, "the body is empty: expected the bytes of an image file")
            else:
                sent = [Sent(request.query_params.get("path", ""), body)]
            with self.gate.admit(len(sent)):
                arm, engine, answers = await self._answer_as(request, arm, sent, since)
        self._tell(request, arm, engine, answers)
        self._shadow(request, sent)
        rows = [engine.rows.row(answer.prediction) for answer in answers]
        failed = [(answer, row["error"]) for answer, row in zip(answers, rows, strict=True) if row["error"] is not None]
        if len(failed) == len(rows):
            answer, error = failed[0]
            raise HTTPException(413 if answer.is_too_large else 400, error)
        return Response(to_json(rows if kind == FORM else rows[0]), media_type="application/json")

    async def infer(self, request: Request) -> Response:
        """Answer a request of the protocol."""
        arm, engine = self._engine(request, of_tensors=True)
        length = request.headers.get(LENGTH_HEADER)
        start = padding_of(length)
        async with self.gate.body(request, padding=start) as body:
            since = time.perf_counter()
            try:
                asked = await self._in_thread(parse, body, length, engine, start)
            except MalformedError as error:
                raise HTTPException(400, str(error)) from None
            sent = asked.tensor if asked.tensor is not None else [Sent("", content) for content in asked.images]
            with self.gate.admit(asked.num_images):
                arm, engine, answers = await self._answer_as(request, arm, sent, since)
        failed = next((place for place, answer in enumerate(answers) if answer.prediction.error is not None), None)
        self._tell(request, arm, engine, answers)
        if failed is not None:
            answer = answers[failed]
            raise HTTPException(413 if answer.is_too_large else 400, f"image {failed}: {answer.prediction.error}")
        self._shadow(request, sent)
        outputs: dict[str, Any] = {
            "logits": np.stack([answer.logits for answer in answers]),
            PROBABILITIES: np.stack([answer.probabilities for answer in answers]),
        }
        if engine.gives_novelty:
            outputs[NOVELTY] = np.array([answer.novelty for answer in answers], dtype=np.float32)
        text, json_length = render(asked, outputs, name=self.name, engine=engine)
        if json_length is None:
            return Response(text, media_type="application/json")
        return Response(text, media_type="application/octet-stream", headers={LENGTH_HEADER: str(json_length)})

    async def take_labels(self, request: Request) -> Response:
        """Record true labels of images that were answered, by the ids of their requests."""
        assert self.recorder is not None
        async with self.gate.body(request) as body:
            try:
                labels = await self._in_thread(read_labels, body)
            except ValueError as wrong:
                raise HTTPException(400, str(wrong)) from None
        known = {name for engine in self.arms.engines.values() for name in engine.class_names}
        if not all(self.recorder.told(request_id, label) for request_id, label in labels):
            raise HTTPException(503, "not all labels could be recorded; send them again", {"retry-after": "5"})
        return JSONResponse({"labels": len(labels), "of_no_class": sum(label not in known for _, label in labels)})

    def _engine(self, request: Request, *, of_tensors: bool = False) -> tuple[str, Engine]:
        """Return the arm of a request and its engine.

        Args:
            request: to a model, or to its version.
            of_tensors: whether its images may have been prepared for the run in production.

        Raises:
            HTTPException: 404 for an address of another model or version.
        """
        name, version = (request.path_params.get(key) for key in ("name", "version"))
        if name not in (None, self.name):
            raise HTTPException(404, f"there is no model {name!r}: this is {self.name!r}")
        present = self.arms.engines[PRODUCTION]
        if version not in (None, present.version):
            raise HTTPException(404, f"{self.name!r} has no version {version!r}: it is at {present.version!r}")
        is_read = request.method == "GET" or version is not None
        arm = PRODUCTION if is_read else self.arms.choose(facts_of(request).request_id)
        engine = self.arms.engines[arm]
        if of_tensors and (engine.preprocessing, engine.class_names) != (present.preprocessing, present.class_names):
            return PRODUCTION, present
        return arm, engine

    async def _answer_as(
        self, request: Request, arm: str, sent: Sequence[Sent] | NDArray[np.float32], since: float
    ) -> tuple[str, Engine, list[Answer]]:
        """Answer with an arm, or with production what another cannot answer; returns who did."""
        engine, present = self.arms.engines[arm], self.arms.engines[PRODUCTION]
        if arm == PRODUCTION or self.recorder is None:
            return arm, engine, await self._answer(engine, sent, since)
        failed: Collection[int] = range(len(sent))
        reason = ""
        try:
            answers = await self._answer(engine, sent, since)
            failed = {answer.place for answer in answers if answer.prediction.error is not None}
        except Exception as error:
            log.exception("%s: %s was not answered", arm, plural(len(sent), "image"))
            reason = type(error).__name__
        if not failed:
            return arm, engine, answers
        answers = await self._answer(present, sent, since)
        # What production cannot answer either is the image's fault.
        places = [one.place for one in answers if one.prediction.error is None and one.place in failed]
        self.recorder.failed(facts_of(request).request_id, arm, places, reason or "no prediction")
        return PRODUCTION, present, answers

    async def _answer(self, engine: Engine, sent: Sequence[Sent] | NDArray[np.float32], since: float) -> list[Answer]:
        """Answer a tensor, or decode images and answer them, each as soon as it is ready."""
        if isinstance(sent, np.ndarray):
            nothing = [Prepared(Sent("", b""))] * len(sent)
            return self._finish(engine, nothing, await engine.infer(sent), since)
        each = await asyncio.gather(*(self._one(engine, one) for one in sent))
        prepared = [one for one, _ in each]
        found = [output for _, output in each]
        size = len(engine.class_names)
        logits = [np.zeros((1, size), np.float32) if output is None else output.logits for output in found]
        scores = None
        if engine.gives_novelty:
            scores = np.array([np.nan if one is None or one.novelty is None else one.novelty[0] for one in found])
        return self._finish(engine, prepared, Outputs(np.concatenate(logits), scores), since)

    async def _one(self, engine: Engine, sent: Sent) -> tuple[Prepared, Outputs | None]:
        with engine.coming():
            work = partial(prepare, sent, engine.preprocessing, self.limits)
            prepared = await asyncio.get_running_loop().run_in_executor(engine.pool or self._pool, work)
        return prepared, None if prepared.inputs is None else await engine.infer(prepared.inputs)

    def _finish(self, engine: Engine, prepared: Sequence[Prepared], found: Outputs, since: float) -> list[Answer]:
        """Make answers of outputs [n] for a request whose body was there at a time."""
        items = [Item(one.sent.path, "") for one in prepared]
        output = engine.predictor.checked(items, [one.error for one in prepared], found)
        with np.errstate(all="ignore"):
            shares = engine.predictor.shares(output.logits)
        predictions = engine.predictor.label(output, engine.rows)
        seconds = time.perf_counter() - since
        each = zip(prepared, output.logits, shares, output.scores(), predictions, strict=True)
        return [
            Answer(
                prediction=prediction,
                place=place,
                logits=logits,
                probabilities=share,
                class_names=engine.class_names,
                novelty=score if prediction.error is None else None,
                pixels=one.pixels,
                size=one.size,
                is_too_large=one.is_too_large,
                seconds=seconds,
                model=engine.predictor.model_sha256,
            )
            for place, (one, logits, share, score, prediction) in enumerate(each)
        ]

    def _tell(self, request: Request, arm: str, engine: Engine, answers: Sequence[Answer]) -> None:
        facts = facts_of(request)
        facts.arm, facts.num_images = arm, len(answers)
        facts.labels = [answer.prediction.label for answer in answers]
        self._note(facts.request_id, arm, engine, answers)

    def _note(self, request_id: str, arm: str, engine: Engine, answers: Sequence[Answer]) -> None:
        self.metrics.answered(arm, answers, novelty_threshold=engine.predictor.novelty_threshold)
        if self._observers:
            self._observers.tell(request_id, arm, [one for one in answers if one.prediction.error is None])

    def _shadow(self, request: Request, sent: Sequence[Sent] | NDArray[np.float32]) -> None:
        """Let the shadows answer, too, behind the response."""
        request_id = facts_of(request).request_id
        for arm in self.arms.shadows(request_id):
            if len(self._shadowing) >= MOST_SHADOWED:
                self._miss(request_id, len(sent))
                continue
            task = asyncio.get_running_loop().create_task(self._answer_behind(request_id, arm, sent))
            self._shadowing.add(task)
            task.add_done_callback(self._shadowing.discard)

    def _miss(self, request_id: str, number: int) -> None:
        """Count images that no shadow sees."""
        if self.recorder is None:
            self.metrics.unseen.inc(number)
        else:
            self.recorder.missed(request_id, range(number))

    async def _answer_behind(self, request_id: str, arm: str, sent: Sequence[Sent] | NDArray[np.float32]) -> None:
        engine = self.arms.engines[arm]
        if isinstance(sent, np.ndarray) and engine.preprocessing != self.arms.engines[PRODUCTION].preprocessing:
            # A tensor was prepared for another network.
            self._miss(request_id, len(sent))
            return
        try:
            answers = await self._answer(engine, sent, time.perf_counter())
        except Exception as error:  # nobody waits for it
            log.exception("%s: %s was not answered", arm, plural(len(sent), "image"))
            if self.recorder is not None:
                self.recorder.failed(request_id, arm, range(len(sent)), type(error).__name__)
            return
        self._note(request_id, arm, engine, answers)
        failed = [answer.place for answer in answers if answer.prediction.error is not None]
        if self.recorder is not None and failed:
            self.recorder.failed(request_id, arm, failed, "no prediction")

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *arguments))


def _named(
    handler: Callable[[Request], Awaitable[Response]], endpoint: str
) -> Callable[[Request], Awaitable[Response]]:
    """Say which endpoint a request came to before it is answered."""

    async def named(request: Request) -> Response:
        facts_of(request).endpoint = endpoint
        return await handler(request)

    return named
