from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from classifier_training import cli
from classifier_training.conf.command_line import read_words
from classifier_training.conf.compose import compose
from classifier_training.conf.overrides import chosen_names, parse_overrides, prepare, typed_value
from classifier_training.core.errors import UserError
from classifier_training.core.register import Entry, entries
from classifier_training.core.runtime import setting
from classifier_training.core.settings import Names

VERBS = {one.command: one for verb in entries("verb") for one in (verb, *entries(verb.name))}
TRAIN, PREDICT, EVALUATE = (VERBS[name] for name in ("train", "predict", "evaluate"))

HOSTILE = [
    "My Photos, 2026 (ü)", "a=b", "a=b/[1].jpg", "[1]", "[1].jpg", "[a,b]", "[a, b]", "[", "]", "[]", "a,b", ",",
    "a, b,", "it's", 'say "so"', '"quoted"', "'quoted'", '"', "'", "it's \"here\" $HOME", "$HOME", "${HOME}",
    "${seed}", "${oc.env:HOME}", "\\${x}", "\\\\${x}", "$(date)", "`date`", "{a: 1}", "{a,b}", "{", "}",
    "back\\slash", "back\\", "a\\,b", "a\\\\", "#1", "a#b", "a b", " a", "a ", "a  b", "a\tb", "~", "~x", "~root",
    "x~", "~data", "-", "-w", "--weird", "--epochs", "--seed=3", "+x", "++x=1", "+seed=1", "null", "true", "1.50",
    "1e3", "2026", "nan", "choice(a,b)", "range(1,3)", "glob(*)", "*", "a?b", "[ab]*.jpg", "a:b", ":", "a;b", "a&b",
    "a|b", "<a>", "!a", "%s", "@a", "a@b=c", "^", "é", "e\u0301", "写真", "📷 1", "\u202eabc", "\u00a0", "latest:v1",
    "re:x", "experiment=a", "photo=1.jpg", "data.x=1", "hydra.x", "help me", "a.txt", "café\udce9",
]  # fmt: skip
"""Names that a file or folder may have."""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(name: str) -> str:
    Path(name).mkdir(parents=True)
    return name


def value_of(verb: Entry, words: list[str], key: str, *, multirun: bool = False) -> Any:
    """What a verb gets for a setting: the words are read, parsed by Hydra and resolved by OmegaConf."""
    (override,) = [
        one
        for one in parse_overrides(prepare(verb, read_words(verb, words, multirun=multirun)))
        if one.key_or_group == key
    ]
    return typed_value(override)


def places(verb: Entry) -> list[str]:
    """The keys of a verb that name a file, a folder or a run."""
    found = [name for name, option in verb.options.items() if option.names is not None]
    return found + (["data.root"] if verb.settings_at("data.root") else [])


def is_same(found: Any, typed: str) -> bool:
    """Whether a value leads to the path that was typed, by what reads it: ~ stands for the home folder there."""
    return isinstance(found, str) and Path(found).expanduser().absolute() == Path(typed).absolute()


@pytest.mark.parametrize("name", HOSTILE)
def test_an_existing_path_is_taken_as_it_is_typed_in_every_verb(name: str) -> None:
    make(name)
    for verb in VERBS.values():
        for key in places(verb):
            for words in ([f"{key}={name}"], [f"--{key}={name}"], [f"--{key}", name]):
                for multirun in (False, True):
                    if not (name.startswith("--") and words[0] == f"--{key}"):
                        assert is_same(value_of(verb, words, key, multirun=multirun), name), (verb.command, words)
            pasted = shlex.split(setting(key, name))
            assert is_same(value_of(verb, pasted, key), name)


@pytest.mark.parametrize("name", HOSTILE)
def test_an_existing_path_needs_no_key(name: str) -> None:
    make(name)
    make(f"in/{name}")
    for verb in VERBS.values():
        for key in verb.words[:1]:
            if any(option.names for option in verb.settings_at(key)):
                is_setting = name in (
                    "--epochs",
                    "--seed=3",
                    "+seed=1",
                    "experiment=a",
                    "data.x=1",
                    "-",
                    "hydra.x",
                    "~data",
                )
                for word in [f"in/{name}", f"./{name}", os.path.abspath(name), *([] if is_setting else [name])]:  # noqa: PTH100
                    assert is_same(value_of(verb, [word], key), word), (verb.command, word)
                    assert is_same(value_of(verb, ["--", word], key), word), (verb.command, word)


@pytest.mark.parametrize("name", [name for name in HOSTILE if "${" not in name])
def test_a_path_that_does_not_exist_yet_is_taken_as_it_is_typed(name: str) -> None:
    expected = os.path.expanduser(name)  # noqa: PTH111
    for verb in VERBS.values():
        for key in places(verb):
            is_list = (
                any(option.accepts(list) for option in verb.settings_at(key)) and name[0] == "[" and name[-1] == "]"
            )
            if name != "null" and not is_list:
                assert is_same(value_of(verb, [f"{key}={name}"], key), expected), (verb.command, key)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_shell_completes_what_is_taken(name: str) -> None:
    make(name)
    if "\udce9" not in name:
        quoted = subprocess.run(
            ["bash", "-c", 'printf "%q" "$1"', "bash", name], capture_output=True, text=True, check=True
        ).stdout
        typed = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' ./{quoted if not quoted.startswith('~') else chr(92) + quoted}"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert is_same(value_of(PREDICT, typed.split("\0")[:1], "source"), name)


@pytest.mark.parametrize("name", HOSTILE[::6])
def test_a_hostile_folder_comes_through_to_the_arguments(name: str) -> None:
    folder = os.path.abspath(make(name))  # noqa: PTH100
    arguments = compose(TRAIN, read_words(TRAIN, [f"data.root={name}", f"output={name}", f"init_from=./{name}"]))
    assert arguments["data"].root == folder
    assert is_same(arguments["output"], name)
    assert is_same(arguments["init_from"], name)


def test_an_equals_sign_in_a_path_makes_no_setting() -> None:
    make("a=b")
    Path("a=b/1.jpg").touch()
    for word in ("a=b/1.jpg", "a=b/*.jpg", "a=b/gone.jpg", "x/a=b.jpg", "./x=1.jpg"):
        assert value_of(PREDICT, [word], "source") == word
    with pytest.raises(UserError, match="a=c: there is no such setting"):
        compose(PREDICT, read_words(PREDICT, ["a=c"]))


def test_several_words_are_several_sources() -> None:
    names = ["a.jpg", "[1].jpg", "a,b.jpg", "2026", "null", "1.50", "it's", "~x"]
    for name in names:
        make(name)
    found = compose(PREDICT, read_words(PREDICT, [*names[:2], "top_k=1", *names[2:]]))
    assert found["source"] == [*names[:-1], str(Path("~x").absolute())]
    assert read_words(EVALUATE, ["./a.jpg", "./2026"]) == ["run=[./a.jpg,./2026]"]
    with pytest.raises(UserError, match="run is given more than once"):
        read_words(VERBS["review"], ["./a.jpg", "./2026"])
    with pytest.raises(UserError, match="source is given more than once"):
        read_words(PREDICT, ["a.jpg", "source=a.jpg"])


def test_thousands_of_words_are_read_as_fast_as_a_few() -> None:
    names = [name for name in HOSTILE if name not in ("~", "~x", "~root", "~data") and "\udce9" not in name]
    paths = [f"/x/{number}/{name}" for number in range(40) for name in names]
    assert compose(PREDICT, read_words(PREDICT, paths))["source"] == paths
    assert compose(TRAIN, read_words(TRAIN, [*paths, "seed=3"]))["data"].root == [str(Path(path)) for path in paths]
    started = time.monotonic()
    compose(PREDICT, read_words(PREDICT, [f"/x y/{number}.jpg" for number in range(200)]))
    few = time.monotonic() - started
    compose(PREDICT, read_words(PREDICT, [f"/x y/{number}.jpg" for number in range(8000)]))
    assert time.monotonic() - started - few < 100 * few


def test_a_bracket_begins_a_list_of_paths() -> None:
    for name in ("a b", "c (1)", "d, e", "f"):
        make(name)
    roots = [str(Path(name).absolute()) for name in ("a b", "c (1)", "d, e", "f")]
    for text in ("[a b,c (1),d, e,f]", "[ a b , 'c (1)', \"d, e\",f ]"):
        assert compose(TRAIN, read_words(TRAIN, [f"data.root={text}"]))["data"].root == roots
        assert compose(TRAIN, read_words(TRAIN, [text]))["data"].root == roots
    assert compose(TRAIN, read_words(TRAIN, ["data.root=[~/x]"]))["data"].root == [os.path.expanduser("~/x")]  # noqa: PTH111


def test_commas_part_values_of_several_runs_alone() -> None:
    make("a,b")
    (root, model, name) = parse_overrides(
        read_words(TRAIN, ["data.root=/x,a,b,/y z", "model=resnet18,resnet50", "name=p (1),q"], multirun=True)
    )
    assert [getattr(one, "text", one) for one in chosen_names(root)] == ["/x", "a,b", "/y z"]
    assert chosen_names(model) == ["resnet18", "resnet50"]
    assert [getattr(one, "text", one) for one in chosen_names(name)] == ["p (1)", "q"]
    assert value_of(TRAIN, ["name=p (1),q"], "name") == "p (1),q"
    (swept,) = parse_overrides(read_words(TRAIN, ["data.root=choice(/a,/b)"], multirun=True))
    assert chosen_names(swept) == ["/a", "/b"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epochs", "5", "lr=0.1", "--batch=8", "--imgsz", "64"],
         ["trainer.max_epochs=5", "optimizer.lr=0.1", "data.batch_size=8", "data.image_size=64"]),
        (["--data", "/x y", "--workers", "2"], ['data.root="/x y"', "data.num_workers=2"]),
        (["data=digits", "--data", "jsonl"], ["data=digits", "data=jsonl"]),
        (["--retrain_head", "--allow-leaks", "false", "seed=1"], ["retrain_head=true", "allow_leaks=false", "seed=1"]),
        (["--no-allow-leaks", "--model.pretrained", "auto"], ["allow_leaks=false", "model.pretrained=auto"]),
        (["--data.batch-size", "7", "--optimizer.lr=1e-3"], ["data.batch_size=7", "optimizer.lr=1e-3"]),
        (["+trainer.x=1", "++seed=2", "~sampler", "~callbacks.ema", "~model=auto"],
         ["+trainer.x=1", "++seed=2", "~sampler", "~callbacks.ema", "~model=auto"]),
        (["hydra/launcher=joblib", "hydra.verbose=true"], ["hydra/launcher=joblib", "hydra.verbose=true"]),
        (["sampler.weights={cat: 4, 10: 2}", "data.image_size=[64,64]", "imbalance=none", "callbacks=[default,swa]"],
         ["sampler.weights={cat: 4, 10: 2}", "data.image_size=[64,64]", "imbalance=none", "callbacks=[default,swa]"]),
        (["output=${oc.env:HOME}/runs", "name=${seed}"], ["output=${oc.env:HOME}/runs", "name=${seed}"]),
        (["name=Run (2), new", "data.group=re:(\\d+)_", "data.group=1"],
         ['name="Run (2), new"', 'data.group="re:(\\d+)_"', "data.group=1"]),
        (["name='in quotes'", 'data.root="/a b"'], ['name="in quotes"', 'data.root="\\"/a b\\""']),
        (['data.root="s3://bucket/set"'], ['data.root="s3://bucket/set"']),
        (["output=null", "name=null", "resume=latest"], ["output=null", "name=null", "resume=latest"]),
        (["--", "--epochs=3", "seed=1"], ["trainer.max_epochs=3", "seed=1"]),
    ],
)  # fmt: skip
def test_words_of_train_are_overrides(words: list[str], expected: list[str]) -> None:
    assert read_words(TRAIN, words) == expected


@pytest.mark.parametrize("flag", ["--no-pretrained", "--no_pretrained", "--no-model.pretrained"])
def test_no_before_a_word_for_a_flag_turns_it_off(flag: str) -> None:
    assert read_words(TRAIN, [flag]) == ["model.pretrained=false"]


@pytest.mark.parametrize(
    ("verb", "words", "expected"),
    [
        ("evaluate", ["latest", "--split", "val"], ["run=latest", "split=val"]),
        ("export", ["latest", "quantization=int8"], ["run=latest", "quantization=int8"]),
        ("export", ["resnet18:v2", "--demo"], ['run="resnet18:v2"', "demo=true"]),
        ("benchmark", ["best"], ["run=best"]),
        ("analyze", ["/x y", "--near-duplicates", "false"], ['data.root="/x y"', "near_duplicates=false"]),
        ("prepare", ["/x"], ["data.root=/x"]),
        ("predict", ["/x/photo.JPG", "--quiet", "--batch", "4"],
         ["source=/x/photo.JPG", "quiet=true", "data.batch_size=4"]),
        ("predict", ["*.jpg"], ['source="*.jpg"']),
        ("compare", ["/a b", "/c", "models=[a,b]", "epochs=3"],
         ['data=["/a b",/c]', "models=[a,b]", "trainer.max_epochs=3"]),
        ("tune", ["/a b", "--trials", "3", "--epochs", "4"], ['data.root="/a b"', "trials=3", "trainer.max_epochs=4"]),
        ("distill", ["latest", "model=student", "--data", "/x y"],
         ["teacher=latest", "model=student", 'data.root="/x y"']),
        ("models", ["vgg*", "--batch", "8"], ['pattern="vgg*"', "batch_size=8"]),
        ("completion", ["bash"], ["shell=bash"]),
        ("registry list", ["/runs", "sort=best"], ["output=/runs", "sort=best"]),
        ("registry show", ["resnet18:v1", "output=x"], ['run="resnet18:v1"', "output=x"]),
        ("registry promote", ["latest", "production", "--force"], ["run=latest", "alias=production", "force=true"]),
    ],
)  # fmt: skip
def test_words_of_other_verbs_are_overrides(verb: str, words: list[str], expected: list[str]) -> None:
    assert read_words(VERBS[verb], words) == expected


@pytest.mark.parametrize(
    ("verb", "words", "came", "remedy"),
    [
        ("train", ["latest"], "latest: not a setting", "resume=latest"),
        ("train", ["resnet18"], "resnet18: not a setting", "model=resnet18"),
        ("train", ["retrain_head"], "retrain_head: not a setting", "--retrain_head"),
        ("train", ["trainer.max_epochs"], "not a setting", "trainer.max_epochs=…"),
        ("train", ["--epoch", "5"], "--epoch: there is no such setting", "--epochs 5"),
        ("train", ["epoch=1"], "epoch=1: there is no such setting", "epochs=1"),
        ("train", ["epcohs=1"], "epcohs=1: there is no such setting", "epochs=1"),
        ("train", ["max_epoch=3"], "max_epoch=3: there is no such setting", "trainer.max_epochs=3"),
        ("train", ["--resume"], "--resume has no value", "resume=latest"),
        ("train", ["resume"], "resume: not a setting", "resume=latest"),
        ("train", ["optimizer.lr=0,001"], "several values", "optimizer.lr=0.001"),
        ("train", ["--lr", "1e-3,"], "optimizer.lr=1e-3,: not a value", "optimizer.lr=1e-3"),
        ("train", ["epochs=5,10"], "several values", "add --multirun"),
        ("train", ["imgsz=[64"], "data.image_size=[64: not a value", "data.image_size=64"),
        ("train", ["target.recall=95"], "target.recall=95", "target.recall=0.95"),
        ("predict", ["photo.jpg", "threshold=90"], "threshold=90", "threshold=0.9"),
        ("train", ["batch=0"], "data.batch_size=0", "data.batch_size=auto"),
        ("train", ["time=five"], "time=five", "time=10m"),
        ("train", ["-e", "5"], "-e: there is no such setting", "train --help all"),
        ("train", ["--data.root"], "--data.root has no value", "--data.root …"),
        ("train", ["--epochs", "--seed", "1"], "--epochs has no value", "--epochs …"),
        ("predict", ["foto.jpg"], "foto.jpg: not a setting, and no file", "predict photo.jpg"),
        ("predict", ["photo.jpg", "quiet"], "quiet: not a setting", "--quiet"),
        ("predict", ["photo.jpg", "latest"], "latest: not a setting", "run=latest"),
        ("predict", ["exp1", "photo.jpg"], "exp1: not a setting", "predict run=exp1 photo.jpg"),
        ("export", ["latest", "int8"], "latest int8: run", "export latest quantization=int8"),
        ("export", ["latest", "onnx"], "latest onnx: run", "export latest format=onnx"),
        ("evaluate", ["lates"], "lates: not a setting", "evaluate latest"),
        ("export", ["quantisation"], "quantisation: not a setting", "quantization=…"),
        ("info", ["x"], "x: not a setting", "info"),
    ],
)
def test_what_is_neither_a_setting_nor_a_path_is_said_with_the_right_spelling(
    verb: str, words: list[str], came: str, remedy: str
) -> None:
    Path("photo.jpg").touch()
    with pytest.raises(UserError) as caught:
        compose(VERBS[verb], read_words(VERBS[verb], words))
    assert came in caught.value.came
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("--verison", "classifier-training --version"),
        ("--epochs 3", "classifier-training train --epochs 3"),
        ("registry delete latest", "classifier-training registry cleanup"),
    ],
)
def test_a_first_word_that_is_no_verb_is_answered(words: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        cli.find_verb(words.split())
    assert caught.value.remedy.startswith(remedy)


def test_every_setting_that_its_help_calls_a_file_or_folder_is_marked_as_one() -> None:
    for verb in [*VERBS.values(), *(item for item in entries() if not item.is_verb)]:
        for name, option in verb.options.items():
            says = option.help.startswith(("folder ", "file ", "the data folder", "run folder", "a file", "write to"))
            if says and option.accepts(str):
                assert option.names in (Names.PATH, Names.RUN), f"{verb.group}={verb.name}: {name}"
