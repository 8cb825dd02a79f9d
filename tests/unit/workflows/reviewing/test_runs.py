"""The pages of runs, as their server answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import yaml
from starlette.testclient import TestClient
from tests.conftest import SMALL
from tests.runs import make_run

from classifier_training import cli  # noqa: F401 - fills the register and the table of metrics
from classifier_training.core.processes import work_in
from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.reviewing.app import create_app
from classifier_training.workflows.reviewing.live import key_of
from classifier_training.workflows.reviewing.runs import PAGE_ROWS, RUNS_LINK, run_routes, start_at_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOKEN = "the-token"
ADDRESS = "http://127.0.0.1:8123"

HOSTILE = (
    "<script>alert(1)<", "<img src=x onerror=alert(1)>", "line\nbreak", "question?a=1#b", "日本 🐈",
    "report.html", "live.json", "compare", "list.json", "a'\"quote",
)  # fmt: skip


def open_pages(root: Path) -> TestClient:
    app = create_app(token=TOKEN, routes=[start_at_runs(), *run_routes(root)], links=[RUNS_LINK])
    client = TestClient(app, base_url=ADDRESS)
    assert client.get(f"/?token={TOKEN}").status_code == 200
    return client


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    make_run(root, "2026-01-02/10-00-00", score=0.8)
    make_run(root, "2026-01-02/11-00-00", score=0.9, model="resnet50")
    make_run(root, "2026-01-03/10-00-00", score=0.7, data="/data/flowers", category="plants", name="first")
    begin(make_run(root, "2026-01-04/10-00-00", finished=False))
    (make_run(root, "2026-01-05/10-00-00") / "model.onnx").unlink()
    return root


def begin(folder: Path, *, model: str = "resnet18") -> RunDir:
    """Give an unfinished run ten planned epochs, two of which are done."""
    run = RunDir(folder)
    settings = {"model": {"type": model}, "trainer": {"max_epochs": 10}, "monitor": "val/balanced_accuracy"}
    run.config.write_text(yaml.safe_dump(settings))
    run.metrics.write_text("epoch,val/balanced_accuracy,epoch_seconds\n0,0.5,2\n1,0.6,2\n")
    return run


@pytest.fixture
def client(outputs: Path) -> TestClient:
    return open_pages(outputs)


def post(client: TestClient, path: str, body: object, **changed: str) -> Any:
    found = re.search(r'<meta name="csrf" content="([^"]+)"', client.get("/runs").text)
    assert found is not None
    headers = {"origin": ADDRESS, "sec-fetch-site": "same-origin", "x-csrf-token": found[1], **changed}
    return client.post(path, json=body, headers=headers)


def listed(client: TestClient, query: str = "") -> list[str]:
    return [value[8:13] for value in re.findall(r'name="run" value="([^"]+)"', client.get(f"/runs{query}").text)]


def test_the_address_that_is_printed_leads_to_the_runs(client: TestClient) -> None:
    assert client.get("/").url.path == "/runs"
    text = client.get("/runs").text
    for words in ("resnet50:v1", "plants/first:v1", "flowers", "0.9000", "5 runs", "interrupted", "model.onnx missing"):
        assert words in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["05/10", "04/10", "2026-", "02/11", "02/10"]),
        ("?sort=oldest", ["02/10", "02/11", "2026-", "04/10", "05/10"]),
        ("?sort=best&state=finished", ["02/11", "02/10", "2026-"]),
        ("?words=RESNET50", ["02/11"]),
        ("?words=plants+flow", ["2026-"]),
        ("?state=interrupted", ["04/10"]),
        ("?state=damaged", ["05/10"]),
        ("?state=nonsense&sort=nonsense&page=nonsense", ["05/10", "04/10", "2026-", "02/11", "02/10"]),
        ("?words=nothing", []),
    ],
)
def test_runs_are_filtered_and_sorted(client: TestClient, query: str, expected: list[str]) -> None:
    # Of the run with a name and category, the day follows these.
    assert [value.replace("irst/", "2026-") for value in listed(client, query)] == expected


def test_a_folder_without_runs_says_how_to_start_one(tmp_path: Path) -> None:
    client = open_pages(tmp_path / "nowhere")
    assert "There is no run yet" in client.get("/runs").text
    assert client.get("/runs/2026-01-02/10-00-00").status_code == 404
    (tmp_path / "nowhere").mkdir()
    assert client.get("/runs").status_code == 200


def test_many_runs_are_on_several_pages(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    for number in range(PAGE_ROWS + 5):
        make_run(root, f"2026-01-02/10-{number // 60:02d}-{number % 60:02d}", finished=False)
    client = open_pages(root)
    pages = [client.get(f"/runs?sort=oldest&page={number}").text for number in (1, 2, 99)]
    assert [page.count('name="run"') for page in pages] == [PAGE_ROWS, 5, 5]
    assert "page 2 of 2" in pages[1]
    assert "page=2" in pages[0]


class Elements(HTMLParser):
    """The names of the elements of a page, and the addresses of its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        found = dict(attrs)
        self.links += [found["href"] or ""] if tag == "a" else []
        self.sources += [found.get("src") or ""] if tag in ("script", "img") else []


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_they_are_and_lead_to_their_run(tmp_path: Path, name: str) -> None:
    root = tmp_path / "outputs"
    shutil.copytree(make_run(tmp_path, "2026-01-02/10-00-00", name="origin"), root / name)
    make_run(root, f"{name} other/10-00-00", finished=False, model=name)
    client = open_pages(root)
    page = Elements(client.get("/runs").text)
    assert "img" not in page.names
    assert all(source.startswith("/static/") for source in page.sources)
    own = f"/runs/{quote(name)}"
    assert own in page.links
    assert client.get(own).status_code == 200
    shown = Elements(client.get(f"/runs/{quote(name)}%20other/10-00-00").text)
    assert "img" not in shown.names
    assert all(source.startswith("/static/") for source in shown.sources)
    both = f"/runs/compare?run={quote(name)}&run={quote(name)}%20other/10-00-00"
    assert "img" not in Elements(client.get(both).text).names


def test_a_name_of_bytes_that_are_no_text_leads_to_its_run(tmp_path: Path) -> None:
    folder = os.fsdecode(b"byte \xff")
    (tmp_path / "outputs").mkdir()
    shutil.copytree(make_run(tmp_path, "2026-01-02/10-00-00"), tmp_path / "outputs" / folder)
    client = open_pages(tmp_path / "outputs")
    (link,) = [link for link in Elements(client.get("/runs").text).links if "byte" in link]
    assert link == "/runs/byte%20%FF"
    assert key_of(folder) == "byte �"
    assert client.get(link).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/runs/../secret", "/runs/%2e%2e/secret", "/runs/..%2fsecret", "/runs/2026-01-02/10-00-00/../../../secret",
     "/runs/%2fetc", "/runs/2026-01-02", "/runs/linked", "/runs/2026-01-02/10-00-00/config.yaml"],
)  # fmt: skip
@pytest.mark.parametrize("end", ["", "/live.json", "/report.html"])
def test_nothing_outside_the_runs_is_served(client: TestClient, outputs: Path, path: str, end: str) -> None:
    secret = make_run(outputs.parent, "secret", finished=False)
    (secret / "report.html").write_text("secret words")
    (outputs / "linked").symlink_to(secret)
    answer = client.get(path + end)
    assert answer.status_code == 404
    assert "secret words" not in answer.text


def test_a_report_is_served_in_a_sandbox_and_no_link_in_its_place(client: TestClient, outputs: Path) -> None:
    run = RunDir(outputs / "2026-01-02/10-00-00")
    path = "/runs/2026-01-02/10-00-00/report.html"
    assert client.get(path).status_code == 404
    run.report.write_text("<script>words</script>")
    answer = client.get(path)
    assert answer.text == "<script>words</script>"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    (outputs.parent / "secret").write_text("secret words")
    run.report.unlink()
    run.report.symlink_to(outputs.parent / "secret")
    assert client.get(path).status_code == 404


def test_a_page_asks_again_and_gets_what_has_changed(client: TestClient, outputs: Path) -> None:
    run = RunDir(outputs / "2026-01-04/10-00-00")
    path = "/runs/2026-01-04/10-00-00/live.json"
    with work_in(run):
        first = client.get(path)
        assert first.json()["title"] == "running: resnet18"
        assert "epoch 3 of 10 is being trained" in first.json()["said"]
        assert "data-stop" in first.json()["parts"]["deeds"]
        known = {"if-none-match": first.headers["etag"]}
        again = client.get(path, headers=known)
        assert (again.status_code, again.content) == (304, b"")
        run.metrics.write_text(run.metrics.read_text() + "2,0.7,2\n")
        assert "epoch 4 of 10" in client.get(path, headers=known).json()["said"]
    ended = client.get(path, headers=known)
    assert ended.json()["said"].startswith("interrupted")
    assert not ended.json()["over"]
    assert f"train resume={run.path}" in ended.json()["parts"]["deeds"]


def test_the_list_is_sent_again_when_a_run_has_changed(client: TestClient, outputs: Path) -> None:
    first = client.get("/runs/list.json?sort=oldest")
    known = {"if-none-match": first.headers["etag"]}
    assert client.get("/runs/list.json?sort=oldest", headers=known).status_code == 304
    with work_in(RunDir(outputs / "2026-01-04/10-00-00")):
        assert "running" in client.get("/runs/list.json?sort=oldest", headers=known).json()["parts"]["rows"]


def test_a_training_is_stopped_and_trained_on(client: TestClient, outputs: Path) -> None:
    run = RunDir(outputs / "2026-01-04/10-00-00")
    path = "/runs/2026-01-04/10-00-00/stop"
    assert post(client, path, {"stop": True}).status_code == 409
    with work_in(run):
        bodies: list[object] = [{}, [], {"stop": "yes"}, "stop"]
        for body in bodies:
            assert post(client, path, body).status_code == 400
        assert post(client, path, {"stop": True}, **{"x-csrf-token": "wrong"}).status_code == 403
        assert post(client, path, {"stop": True}, origin="http://evil.example").status_code == 403
        assert client.get(path).status_code == 404  # the page of a run of this name
        assert not run.stop_request.exists()
        assert post(client, path, {"stop": True}).status_code == 200
        assert run.stop_request.exists()
        assert "a stop was requested" in client.get("/runs/2026-01-04/10-00-00").text
        assert post(client, path, {"stop": False}).status_code == 200
        assert not run.stop_request.exists()
        begin(run.path, model="svm")
        assert post(client, path, {"stop": True}).status_code == 409
        assert "A request to stop has no effect" in client.get("/runs/2026-01-04/10-00-00").text
    assert post(client, "/runs/2026-01-02/10-00-00/stop", {"stop": True}).status_code == 409
    assert post(client, "/runs/2026-01-02/99-00-00/stop", {"stop": True}).status_code == 404


def predict(folder: Path, predicted: Sequence[str], names: str = "abcdefghijkl") -> None:
    rows = [
        f"/data/test/{name}.png,cat,{label},0.9,0.1,,{0.9 if label == 'cat' else 0.1},{0.1 if label == 'cat' else 0.9}"
        for name, label in zip(names, predicted, strict=True)
    ]
    rows.append("/data/test/dog.png,dog,dog,0.9,0.1,,0.1,0.9")
    header = "path,true,predicted,confidence,loss,group,prob_cat,prob_dog"
    (folder / "evaluation/predictions.csv").write_text("\n".join([header, *rows]) + "\n")


def test_runs_are_compared_by_settings_metrics_and_the_same_images(client: TestClient, outputs: Path) -> None:
    one, other = outputs / "2026-01-02/10-00-00", outputs / "2026-01-02/11-00-00"
    predict(one, ["dog"] * 10 + ["cat"] * 2)
    predict(other, ["cat"] * 12)
    text = client.get("/runs/compare?run=2026-01-02/10-00-00&run=2026-01-02/11-00-00").text
    assert "resnet50:v1 is better than resnet18:v1: 10 images gained, 0 lost of 13 (McNemar p = 0.00195)" in text
    rows = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td></tr>", text)
    assert ("model", "resnet18", "resnet50") in rows
    assert ("balanced accuracy", "0.8000", "0.9000") in rows
    assert "seed" not in [name for name, *_ in rows]
    predict(other, ["cat"] * 12, names="abcdefghijkX")
    text = client.get("/runs/compare?run=2026-01-02/10-00-00&run=2026-01-02/11-00-00").text
    assert "lost of 12" in text
    assert "1 image of the larger test set" in text
    unfinished = client.get("/runs/compare?run=2026-01-02/10-00-00&run=2026-01-04/10-00-00").text
    assert "cannot be tested: no predictions of resnet18" in unfinished
    (other / "evaluation/predictions.csv").write_text("nonsense\n1\n")
    damaged = client.get("/runs/compare?run=2026-01-02/10-00-00&run=2026-01-02/11-00-00").text
    assert "the run folder is damaged" in damaged
    for query in ("", "?run=2026-01-02/10-00-00", "?run=x&run=y", "?" + "run=2026-01-02/10-00-00&" * 9):
        assert "choose from 2 to 8" in client.get(f"/runs/compare{query}").text


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_the_list_of_a_thousand_real_runs_is_quick(
    split_folder: Path, tmp_path: Path, train_here: Callable[[Sequence[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "trainer.max_epochs=2", "output=one"]).absolute()
    outputs = tmp_path / "outputs"
    report = Path("evaluation/classification_report.json")
    for number in range(1000):
        folder = (
            outputs / f"2026-01-{1 + number // 100:02d}" / f"{number % 100 // 60:02d}-{number % 60:02d}-00-{number:04d}"
        )
        (folder / report).parent.mkdir(parents=True)
        for path in (*run.iterdir(), run / report):
            # What the pages read is each run's own; weights are one file with a thousand names.
            if path.suffix in (".json", ".csv", ".yaml", ".log"):
                shutil.copyfile(path, folder / path.relative_to(run))
            elif path.is_file():
                os.link(path, folder / path.relative_to(run))
            elif path != (run / report).parent:
                (folder / path.name).mkdir()
    client = open_pages(outputs)
    times = []
    for _ in range(2):
        time.sleep(1.1)  # longer than what was found is trusted
        started = time.process_time()
        text = client.get("/runs").text
        times.append(time.process_time() - started)
        assert text.count('name="run"') == PAGE_ROWS
        assert "1,000 runs" in text
    started = time.process_time()
    assert json.loads(client.get("/runs/list.json?page=2").text)["parts"]["rows"].count('name="run"') == PAGE_ROWS
    times.append(time.process_time() - started)
    assert times[1] < 0.8 * times[0], "what was read is read again"
    assert max(times) < 10
