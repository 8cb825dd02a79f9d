"""Pages for people: one to try the model with an image, and the description of the endpoints, also as OpenAPI."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from classifier_training.core.errors import shown
from classifier_training.service.engine import PRODUCTION
from classifier_training.service.static_files import static_route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from classifier_training.service.app import Service

TEXT, NUMBER, BOOL = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
REFUSALS = {
    400: "the body is none, or an image cannot be decoded",
    404: "there is no such address, model or version",
    408: "the body did not arrive in time",
    413: "the body, an image or the number of images is too large",
    415: "the type or encoding of the body is none that is read",
    429: "the queue is full: try again after the seconds of Retry-After",
}


def page_routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the pages of a service."""

    def home(_request: Request) -> Response:
        engine = service.arms.engines[PRODUCTION]
        names = ", ".join(map(shown, engine.class_names[:12])) + (" …" if len(engine.class_names) > 12 else "")
        return _page(
            f"{service.name}",
            f"<h1>{escape(service.name)}</h1>"
            f"<p>Answers with <code>{escape(engine.run)}</code>: {len(engine.class_names)} classes ({escape(names)}). "
            '<a href="/docs">Endpoints</a>, <a href="/metrics">metrics</a>.</p>'
            '<label id="drop" for="file"><input id="file" type="file" accept="image/*" multiple>'
            "<span>Drop images here, paste one, or click to choose</span></label>"
            '<div id="answers" aria-live="polite"></div>',
            script="serve.js",
        )

    def openapi(_request: Request) -> Response:
        return JSONResponse(description(service))

    def documents(request: Request) -> Response:
        words = "".join(_documents(description(service), str(request.base_url).rstrip("/")))
        return _page(f"{service.name}: endpoints", words)

    return [
        Route("/", home),
        Route("/docs", documents),
        Route("/openapi.json", openapi),
        static_route(__package__),
    ]


def _page(title: str, body: str, script: str = "") -> Response:
    module = f'<script type="module" src="/static/{script}"></script>' if script else ""
    return HTMLResponse(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,">'
        '<link rel="stylesheet" href="/static/report.css">'
        f'<link rel="stylesheet" href="/static/serve.css">{module}</head><body><main>{body}</main></body></html>\n'
    )


def description(service: Service) -> dict[str, Any]:
    """Return the endpoints as an OpenAPI 3.1 document."""
    limits, model = service.limits, f"/v2/models/{service.name}"
    image = {"schema": {"type": "string", "format": "binary"}}
    paths = {
        "/classify": {
            "post": {
                "summary": "Classify image files",
                "description": "The body is an image file, which gives one row, or multipart/form-data with several "
                "files, which gives a list. A row has the names of predict's output; the path is the file name of "
                f"the part, or ?path= of the address. At most {limits.body_mb:g} MB, {limits.images} images and "
                f"{limits.megapixels:g} megapixels an image.",
                "parameters": [{"name": "path", "in": "query", "schema": TEXT, "description": "name of the image"}],
                "requestBody": {
                    "required": True,
                    "content": {
                        "image/*": image,
                        "application/octet-stream": image,
                        "multipart/form-data": {
                            "schema": {
                                "type": "object",
                                "properties": {"file": {"type": "array", "items": image["schema"]}},
                            }
                        },
                    },
                },
                "responses": _responses(
                    {
                        "oneOf": [
                            {"$ref": "#/components/schemas/Row"},
                            {"type": "array", "items": {"$ref": "#/components/schemas/Row"}},
                        ]
                    },
                    400,
                    408,
                    413,
                    415,
                    429,
                ),
            }
        },
        f"{model}/infer": {
            "post": {
                "summary": "Infer by the Open Inference Protocol V2",
                "description": "Tensors in JSON, or in binary after it (Inference-Header-Content-Length). "
                f"With /versions/{service.arms.engines[PRODUCTION].version} before /infer, of that version alone.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}},
                },
                "responses": _responses({"$ref": "#/components/schemas/InferResponse"}, 400, 404, 408, 413, 415, 429),
            }
        },
        model: {"get": {"summary": "Inputs, outputs, classes and preprocessing", "responses": _responses({}, 404)}},
        f"{model}/ready": {"get": {"summary": "Whether the model is ready", "responses": _responses({}, 404)}},
        "/v2": {"get": {"summary": "Name, version and extensions of the server", "responses": _responses({})}},
        "/v2/health/live": {"get": {"summary": "Whether the process answers", "responses": _responses({})}},
        "/v2/health/ready": {
            "get": {"summary": "Whether requests are welcome; 503 while it ends", "responses": _responses({})}
        },
        "/metrics": {
            "get": {
                "summary": "Metrics for Prometheus",
                "responses": {"200": {"description": "text", "content": {"text/plain": {"schema": TEXT}}}},
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": service.name, "version": service.version},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _responses(schema: dict[str, Any], *refusals: int) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"200": {"description": "the answer", "content": {"application/json": {"schema": schema}}}} | {
        str(code): {"description": REFUSALS[code], "content": error} for code in refusals
    }


def _schemas() -> dict[str, Any]:
    share = {"type": "object", "properties": {"label": TEXT, "probability": NUMBER}}
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": TEXT,
            "datatype": {"enum": ["FP32", "UINT8", "BYTES"]},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "parameters": {"type": "object"},
            "data": {"type": "array"},
        },
    }
    tensors = {"type": "array", "items": tensor}
    return {
        "Row": {
            "type": "object",
            "properties": {
                "path": TEXT,
                "label": {"type": ["string", "null"]},
                "confidence": {"type": ["number", "null"]},
                "top_k": {"type": "array", "items": share},
                "rejected": {"type": ["boolean", "null"]},
                "reject_reason": {"type": ["string", "null"], "enum": ["low_confidence", "unlike_training", None]},
                "error": {"type": ["string", "null"]},
                "probabilities": {"type": "object", "additionalProperties": NUMBER},
                "label_set": {"type": "array", "items": TEXT},
            },
        },
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": TEXT,
                "parameters": {"type": "object"},
                "inputs": tensors,
                "outputs": {"type": "array"},
            },
        },
        "InferResponse": {
            "type": "object",
            "properties": {"id": TEXT, "model_name": TEXT, "model_version": TEXT, "outputs": tensors},
        },
        "Error": {"type": "object", "properties": {"error": TEXT}},
    }


def _documents(document: dict[str, Any], address: str) -> Iterator[str]:
    title = document["info"]["title"]
    yield f'<h1>{escape(title)}: endpoints</h1><p>As a file for programs: <a href="/openapi.json">openapi.json</a>. '
    yield '<a href="/">Try it with an image</a>.</p>'
    yield f"<pre>curl --data-binary @photo.jpg {escape(address)}/classify\n"
    yield f"curl -F file=@a.jpg -F file=@b.jpg {escape(address)}/classify</pre>"
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            codes = ", ".join(
                f'<span title="{escape(response["description"])}">{code}</span>'
                for code, response in about["responses"].items()
            )
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(about['summary'])}. "
            yield f"{escape(about.get('description', ''))}</p><p>Responses: {codes}</p>"
    rows = "".join(f"<tr><td>{code}</td><td>{escape(words)}</td></tr>" for code, words in REFUSALS.items())
    yield "<h2>Refusals</h2><p>The body of each is <code>{&quot;error&quot;: …}</code>.</p>"
    yield f"<table><thead><tr><th>status</th><th>why</th></tr></thead><tbody>{rows}</tbody></table>"
