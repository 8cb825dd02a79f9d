from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import sha256
from classifier_training.data import cache_folder
from classifier_training.data.sample_sets.builders import FULL_SIZE, Jerseys, Slides, plan_jerseys, tail_counts
from classifier_training.data.sample_sets.screens import KINDS, SIZE, draw_screen
from classifier_training.data.splitting.groups import assign_groups


def test_the_tail_is_2530_to_4_at_full_size_and_the_same_shape_when_small() -> None:
    assert tail_counts(FULL_SIZE) == [2530, 864, 295, 101, 34, 12, 4]
    for number in (60, 200, 1000):
        counts = tail_counts(number)
        assert sum(counts) == number
        assert counts[-1] == 4
        assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_screen_follows_from_its_seed_alone_and_from_nothing_else(kind: str) -> None:
    first = np.asarray(draw_screen(kind, seed=3, talk=1, number=5))
    assert first.shape == (SIZE[1], SIZE[0], 3)
    assert (first == np.asarray(draw_screen(kind, seed=3, talk=1, number=5))).all()
    others = (draw_screen(kind, seed=3, talk=1, number=number) for number in (6, 7, 8))
    assert any((first != np.asarray(other)).any() for other in others)


def test_slides_are_made_once_in_folders_of_talks() -> None:
    source = Slides(num_images=60, width=64)
    index = source.read()
    assert Counter(sample.label for sample in index.samples) == dict(zip(KINDS, tail_counts(60), strict=True))
    assert {Image.open(index.root / sample.path).size for sample in index.samples} == {(64, 36)}
    talks = {sample.group for sample in assign_groups(index, "parent").samples}
    assert talks == {"talk_000", "talk_001", "talk_002", "talk_003"}
    before = (index.root / index.samples[0].path).stat().st_mtime_ns
    assert source.read() == index
    assert (index.root / index.samples[0].path).stat().st_mtime_ns == before


def test_a_folder_that_was_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path))
    index = Jerseys(num_images=100).read()
    first = sha256(index.root)
    (index.root / cache_folder.MARKER).unlink()
    (index.root / index.samples[0].path).unlink()
    assert sha256(Jerseys(num_images=100).read().root) == first
    assert [path.name for path in (tmp_path / "samples").iterdir()] == [index.root.name]


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path))

    def fill(folder: Path) -> dict[str, int]:
        (folder / "a.png").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        cache_folder.cached_folder("full", fill)
    assert not list((tmp_path / "samples").iterdir())


def test_processes_draw_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for cores in (1, 2):
        monkeypatch.setattr(cache_folder, "num_cores", lambda cores=cores: cores)
        monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / str(cores)))
        folders.append(Jerseys(num_images=100).read().root)
    assert sha256(folders[0]) == sha256(folders[1])


def test_jerseys_come_in_jsonl_with_players_on_one_side_and_an_empty_label() -> None:
    index = Jerseys(num_images=100).read()
    assert index.present_splits() == {"train", "val", "test"}
    for split in ("train", "val", "test"):
        assert {sample.label for sample in index.samples if sample.split == split} == {
            "", "1", "4", "7", "8", "9", "10", "11", "17", "23",
        }  # fmt: skip
    grouped = assign_groups(index, "metadata.player").samples
    sides = {(sample.group, sample.split) for sample in grouped}
    assert len(sides) == len({group for group, _ in sides}) == 50
    assert all((sample.metadata or {}).keys() == {"player", "match", "shot"} for sample in grouped)


def test_sets_of_any_size_have_the_same_players() -> None:
    small, large = (plan_jerseys(Path("/x"), number, 0) for number in (100, 300))
    assert {job.player for job in small} == {job.player for job in large}
    assert len(large) == 300
