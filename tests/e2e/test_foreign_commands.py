"""What people type who come from other programs: each line runs, or is answered with a command that runs.

`foreign_commands.csv` has a line for each: the kind of system, the command there, the words that are typed here in that
habit, and the command that they come to. Where the last two are the same the words run as they are; otherwise they are
answered with it. All are composed and their arguments validated; some are run.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conftest import make_class_folders, read_csv

from classifier_training import cli
from classifier_training.conf.command_line import read_words
from classifier_training.conf.compose import compose
from classifier_training.conf.foreign_commands import translate
from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Ended

PROGRAM = "classifier-training"
TABLE = read_csv(Path(__file__).with_name("foreign_commands.csv"))
DOCUMENT = Path(__file__).parents[2] / "docs/coming-from.md"
FILES = ("photo.jpg", "clip.mp4", "photos/a.jpg", "test/a.jpg", "input/a.jpg")


@pytest.fixture(autouse=True)
def files_that_the_table_names(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()


def understand(words: list[str]) -> None:
    """Compose a command and validate its arguments, as the program does before it runs.

    Raises:
        UserError: when it is wrong.
    """
    if words == ["--help"]:
        return
    verb, settings = cli.find_verb(words)
    # No run that could be resumed is here.
    composed(verb.command, tuple(word for word in read_words(verb, settings) if not word.startswith("resume=")))


@functools.cache
def composed(command: str, overrides: tuple[str, ...]) -> None:
    verb, _ = cli.find_verb(command.split())
    if verb.name == "train" and "model=svm" not in overrides:
        # Which recipe the network takes is not looked at, and takes as long again.
        overrides = (*overrides, "recipe=none")
    try:
        compose(verb, overrides)
    except UserError as error:
        # LiteRT needs an older PyTorch than the tests have; see `APART`.
        if "format=litert" not in overrides or "the optional extra" not in error.expected:
            raise


def obeyed(typed: str, error: UserError) -> str:
    """Return the command that an error says to type: all of it, or the word instead of the wrong one."""
    remedy = error.remedy.partition("   ")[0]
    if PROGRAM in remedy:
        return re.sub(rf"{PROGRAM} ", "", remedy)
    words, new = shlex.split(typed), shlex.split(remedy)
    wrong = error.came.partition(":")[0]
    place = next(place for place, word in enumerate(words) if word == wrong or wrong.endswith(f".{word}"))
    return shlex.join([*words[:place], *new, *words[place + 1 :]])


def without_environment(command: str) -> list[str]:
    words = shlex.split(command)
    while words[0].isupper() or re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["typed"])
def test_the_words_run_or_are_answered_with_a_command_that_runs(row: dict[str, str]) -> None:
    command = row["typed"]
    try:
        understand(shlex.split(command))
    except UserError as error:
        command = obeyed(command, error)
        assert command != row["typed"]
    assert command == row["command"]
    understand(without_environment(command))


IN_SHELLS = [row for row in TABLE if re.match(r"(yolo|python|docker|pixi) ", row["there"])]
ANSWERED = [row for row in IN_SHELLS if not row["there"].startswith(("yolo detect", "pixi run train"))]


@pytest.mark.parametrize("row", ANSWERED, ids=lambda row: row["there"])
def test_a_whole_command_of_another_program_is_answered_with_one_that_runs(row: dict[str, str]) -> None:
    found = translate(shlex.split(row["there"]))
    assert found is not None
    words = shlex.split(found.removeprefix(PROGRAM).strip())
    assert words[:1] == without_environment(row["command"])[:1]
    verb, settings = cli.find_verb(words) if words != ["--help"] else (None, [])
    for override in read_words(verb, settings) if verb is not None else []:
        key = override.partition("=")[0]
        assert verb is not None
        assert verb.settings_at(key) or key in ("experiment", "recipe"), override


def test_the_table_has_lines_of_each_kind_of_system() -> None:
    counts = Counter(row["system"] for row in TABLE)
    assert sum(counts.values()) >= 120
    assert min(counts.values()) >= 4
    assert len({row["there"] for row in TABLE}) == len(TABLE)


NEAR = [
    ("train data.root=/my/images trainer.max_time=5min", "train data.root=/my/images trainer.max_time=5m"),
    ("train data.root=/my/images time='5 minutes'", "train data.root=/my/images time=5m"),
    ("train data.root=/my/images val_fraction=20%", "train data.root=/my/images data.val_fraction=0.2"),
    ("train data.root=/my/images data.val_fraction=0,2", "train data.root=/my/images data.val_fraction=0.2"),
    ("train data.root=/my/images data.image_size=224x224", "train data.root=/my/images data.image_size=224"),
    ("train data.root=/my/images data.image_size=[480,640]", "train data.root=/my/images data.image_size=640"),
    ("train data.root=/my/images trainer=cuda", "train data.root=/my/images trainer=gpu"),
    ("train data.root=/my/images monitor=val/acc", "train data.root=/my/images monitor=val/acc_top1"),
    ("train data.root=/my/images optimizer=Adam", "train data.root=/my/images optimizer=adamw"),
    ("train data.root=/my/images momentum=0.9", "train data.root=/my/images optimizer=sgd optimizer.momentum=0.9"),
    ("train data.root=/my/images loss.gamma=2", "train data.root=/my/images loss=focal loss.gamma=2"),
    ("train data.root=/my/images model=resnet5", "train data.root=/my/images model=resnet50"),
    (
        "train data.root=/my/images model=convnext_tinny",
        "train data.root=/my/images model=torchvision model.name=convnext_tiny",
    ),
    ("train data=rooms", "train data.root=rooms"),
    ("train data.root=/my/images experiment=first", "train data.root=/my/images name=first"),
]
"""A command with a wrong value or key, and the one that its answer says to type."""


@pytest.mark.parametrize(("typed", "right"), NEAR)
def test_the_answer_to_a_wrong_value_can_be_obeyed(typed: str, right: str) -> None:
    with pytest.raises(UserError) as raised:
        understand(shlex.split(typed))
    command = obeyed(typed, raised.value)
    assert shlex.split(command) == shlex.split(right)
    understand([word for word in shlex.split(command) if word != "--help"])


@pytest.mark.parametrize(
    ("typed", "settings"),
    [
        ("max_time=5m", ["trainer.max_time=5m"]),
        ("time=5m", ["time=5m"]),
        ("device=0", ["trainer.accelerator=cuda"]),
        ("device=cpu", ["trainer.accelerator=cpu"]),
        ("transforms.rotate=10", ["transforms.rotation_degrees=10"]),
        ("model=convnext_tiny", ["model=torchvision", "model.name=convnext_tiny"]),
        ("model=tf_efficientnet_lite0", ["model=tf_efficientnet_lite0"]),
        ("model=vit_base_patch16_224", ["model=timm", "model.name=vit_base_patch16_224"]),
    ],
)
def test_a_value_of_one_meaning_is_accepted(typed: str, settings: list[str]) -> None:
    verb, words = cli.find_verb(["train", "data.root=/my/images", typed])
    found = read_words(verb, words)
    assert found[1:] == settings
    compose(verb, found)


def fields(document: str) -> list[tuple[str, str]]:
    """The two code cells of each row of a document's tables."""
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", document, re.MULTILINE)


def test_the_document_shows_lines_of_the_table() -> None:
    text = DOCUMENT.read_text().partition("\n## A detector")[2]
    known = {row["there"]: row["command"] for row in TABLE}
    shown = fields(text)
    assert len(shown) > 60
    for there, here in shown:
        assert known[there] == here, there
    assert {row["system"] for row in TABLE} == {row["system"] for row in TABLE if row["there"] in dict(shown)}


def test_the_document_counts_the_words_of_its_commands() -> None:
    text = DOCUMENT.read_text().partition("## From a folder")[2]
    counted = [(int(number), int(words)) for number, words in re.findall(r"\| (\d+)[^|]* \| (\d+) \|", text)]
    blocks = [
        block.replace("\n\n", "\n") for block in re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]
    assert counted == [(len(block.splitlines()), len(block.split())) for block in blocks]


TINY = "model=test_resnet pretrained=False epochs=1 imgsz=32 batch=4 device=cpu workers=0"


@pytest.mark.usefixtures("quick_runs")
def test_answers_are_typed_and_run(tmp_path: Path, command: Callable[..., Ended]) -> None:
    make_class_folders(tmp_path / "images", {"blue": 8, "green": 8})

    def answered(line: str) -> str:
        ended = command(*shlex.split(line))
        assert ended.code == 2, ended.out
        found = re.search(rf"to do: +{PROGRAM} (.*)", ended.err)
        assert found, ended.err
        return found[1]

    trained = command(
        *shlex.split(answered(f"yolo classify train data=images {TINY} iou=0.7 project=runs exist_ok=True"))
    )
    assert trained.code == 0, trained.err
    (result,) = tmp_path.glob("runs/*/*/result.json")
    run = result.parent.relative_to(tmp_path)
    predicted = command(
        *shlex.split(answered(f"predict --model {run} --input images --output r.json --show_probabilities conf=0.5"))
    )
    assert predicted.code == 0, predicted.err
    rows = json.loads((tmp_path / "r.json").read_text())
    assert len(rows) == 16
    assert set(rows[0]["probabilities"]) == {"blue", "green"}
    scored = command(*shlex.split(answered(f"val model={run} batch=8")))
    assert scored.code == 0, scored.err
    assert "balanced accuracy" in scored.out
