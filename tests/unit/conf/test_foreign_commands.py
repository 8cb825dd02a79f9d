"""Whole commands of other programs, and the one that does the same."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.foreign_commands import joined, refuse_foreign, translate
from classifier_training.core.errors import UserError


@pytest.mark.parametrize(
    ("typed", "here"),
    [
        ("yolo classify train data=/x model=yolov8n-cls.pt epochs=9", "train data.root=/x trainer.max_epochs=9"),
        ("yolo mode=train task=classify data=/x", "train data.root=/x"),
        ("yolo classify predict model=best.pt source=a.jpg conf=0.5", "predict run=latest source=a.jpg threshold=0.5"),
        ("val model=outputs/a", "evaluate run=outputs/a"),
        ("python train.py --fast_mode --force_fresh", "train data.batch_size=96 data.num_workers=6"),
        ("python train_opencv.py", "train transforms.backend=opencv"),
        ("inference.py --show_probabilities", "predict probabilities=true source=test"),
        ("docker exec -d app python -m src.predict md=a", "predict run=a source=input output=out"),
        ("docker exec app python -m src.predict md=a file=b.jpg", "predict run=a source=b.jpg output=out"),
        ("python train_models.py shallow --data_path /x --epochs 100", "train model=svm data.root=/x"),
        ("train_models.py deep-v2 --architecture densenet", "train model=cnn_v2 model.kind=dense"),
        ("python scripts/production_trainer.py --model_type transfer --variation vgg16", "train model=vgg16"),
        ("python scripts/cleanup_production.py --old-versions --keep 3", "registry cleanup apply=true keep=3"),
        (
            "python scripts/train_all_production_models.py --auto-cleanup --cleanup-old-versions 3",
            "compare cleanup=true keep=3",
        ),
        ("train_models.py list", "models"),
        ("train_models.py install deep-v2", "info"),
        ("yolo help", "--help"),
        ("yolo", "--help"),
        ("python train.py /x -b 64 --input-size 3 224 224", "train /x data.batch_size=64 data.image_size=224"),
    ],
)
def test_a_command_of_another_program_has_a_counterpart(typed: str, here: str) -> None:
    assert translate(shlex.split(typed)) == f"classifier-training {here}"
    with pytest.raises(UserError) as raised:
        refuse_foreign(shlex.split(typed))
    assert raised.value.remedy == f"classifier-training {here}"


@pytest.mark.parametrize("typed", ["train data.root=/x", "trian", "nonsense 5", ""])
def test_a_verb_and_a_word_of_nobody_are_left_alone(typed: str) -> None:
    assert translate(typed.split()) is None


def test_a_folder_that_scripts_look_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert translate(["train.py"]) == "classifier-training train"
    Path("dataset").mkdir()
    assert translate(["train.py"]) == "classifier-training train data.root=dataset"
    assert translate(["train.py", "--data_dir", "other"]) == "classifier-training train data.root=other"
    assert translate(["train.py", "other"]) == "classifier-training train other"


def test_detection_is_told_from_classification() -> None:
    with pytest.raises(UserError, match="finds objects"):
        translate(["yolo", "detect", "train", "data=coco8.yaml"])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--input-size 3 224 224 --lr 1", "--input-size=3x224x224 --lr 1"),
        ("--scale 0.08 1.0", "--scale=[0.08,1.0]"),
        ("--models a b --epochs 5", "--models=[a,b] --epochs 5"),
        ("--models a epochs=5", "--models=a epochs=5"),
        ("--mean 0.5", "--mean 0.5"),
        ("data.root=/x --lr 1", "data.root=/x --lr 1"),
    ],
)
def test_values_of_one_flag_are_joined(typed: str, words: str) -> None:
    assert joined(typed.split()) == words.split()
