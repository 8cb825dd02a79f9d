"""Who may ask the local pages for what."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient
from tests.reviewed import CLASSES, make_reviewed, open_review, row_of

from classifier_training.service.server import HEADERS
from classifier_training.workflows.reviewing.app import create_app

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from classifier_training.workflows.reviewing.routes import Review

TOKEN = "the-token"
ADDRESS = "http://127.0.0.1:8123"


@pytest.fixture
def session(tmp_path: Path) -> Review:
    return open_review(make_reviewed(tmp_path))


@pytest.fixture
def stranger(session: Review) -> TestClient:
    """A client that has not seen the printed address."""
    return TestClient(create_app(token=TOKEN, routes=session.routes()), base_url=ADDRESS)


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    """A client that has opened it."""
    assert stranger.get(f"/?token={TOKEN}").status_code == 200
    return stranger


def csrf_of(client: TestClient) -> str:
    found = re.search(r'<meta name="csrf" content="([^"]+)"', client.get("/").text)
    assert found is not None
    return found[1]


def post(client: TestClient, body: object, headers: Mapping[str, str | None] | None = None) -> Any:
    usual = {"origin": ADDRESS, "sec-fetch-site": "same-origin", "x-csrf-token": csrf_of(client)}
    chosen = {name: value for name, value in {**usual, **(headers or {})}.items() if value is not None}
    return client.post("/api/decide", json=body, headers=chosen)


def decision(session: Review, row: int, **values: object) -> dict[str, object]:
    return {"decisions": [{"id": session.collection.ids[row], "action": "keep", "seen": 0, **values}]}


@pytest.mark.parametrize("path", ["/", "/look?queue=all", "/api/list?queue=all", "/static/look.js", "/?token=wrong"])
def test_whoever_has_no_token_sees_nothing(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 403
    assert "cat" not in answer.text


def test_an_image_needs_the_token_too(stranger: TestClient, session: Review) -> None:
    path = f"/image/{session.collection.ids[0]}/large"
    assert stranger.get(path).status_code == 403
    stranger.get(f"/?token={TOKEN}")
    assert stranger.get(path).headers["content-type"] == "image/png"


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_has(stranger: TestClient) -> None:
    answer = stranger.get(f"/?token={TOKEN}")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"classifier_training_8123={TOKEN};")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in answer.text
    assert TOKEN not in stranger.get("/").text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "127.0.0.1.evil.example", "[::1", ""])
def test_another_name_for_this_machine_is_refused(client: TestClient, host: str) -> None:
    cookie = {"cookie": f"classifier_training_8123={TOKEN}; classifier_training_={TOKEN}"}
    assert client.get("/", headers={"host": host, **cookie}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": None},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-csrf-token": None},
        {"x-csrf-token": "guessed"},
        {"content-type": "text/plain"},
    ],
    ids=str,
)
def test_a_change_needs_a_page_of_this_server(
    client: TestClient, session: Review, headers: dict[str, str | None]
) -> None:
    answer = post(client, decision(session, 0), headers)
    assert answer.status_code in (403, 415)
    assert not session.decisions.is_decided.any()
    assert post(client, decision(session, 0)).status_code == 200
    assert session.decisions.is_decided.sum() == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(client: TestClient, method: str) -> None:
    assert client.request(method, "/").status_code == 405
    assert client.request(method, "/api/decide").status_code == 405


def test_an_address_that_changes_something_does_not_answer_get(client: TestClient) -> None:
    assert client.get("/api/decide").status_code == 405
    assert client.post("/", headers={"origin": ADDRESS, "x-csrf-token": csrf_of(client)}, json={}).status_code == 405


def test_every_response_has_the_headers(client: TestClient, session: Review) -> None:
    image = f"/image/{session.collection.ids[0]}/small"
    for path in ("/", "/nothing", "/api/list?queue=all", "/static/app.css", image, f"/?token={TOKEN}"):
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS, path
    assert "'unsafe" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/image/../../etc/passwd/large", "/image/..%2f..%2fetc%2fpasswd/large", "/image/0/large",
        "/image/nothing/large", "/static/..%2fapp.py", "/static/app.py", "/static/%2e%2e%2fsecurity.py",
        "/static/.css", "/static/",
    ],
)  # fmt: skip
def test_only_images_of_the_index_and_static_files_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_size_must_be_one_of_the_known(client: TestClient, session: Review) -> None:
    assert client.get(f"/image/{session.collection.ids[0]}/99999").status_code == 404


def test_a_link_that_took_the_place_of_an_image_is_not_followed(
    client: TestClient, session: Review, tmp_path: Path
) -> None:
    collection = session.collection
    row = row_of(collection, "plain.png")
    path = collection.root / collection.paths[row]
    outside = path.rename(tmp_path / "outside.png")
    path.symlink_to(outside)
    assert client.get(f"/image/{collection.ids[row]}/large").status_code == 404
    path.unlink()
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    assert client.get(f"/image/{collection.ids[row]}/large").status_code == 404


def test_hostile_names_are_shown_and_not_run(client: TestClient, session: Review) -> None:
    collection = session.collection
    for path in ("/", "/look?queue=all", "/grid?queue=all&text=<script>alert(1)</script>"):
        text = client.get(path).text
        assert "<script>alert" not in text
        assert "onerror=alert(1)>" not in text
    ids = client.get("/api/list", params={"queue": "all"}).json()["ids"]
    items = client.get("/api/items", params={"ids": ",".join(ids)}).json()["items"]
    assert {item["path"] for item in items} == set(collection.paths)
    for item in items:
        assert client.get(f"/image/{item['id']}/large").status_code == 200


def test_a_body_that_is_no_decision_is_refused(client: TestClient, session: Review) -> None:
    bodies: list[object] = [{}, [], {"decisions": 7}, {"decisions": [{"id": "nothing", "action": "keep"}]}]
    bodies += [decision(session, 0, **wrong) for wrong in ({"action": "move"}, {"seen": "0"}, {"new": 3})]
    for body in bodies:
        assert post(client, body).status_code == 400, body
    assert post(client, {"decisions": [{"id": "x" * 300_000}]}).status_code == 400
    assert not session.decisions.is_decided.any()


def test_a_label_may_be_hostile(client: TestClient, session: Review) -> None:
    row = row_of(session.collection, "line\nbreak.png")
    answer = post(client, decision(session, row, action="relabel", new=CLASSES[0]))
    assert answer.json()["items"][0]["current"] == CLASSES[0]
    assert session.decisions.label(row) == CLASSES[0]
