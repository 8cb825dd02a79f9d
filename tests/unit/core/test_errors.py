from __future__ import annotations

import pickle

import pytest

from classifier_training.core.errors import CheckFailedError, UserError, enumerate_words, nearest


def test_a_user_error_is_told_in_three_lines() -> None:
    error = UserError("data.root=/x does not exist", "a folder", "data.root=/my/images")
    assert str(error).splitlines() == [
        "data.root=/x does not exist",
        "  expected: a folder",
        "  to do:    data.root=/my/images",
    ]


def test_exit_codes_tell_input_from_failed_checks() -> None:
    assert UserError("a", "b", "c").exit_code == 2
    assert CheckFailedError("a", "b", "c").exit_code == 1


def test_nearest_ignores_case_and_gives_up_on_strangers() -> None:
    assert nearest("RESNET8", ["resnet18", "resnet50", "timm"])[0] == "resnet18"
    assert nearest("zzz", ["resnet18", "timm"]) == []


def test_long_lists_are_cut_and_counted() -> None:
    assert enumerate_words("abc", limit=2) == "a, b and 1 more"
    assert enumerate_words("ab", limit=2) == "a, b"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("seeds=[0,1] or seeds=[2]", "'seeds=[0,1]' or 'seeds=[2]'"),
        ("--seeds=[0,1]", "'--seeds=[0,1]'"),
        ("compare 'seeds=[0,1]'", "compare 'seeds=[0,1]'"),
        ('settings={"seeds": [0, 1]}', 'settings={"seeds": [0, 1]}'),
        ("pip install 'classifier-training[ray]'", "pip install 'classifier-training[ray]'"),
    ],
)
def test_lists_in_a_remedy_are_quoted_for_the_shell(written: str, shown: str) -> None:
    error = UserError("came", "expected", written)
    assert error.remedy == shown
    assert pickle.loads(pickle.dumps(error)).remedy == shown
