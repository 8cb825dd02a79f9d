"""What `tune` found for a model on some data is used by the next `train` of both, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server import Ended

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose_values
from classifier_training.conf.tuned import experiment_name, places_of, save_experiment, without_tuned
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry

TRAIN = entry("verb", "train")


def values(*words: str) -> dict[str, Any]:
    return compose_values(TRAIN, words)


def save(name: str, *, root: str | None, lr: float = 0.5, model: str = "cnn_v1") -> Path:
    data = {"type": "digits"} if root is None else {"type": "auto", "root": root}
    best = {"optimizer.lr": lr, "model.dropout": 0.3, "scheduler": "one_cycle"}
    return save_experiment(name, model={"type": model}, data=data, best=best, words="a search")


def test_the_next_run_of_the_same_model_and_data_has_the_tuned_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = save("mine", root="rooms")
    for root in ("rooms", str(tmp_path / "rooms"), "./x/../rooms"):
        found = values("model=cnn_v1", f"data.root={root}", "seed=3", "data.image_size=32", "model.residual=true")
        assert (found["optimizer"]["lr"], found["scheduler"]["type"]) == (0.5, "one_cycle")
        assert (found["model"]["dropout"], found["seed"]) == (0.3, 3)
    said = f"tuned settings: scheduler=one_cycle, model.dropout=0.3, optimizer.lr=0.5 ({path}; without them: "
    assert f"{said}experiment=null)" in caplog.text
    assert values("model=cnn_v1", "data.root=/other/rooms")["optimizer"]["lr"] != 0.5
    assert values("model=cnn_v2", "data.root=rooms")["optimizer"]["lr"] != 0.5


def test_the_newest_search_counts_and_the_sample_has_its_own(caplog: pytest.LogCaptureFixture) -> None:
    import os

    os.utime(save("old", root=None, lr=0.1), (1, 1))
    save("new", root=None, lr=0.2)
    found = values("model=cnn_v1")
    assert found["optimizer"]["lr"] == 0.2
    assert (found["data"]["type"], found["trainer"]["max_epochs"]) == ("digits", 40)
    assert values("model=cnn_v1", "data=digits")["optimizer"]["lr"] == 0.2


@pytest.mark.parametrize("typed", ["recipe=none", "optimizer.lr=0.7", "optimizer=sgd", "scheduler=cosine"])
def test_settings_of_the_users_own_are_not_mixed_with_tuned_ones(typed: str, caplog: pytest.LogCaptureFixture) -> None:
    save("mine", root="rooms")
    words = ["model=cnn_v1", "data.root=rooms", typed]
    plain = {**values(*words, "experiment=null")}
    caplog.set_level("INFO")
    assert values(*words) == plain
    assert f"tuned settings: not used, since {typed.partition('=')[0]} is typed: experiment=mine" in caplog.text
    assert values(*words, "experiment=mine")["model"]["dropout"] == 0.3


def test_two_folders_of_one_name_have_experiments_of_their_own(tmp_path: Path) -> None:
    places = [places_of({"root": str(tmp_path / one / "images")}) for one in ("a", "b")]
    name = experiment_name("cnn_v1", "images", places[0])
    save(name, root=str(tmp_path / "a/images"))
    assert experiment_name("cnn_v1", "images", places[0]) == name == "tuned_cnn_v1_images"
    other = experiment_name("cnn_v1", "images", places[1])
    assert other.startswith(f"{name}_")
    save(other, root=str(tmp_path / "b/images"))
    assert experiment_name("cnn_v1", "images", places[1]) == other


def test_an_experiment_that_a_person_has_edited_is_used_or_named() -> None:
    path = save("mine", root="rooms")
    words = ["model=cnn_v1", "data.root=rooms"]
    path.write_text(path.read_text().replace("defaults:\n", "defaults:\n- _self_\n"))
    assert values(*words)["optimizer"]["lr"] == 0.5
    path.write_text(f"{path.read_text()}\n: [")
    with pytest.raises(UserError, match=r"mine\.yaml: the settings that tune found"):
        values(*words)
    assert values(*words, "experiment=null")["optimizer"]["lr"] != 0.5


def test_without_a_file_of_settings_is_a_choice_on_the_command_line_too(command: Callable[..., Ended]) -> None:
    save("mine", root="rooms")
    done = command("train", "model=cnn_v1", "data.root=rooms", "experiment=null")
    assert done.code == 2
    assert "rooms" in done.err
    assert "experiment" not in done.err
    assert "tuned" not in done.err


def test_many_runs_take_none_unless_told() -> None:
    save("mine", root="rooms")
    words = ["model=cnn_v1", "data.root=rooms"]
    assert values(*without_tuned(words))["optimizer"]["lr"] != 0.5
    assert values(*without_tuned([*words, "experiment=mine"]))["optimizer"]["lr"] == 0.5
