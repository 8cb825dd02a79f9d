"""Words of other programs: those that are accepted, those that are answered, and those that nobody knows."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from classifier_training import cli
from classifier_training.conf.aliases import names_of, resolve, short_words
from classifier_training.conf.foreign_values import ForeignWordError, foreign_words
from classifier_training.core.errors import UserError
from classifier_training.core.register import VERB, Entry, entries, entry
from classifier_training.core.settings import Alias


def verb_of(name: str) -> Entry:
    group, _, sub = name.rpartition(" ")
    return entry(group or VERB, sub)


@pytest.mark.parametrize(
    ("verb", "word", "settings"),
    [
        ("train", "epochs=5", "trainer.max_epochs=5"),
        ("train", "num-epochs=5", "trainer.max_epochs=5"),
        ("train", "lr0=0.1", "optimizer.lr=0.1"),
        ("train", "learning_rate=auto", "optimizer.lr=auto"),
        ("train", "bs=16", "data.batch_size=16"),
        ("train", "batch=-1", "data.batch_size=auto"),
        ("train", "imgsz=64", "data.image_size=64"),
        ("train", "input-size=3x224x224", "data.image_size=224"),
        ("train", "data_dir=/my/images", "data.root=/my/images"),
        ("train", "data=/my/images", "data.root=/my/images"),
        ("train", "data=mnist160", "data=torchvision data.name=MNIST"),
        ("train", "device=0", "trainer.accelerator=cuda"),
        ("train", "device=[0,1]", "trainer.accelerator=cuda trainer.num_devices=2"),
        ("train", "patience=5", "callbacks.early_stopping.patience=5"),
        ("train", "time_limit=600", "time=600"),
        ("train", "wd=0.1", "optimizer.weight_decay=0.1"),
        ("train", "amp=False", "trainer.precision=32"),
        ("train", "precision=fp16", "trainer.precision=16-mixed"),
        ("train", "no_aug=True", "transforms=none"),
        ("train", "no_aug=False", ""),
        ("train", "model=convnext_tiny", "model=torchvision model.name=convnext_tiny"),
        ("train", "arch=vit_base_patch16_224", "model=timm model.name=vit_base_patch16_224"),
        ("train", "model.model_name=google/vit-base", "model=huggingface model.name=google/vit-base"),
        ("train", "optimizer=AdamW", "optimizer=adamw"),
        ("train", "eval_metric=accuracy", "monitor=val/acc_top1"),
        ("train", "resume=True", "resume=latest"),
        ("train", "device=1,0", "trainer.accelerator=cuda trainer.num_devices=2"),
        ("train", "resume=outputs/a/checkpoints/last.ckpt", "resume=outputs/a"),
        ("train", "transforms.rotate=10", "transforms.rotation_degrees=10"),
        ("train", "label_smoothing=0.1", "loss.label_smoothing=0.1"),
        ("train", "mixup=0.2", "transforms.mixup=0.2"),
        ("predict", "input=photos", "source=photos"),
        ("predict", "md=outputs/a", "run=outputs/a"),
        ("predict", "data-dir=photos", "source=photos"),
        ("predict", "data=photos", "source=photos"),
        ("distill", "data=/my/images", "data.root=/my/images"),
        ("models", "batch=8", "batch_size=8"),
        ("benchmark", "batch=8", "batch_sizes=8"),
        ("predict", "device=cpu", "trainer.accelerator=cpu"),
        ("predict", "batch=8", "data.batch_size=8"),
        ("evaluate", "model=outputs/a", "run=outputs/a"),
        ("evaluate", "split=valid", "split=val"),
        ("export", "half=True", "quantization=fp16"),
        ("export", "opset=13", "format.onnx.opset=13"),
        ("compare", "datasets=pets", "data=pets"),
        ("compare", "parallel_jobs=2", "jobs=2"),
        ("compare", "epochs=5", "trainer.max_epochs=5"),
        ("compare", "models=[convnext_tiny,resnet18]", "models=[torchvision:convnext_tiny,resnet18]"),
        ("tune", "n_trials=30", "trials=30"),
        ("registry cleanup", "failed-runs=true", "failed=true"),
    ],
)
def test_a_word_of_one_meaning_is_accepted(verb: str, word: str, settings: str) -> None:
    key, _, value = word.partition("=")
    found = resolve(verb_of(verb), key, value)
    assert found is not None
    assert " ".join(f"{name}={given}" for name, given in found) == settings


@pytest.mark.parametrize(
    ("verb", "word", "instead"),
    [
        ("train", "iou=0.7", ""),
        ("train", "exist_ok=True", ""),
        ("train", "freeze=10", "transfer=lp_ft transfer.frozen_share=0.5"),
        ("train", "device=1", "trainer.accelerator=cuda"),
        ("train", "gpu=2", "trainer.accelerator=cuda"),
        ("train", "device=2,3", "trainer.accelerator=cuda trainer.num_devices=2"),
        ("train", "scale=1e-1", "transforms.crop_scale=0.9"),
        ("train", "imgsz=[480,640]", "data.image_size=640"),
        ("train", "model=yolov8n-cls.pt", ""),
        ("train", "data=coco8.yaml", "data.root=FOLDER"),
        ("train", "model.num_classes=10", ""),
        ("train", "model=deep_v1", "model=cnn_v1"),
        ("train", "model_name=slides.pth", "name=slides"),
        ("train", "monitor=val/acc", "monitor=val/acc_top1"),
        ("train", "trainer=cuda", "trainer=gpu"),
        ("train", "optimizer=Adam", "optimizer=adamw"),
        ("train", "optimizer=RMSProp", "optimizer=timm optimizer.name=rmsprop"),
        ("train", "resume=models/x.pth", "model.weights=models/x.pth"),
        (
            "train",
            "resume=a/slides_mobilenetv4_opencv.pth",
            "model=mobilenetv4_conv_medium model.weights=a/slides_mobilenetv4_opencv.pth",
        ),
        ("train", "model=best_resnet50.pt", "model=resnet50 model.weights=best_resnet50.pt"),
        ("train", "color-jitter=0.4", "transforms.brightness=0.4 transforms.contrast=0.4 transforms.saturation=0.4"),
        ("train", "val-split=validation", ""),
        ("predict", "conf=0.5", "threshold=0.5"),
        ("predict", "model=best.pt", "run=latest"),
        ("export", "imgsz=64", ""),
        ("export", "format=int8", "quantization=int8"),
        ("export", "format=tensorflow", "format=saved_model"),
        ("compare", "models=[deep_v1,deep_v2]", "models=[cnn_v1,cnn_v2]"),
        ("registry cleanup", "old-versions=true", ""),
    ],
)
def test_a_word_of_another_meaning_is_answered(verb: str, word: str, instead: str) -> None:
    key, _, value = word.partition("=")
    with pytest.raises(ForeignWordError) as raised:
        resolve(verb_of(verb), key, value)
    assert " ".join(raised.value.instead) == instead
    assert raised.value.came.startswith(word)
    assert shlex.split(raised.value.remedy) == (instead or "leave it out").split()


def test_a_missing_file_in_a_run_folder_is_answered_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs/a").mkdir(parents=True)
    Path("outputs/a/config.yaml").touch()
    with pytest.raises(ForeignWordError, match="there is no file outputs") as raised:
        resolve(verb_of("predict"), "model", "outputs/a/best.pt")
    assert raised.value.instead == ("run=outputs/a",)


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        ("train", "trainer.max_epochs=5"), ("train", "model=resnet18"), ("train", "model=resnet81"),
        ("train", "data=digits"), ("train", "data=nonsense"), ("train", "nonsense=1"), ("train", "mode=train"),
        ("train", "monitor=val/loss"),
        ("train", "optimizer=sgd"), ("train", "resume=outputs/a"), ("train", "transforms.nonsense=1"),
        ("predict", "epochs=5"), ("predict", "source=photo.jpg"), ("compare", "models=all"), ("export", "format=onnx"),
        ("registry list", "model=resnet"),
    ],
)  # fmt: skip
def test_a_setting_and_a_word_of_nobody_are_left_alone(verb: str, word: str) -> None:
    key, _, value = word.partition("=")
    assert resolve(verb_of(verb), key, value) is None


@pytest.mark.parametrize(
    ("verb", "key", "found"),
    [
        ("train", "epochs", [("trainer.max_epochs", None)]),
        ("train", "no-aug", [("transforms", "none")]),
        ("train", "amp", [("trainer.precision", "auto")]),
        ("train", "iou", [("iou", None)]),
        ("train", "nonsense", None),
        ("predict", "show_probabilities", [("probabilities", None)]),
    ],
)
def test_a_word_without_its_value_says_whether_it_waits_for_one(
    verb: str, key: str, found: list[tuple[str, str | None]] | None
) -> None:
    assert resolve(verb_of(verb), key, None) == found


def test_a_switch_without_a_meaning_is_answered_at_once() -> None:
    with pytest.raises(UserError, match="leave it out"):
        resolve(verb_of("train"), "force-fresh", None)


def test_a_data_set_of_the_framework_in_docker_is_found_where_it_kept_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(verb_of("train"), "ds", "EXAMS") == [("data.root", "EXAMS")]
    Path("data/raw_data/EXAMS").mkdir(parents=True)
    assert resolve(verb_of("train"), "ds", "EXAMS") == [("data.root", "data/raw_data/EXAMS")]


def test_a_preset_of_the_users_own_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf/trainer").mkdir(parents=True)
    Path("conf/trainer/cuda.yaml").write_text("defaults:\n  - default\n")
    assert resolve(verb_of("train"), "trainer", "cuda") is None


def test_each_entry_of_the_table_stands_for_settings_that_there_are() -> None:
    verbs = [item for item in entries() if item.is_verb]
    words = foreign_words()
    for target in [*words["accepted"], *(switch.partition("=")[0] for switch in words["switches"].values())]:
        assert any(verb.settings_at(target) for verb in verbs), target
    for told in words["answered"]:
        for typed in told.get("here", "").split():
            key = typed.partition("=")[0]
            assert any(verb_of(verb).settings_at(key) for verb in told.get("verbs", ["train"])), typed
    for group, names in words["names"].items():
        offered = {item.name for item in entries(group)} | {path.stem for path in presets(group)}
        # A word with an equals sign is a setting, as quantization=int8 is for format=int8.
        meant = [word for name in names.values() for word in name.split()]
        settings = {word.partition("=")[0] for word in meant if "=" in word}
        assert all(any(verb.settings_at(key) for verb in verbs) for key in settings), group
        assert offered >= {word for word in meant if word != "none" and "=" not in word}, group
        assert not set(names) & offered - {"transfer"}, group


def presets(group: str) -> list[Path]:
    return list((Path(cli.__file__).parent / "conf" / group).glob("*.yaml"))


def test_no_word_that_a_setting_says_of_itself_is_repeated() -> None:
    table = foreign_words()["accepted"]
    for verb in (item for item in entries() if item.is_verb):
        for target, words in table.items():
            marks = [mark for option in verb.settings_at(target) if (mark := option.mark(Alias))]
            assert not {word for mark in marks for word in mark.words} & set(words), (verb.command, target)


def test_the_help_shows_the_first_alias() -> None:
    assert names_of(verb_of("train"), "trainer.max_epochs") == ["epochs"]
    assert names_of(verb_of("train"), "seed") == []
    assert {"epochs", "imgsz", "bs", "device"} <= set(short_words(verb_of("train")))
    assert short_words(verb_of("predict")) == ["batch", "bs", "device"]
