from __future__ import annotations

from pathlib import Path

import pytest

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir, write_csv, write_json
from classifier_training.core.run_reader import DamagedFileError, RunReader, read_rows, read_values


def test_what_a_run_left_is_read_and_what_is_missing_is_empty(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.config.write_text("seed: 3\nmodel:\n  type: resnet18\n")
    write_json(run.model_info, {"model_architecture": "resnet18", "training_info": {"weights": None}})
    write_csv(run.metrics, ["epoch", "epoch_seconds"], [[0, 1.5], [1, 2.5]])
    reader = RunReader(run)
    assert reader.config == {"seed": 3, "model": {"type": "resnet18"}}
    assert (reader.architecture, reader.start) == ("resnet18", "random weights")
    assert [row["epoch"] for row in reader.epochs] == ["0", "1"]
    assert reader.train_seconds == 4.0
    assert reader.result == reader.versions == reader.statistics == reader.scores == {}


def test_an_empty_folder_says_nothing(tmp_path: Path) -> None:
    reader = RunReader(RunDir(tmp_path))
    assert reader.epochs == []
    assert reader.train_seconds is None
    assert (reader.architecture, reader.start) == ("", "")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("model_info.json", b"{", "no JSON of ours: Expecting property name"),
        ("result.json", b"\xff", "no JSON of ours: 'utf-8' codec"),
        ("versions.json", b"[]", "no table of settings or results"),
        ("config.yaml", b"a: [", "no YAML of ours: "),
        ("config.yaml", b"!!python/object/apply:os.getcwd []", "no YAML of ours: could not determine a constructor"),
        ("config.yaml", b"", "no table of settings or results"),
    ],
)
def test_a_damaged_file_is_named_with_what_it_is(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"damaged \(") as caught:
        read_values(tmp_path / name)
    assert caught.value.path == tmp_path / name
    assert caught.value.found.startswith(found)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        _ = RunReader(RunDir(tmp_path)).result
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "metrics.csv")
