"""Files of a web server's folders and of a server that speaks the protocol of the Hugging Face Hub."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from classifier_training.core.errors import UserError
from classifier_training.core.storage import objects, places
from classifier_training.core.storage.objects import split_url
from classifier_training.core.storage.stores import IndexPage
from classifier_training.data.remote import listing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG_AGO = "Tue, 01 Jan 2019 00:00:00 GMT"
NAMES = ("train/cat/b 1.jpg", "train/cat/é#%.jpg", "train/dog/a.jpg", "labels.csv")


@contextmanager
def served(handler: object) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Stay silent."""


def test_a_url_is_split_into_its_store_and_the_path_in_it() -> None:
    assert split_url("s3://bucket/a/b.jpg") == ("s3://bucket", "a/b.jpg")
    assert split_url("s3://bucket") == ("s3://bucket", "")
    assert split_url("hf://datasets/owner/name@v1/a/b.jpg") == ("hf://datasets/owner/name@v1", "a/b.jpg")
    assert split_url("hf://owner/name/a.jpg") == ("hf://owner/name", "a.jpg")


def test_the_folders_of_a_web_server_are_listed_and_read(folder: Path) -> None:
    pytest.importorskip("obstore")
    with served(functools.partial(Quiet, directory=str(folder.parent))) as place:
        url = f"http://{place}/set"
        assert sorted(listing(url).below()) == sorted(NAMES)
        assert places.read_many([f"{url}/{name}" for name in NAMES]) == [(folder / name).read_bytes() for name in NAMES]
        (missing,) = places.read_many([f"{url}/none.jpg"])
        assert isinstance(missing, FileNotFoundError)
        with pytest.raises(UserError, match="no such folder"):
            listing(f"{url}/nothing")


def test_files_under_way_when_the_first_is_refused_are_read_in_the_role_of_the_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    refused = threading.Barrier(len(NAMES))
    role = {"Code": "Success", "AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "token"}

    class Cloud(Quiet):
        """A private bucket, and the service that tells a machine the credentials of its role."""

        def do_PUT(self) -> None:
            self.answer(200, b"session")

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/latest/meta-data"):
                last = path.endswith("/reader")
                expiry = {"Expiration": "2999-01-01T00:00:00Z"}
                self.answer(200, json.dumps({**role, **expiry}).encode() if last else b"reader")
            elif "Authorization" in self.headers:
                self.answer(200, (folder.parent / path.removeprefix("/bucket/")).read_bytes())
            else:
                refused.wait(20)
                self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")

        def answer(self, code: int, content: bytes) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), "ETag": '"1"', "Last-Modified": LONG_AGO}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(folder / "none"))
    with served(Cloud) as place:
        for name in ("AWS_ENDPOINT_URL", "AWS_METADATA_ENDPOINT"):
            monkeypatch.setenv(name, f"http://{place}")
        objects._open.cache_clear()
        found = places.read_many([f"s3://bucket/set/{name}" for name in NAMES])
    objects._open.cache_clear()
    assert found == [(folder / name).read_bytes() for name in NAMES]


def test_a_server_that_is_not_there_stops_in_three_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setattr(objects, "LIST_PATIENCE", 0.2)
    with pytest.raises(UserError, match="does not answer") as caught:
        listing("http://127.0.0.1:9/set")
    assert len(str(caught.value).splitlines()) == 3


def test_links_of_a_page_that_lead_elsewhere_are_no_files() -> None:
    # As nginx and Apache write them: a link to the folder above, and links that sort the table.
    page = IndexPage("http://host/set/")
    page.feed(
        '<h1>Index</h1><a href="../">../</a><a href="?C=N;O=D">Name</a><a href="/set/">set</a>'
        '<a href="cat/">cat/</a>  29-Nov-2026 05:22  -\n<a href="/set/a%20b.jpg">a b.jpg</a> 29-Nov-2026 05:22  1000\n'
        '<a href="http://other/set/x.jpg">x</a><a href="cat/deep.jpg">deep</a>'
    )
    found = {name: " ".join(words.split()) for name, words in page.links.items()}
    assert found == {"cat/": "29-Nov-2026 05:22 -", "a b.jpg": "29-Nov-2026 05:22 1000"}


READ = """
import sys
from classifier_training.core.storage import places
from classifier_training.data.remote import listing
names = list(listing("hf://datasets/owner/name/set").below())
contents = places.read_many([f"hf://datasets/owner/name/set/{name}" for name in names])
print(names, [len(content) for content in contents], [facts.num_bytes for facts in
    places.known([f"hf://datasets/owner/name/set/{name}" for name in names])])
print(places.read_many(["hf://datasets/owner/name/set/none.jpg"]))
"""


def test_a_data_set_of_a_hub_is_listed_and_read(folder: Path) -> None:
    asked: list[str] = []

    class Hub(Quiet):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            if path == "/api/datasets/owner/name/tree/main/set":
                rows = [
                    {
                        "type": "file",
                        "path": f"set/{name}",
                        "size": (folder / name).stat().st_size,
                        "oid": f"{name:>40}",
                    }
                    for name in NAMES
                ]
                self.answer(
                    200, json.dumps([{"type": "directory", "path": "set/train", "oid": "0" * 40}, *rows]).encode()
                )
                return
            file = folder.parent / path.removeprefix("/datasets/owner/name/resolve/main/")
            is_there = path.startswith("/datasets/owner/name/resolve/main/") and file.is_file()
            self.answer(200 if is_there else 404, file.read_bytes() if is_there else b"")

        def answer(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            if code == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            self.wfile.write(content)

    with served(Hub) as place:
        done = subprocess.run(
            [sys.executable, "-c", READ],
            env={**os.environ, "HF_ENDPOINT": f"http://{place}", "HF_HUB_OFFLINE": "0"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = ["labels.csv", "train/cat/b 1.jpg", "train/cat/é#%.jpg", "train/dog/a.jpg"]
    sizes = [(folder / name).stat().st_size for name in names]
    assert done.stdout.splitlines()[0] == f"{names} {sizes} {sizes}"
    assert "FileNotFoundError" in done.stdout
    assert sum("/tree/" in path for path in asked) == 1
    assert sum("/resolve/" in path for path in asked) == len(NAMES) + 1
