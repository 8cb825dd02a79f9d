"""Files of an S3 server: listed, fetched with retries, and kept on this disk."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import object_store
import pytest
from object_store import Faults, Proxy, S3Server

from classifier_training.core.errors import UserError
from classifier_training.core.storage import cache, objects, places
from classifier_training.data.remote import RemoteWalker, listed_once, listing
from classifier_training.data.walk import Walker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("train/cat/b 1.jpg", "train/cat/é#%?.jpg", "train/dog/a.jpg", "train/.hidden/x.jpg", "labels.csv", "Thumbs.db")


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """What every request to the server passes, with an empty cache."""
    made = Proxy(s3.port)
    for name, value in {**s3.environment, "AWS_ENDPOINT_URL": made.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "cache"))
    forget()
    yield made
    made.close()
    forget()


def forget() -> None:
    objects._open.cache_clear()
    cache.contents.cache_clear()
    cache.listings.__init__()  # type: ignore[misc] # as a new process has it


@pytest.fixture
def url(s3: S3Server, proxy: Proxy, folder: Path, tmp_path: Path) -> str:
    """The folder's copy on the server."""
    name = tmp_path.name
    s3.upload(folder, "units", name)
    return f"s3://units/{name}"


def test_a_listing_walks_as_the_local_folder(folder: Path, url: str, proxy: Proxy) -> None:
    local, remote = Walker(folder), RemoteWalker(places.path_of(url))
    assert [path.removeprefix(f"{url}/") for path in remote.files(remote.root)] == [
        path.removeprefix(f"{folder}/") for path in local.files(folder)
    ]
    assert [path.name for path in remote.folders(remote.root / "train")] == ["cat", "dog"]
    assert remote.loose_files(remote.root) == local.loose_files(folder) == ["labels.csv"]
    assert remote.holds(remote.root, "train/dog/a.jpg")
    assert not remote.holds(remote.root, "train/dog")
    assert sorted(remote.ignored) == [f"{url}/Thumbs.db", f"{url}/train/.hidden/x.jpg"]
    assert proxy.counts == {"list": 1}


def test_a_folder_is_listed_once_in_a_block(url: str, proxy: Proxy) -> None:
    with listed_once():
        assert listing(url) is listing(url)
    assert proxy.counts["list"] == 1
    assert list(listing(url).below("train/dog")) == ["train/dog/a.jpg"]
    assert proxy.counts["list"] == 2, "a later command sees what was added since"


def test_files_are_fetched_once_and_then_kept(folder: Path, url: str, proxy: Proxy) -> None:
    listing(url)
    wanted = [f"{url}/{name}" for name in NAMES]
    contents = [(folder / name).read_bytes() for name in NAMES]
    assert places.read_many(wanted) == contents
    assert proxy.counts == {"list": 1, "get": len(NAMES)}
    forget()
    assert places.read_many(wanted) == contents
    assert proxy.counts == {"list": 1, "get": len(NAMES)}, "neither a file nor its headers are asked for again"
    assert [facts and facts.num_bytes for facts in places.known(wanted)] == [len(content) for content in contents]


def test_busy_answers_and_cut_files_change_nothing(
    folder: Path, url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.01)
    listing(url)
    proxy.faults = Faults(busy=0.3, cut=0.2, short=0.2)
    for turn in range(50):
        found = objects.read_many([f"{url}/{name}" for name in NAMES])
        assert found == [(folder / name).read_bytes() for name in NAMES]
        cache.contents()._folder.rename(cache._folder() / f"old{turn}")
        if turn >= 4 and all(proxy.made[kind] for kind in ("busy", "cut", "short")):
            return
    pytest.fail(f"a kind of fault was never made: {proxy.made}")


@pytest.mark.parametrize(
    ("faults", "words"),
    [(Faults(busy=1), "answers 503"), (Faults(cut=1), "does not answer"), (Faults(short=1), "are listed")],
)
def test_a_store_that_stays_broken_stops_in_three_lines(
    url: str, proxy: Proxy, faults: Faults, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PATIENCE", 0.3)
    listing(url)
    proxy.faults = faults
    with pytest.raises(UserError, match=words) as caught:
        places.read_many([f"{url}/train/dog/a.jpg"])
    assert len(str(caught.value).splitlines()) == 3
    assert "train resume=RUN" in caught.value.remedy


def test_a_missing_file_has_its_error_in_its_place(url: str) -> None:
    listing(url)
    found = places.read_many([f"{url}/train/dog/a.jpg", f"{url}/none.jpg"])
    assert isinstance(found[0], bytes)
    assert isinstance(found[1], FileNotFoundError)


def test_a_file_that_changed_is_read_as_it_is_now(
    s3: S3Server, folder: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    listing(url)
    (folder / "labels.csv").write_bytes(b"new")
    s3.upload(folder, "units", url.rpartition("/")[2])
    objects._told.clear()
    assert places.read_bytes(f"{url}/labels.csv") == b"new"
    assert "has changed since it was listed" in caplog.text


def test_what_is_kept_stays_below_its_limit(tmp_path: Path) -> None:
    kept = cache.Contents(tmp_path, 100_000)
    for number in range(200):
        kept.put(f"s3://b/{number}", cache.Listed(1000, 1), bytes(1000))
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and path.name != "trim.lock"]
    assert 80_000 <= sum(sizes) <= 100_000
    assert kept.get("s3://b/199", cache.Listed(1000, 1)) == bytes(1000)
    assert kept.get("s3://b/199", cache.Listed(1000, 2)) is None, "another version is another file"
    assert kept.get("s3://b/0", cache.Listed(1000, 1)) is None, "the oldest went first"


def test_public_data_need_no_credentials(
    s3: S3Server, proxy: Proxy, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3.upload(folder, "public")
    s3.upload(folder, "private")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget()
    assert places.read_bytes("s3://public/labels.csv") == (folder / "labels.csv").read_bytes()
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        f"[team]\naws_access_key_id = {s3.environment['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {s3.environment['AWS_SECRET_ACCESS_KEY']}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "team")
    forget()
    assert places.read_bytes("s3://private/labels.csv") == (folder / "labels.csv").read_bytes()


def test_wrong_credentials_stop_in_three_lines(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    forget()
    with pytest.raises(UserError, match="403 SignatureDoesNotMatch") as caught:
        listing(url)
    assert "AWS_*" in caught.value.remedy


def test_files_are_read_in_a_notebook_whose_loop_is_running(folder: Path, url: str) -> None:
    async def cell() -> bytes:
        return places.read_bytes(f"{url}/labels.csv")

    assert asyncio.run(cell()) == (folder / "labels.csv").read_bytes()


def test_a_file_that_the_disk_has_no_room_for_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), cache._replaced(tmp_path / "a") as file:
        file.write(b"part")
        raise OSError("the disk is full")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_server_of_tests_starts_although_a_port_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    with socket.create_server(("127.0.0.1", 0)) as other:
        free, taken = object_store.free_port, other.getsockname()[1]
        ports = [taken]
        monkeypatch.setattr(object_store, "free_port", lambda: ports.pop() if ports else free())
        server = S3Server(tmp_path)
        assert server.port != taken
        server.kill()
        server.kill()  # what has ended is not an error
