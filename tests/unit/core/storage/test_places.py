"""What a path is: local, remote, or a row of a set."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from classifier_training.core.settings import absolute
from classifier_training.core.storage import places
from classifier_training.core.storage.places import RemotePath, is_local, is_remote, path_of


@pytest.mark.parametrize("url", ["s3://bucket/set", "gs://b/x", "az://c/x", "hf://datasets/o/n", "https://h:8080/x"])
def test_urls_survive_the_handling_of_paths(url: str) -> None:
    assert is_remote(url)
    assert is_remote(Path(url)), "pathlib joins two slashes"
    assert absolute(f"{url}/") == url
    path = path_of(url)
    assert str(path) == url
    assert str(path / "train/cat/1.jpg") == f"{url}/train/cat/1.jpg"
    assert (path / "train").relative_to(path).as_posix() == "train"
    assert (path / "train").is_relative_to(path)
    assert str((path / "labels.csv").parent) == url
    assert (path / "labels.CSV").suffix == ".CSV"
    assert str(path.resolve()) == str(path.absolute()) == str(path.expanduser()) == url
    assert pickle.loads(pickle.dumps(path)) == path


def test_local_paths_are_what_they_were(tmp_path: Path) -> None:
    assert is_local(tmp_path)
    assert type(path_of(str(tmp_path))) is type(tmp_path)
    assert not is_remote("C:/images")
    assert not is_remote("images/s3:/x")


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/set", "https://user:secret@host/set", "https://host/set?X-Amz-Signature=secret"]
)
def test_addresses_with_secrets_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ValueError, match="was given with a password or a signature") as caught:
        absolute(url)
    assert "secret" not in str(caught.value)


def test_nothing_is_written_under_the_name_of_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="only read"):
        RemotePath("s3://bucket/set").mkdir(parents=True)
    with pytest.raises(OSError, match="only read"):
        RemotePath("s3://bucket/set/a.txt").open("w")
    assert list(tmp_path.iterdir()) == []


def test_local_files_are_read_in_their_order_with_errors_in_their_places(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(b"second")
    found = places.read_many([tmp_path / "b", tmp_path / "missing", tmp_path / "a"])
    assert found[0] == b"second"
    assert isinstance(found[1], FileNotFoundError)
    assert found[2] == b"first"
    (facts, nothing) = places.known([tmp_path / "a", tmp_path / "missing"])
    assert facts == (5, (tmp_path / "a").stat().st_mtime_ns)
    assert nothing is None
