"""Secrets are masked wherever they stand, and nothing else is."""

from __future__ import annotations

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.core.register import entries
from classifier_training.core.secrets import is_masked, is_secret, mask, mask_text, mask_words


@pytest.mark.parametrize(
    "name",
    [
        "password", "passwd", "pwd", "db_pwd", "passphrase", "secret", "client_secret", "secret_key", "secretKey",
        "access_key", "aws_access_key_id", "AWS_SECRET_ACCESS_KEY", "api_key", "apikey", "X-Api-Key", "auth",
        "logging.mlflow.auth", "auth_token", "authorization", "credentials", "private_key", "account_key",
        "connection_string", "sig", "X-Amz-Signature", "sas", "cookie",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["token_count", "author", "bypass", "compass", "monitor", "key", "label_key", "signal", "tokenizer", "code"]
)
def test_names_of_what_is_no_secret(name: str) -> None:
    assert not is_secret(name)


def test_no_setting_of_ours_is_taken_for_a_secret() -> None:
    assert not [f"{item.group}={item.name}: {key}" for item in entries() for key in item.options if is_secret(key)]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:pw@host/x", "https://***@host/x"),
        ("postgresql://u:p@ss@host:5432/db", "postgresql://***@host:5432/db"),
        ("postgresql://u:p/s?s#@host/db", "postgresql://***@host/db"),
        ("https://token@host", "https://***@host"),
        ("https://h/a?token=abc", "https://h/a?token=***"),
        ("https://h/a?sv=1&sig=a%2Bb&se=2", "https://h/a?sv=1&sig=***&se=2"),
        (
            "s3://b/k?X-Amz-Credential=AK%2F1&X-Amz-Date=2&X-Amz-Security-Token=t&X-Amz-Signature=0f",
            "s3://b/k?X-Amz-Credential=***&X-Amz-Date=2&X-Amz-Security-Token=***&X-Amz-Signature=***",
        ),
        ("https://h/a?key=abc&page=2", "https://h/a?key=***&page=2"),
        ("https://h/#access_token=abc", "https://h/#access_token=***"),
        ("sqlserver://h;user=sa;password=x", "sqlserver://h;user=sa;password=***"),
        ("from https://a:b@c/d, then https://e:f@g/h", "from https://***@c/d, then https://***@g/h"),
        ("train logging.x.api_key=abc seed=1", "train logging.x.api_key=*** seed=1"),
        ("pwd='a b' next", "pwd=*** next"),
        ('pwd="a \\" b" next', "pwd=*** next"),
        # Nothing secret.
        ("storage=postgresql+psycopg://me@host:5432/db", "storage=postgresql+psycopg://me@host:5432/db"),
        ("http://localhost:5000/a@b", "http://localhost:5000/a@b"),
        ("http://[::1]:5000/a", "http://[::1]:5000/a"),
        ("sqlite:///home/me@work/a.db", "sqlite:///home/me@work/a.db"),
        ("https://h/a?page=2&sort=name", "https://h/a?page=2&sort=name"),
        ("/photos/a=b/token=1@x.jpg", "/photos/a=b/token=1@x.jpg"),
        ("a token: 3 of 4; key=value", "a token: 3 of 4; key=value"),
    ],
)
def test_texts(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(masked) == masked, "what is masked stays as it is"


def test_values_are_masked_by_their_names_whatever_they_are() -> None:
    values = {"pwd": 1234, "auth": {"user": "me", "more": ["a", 1]}, "secret": None, "api_key": "", "use_auth": True}
    assert mask(values) == {
        "pwd": "***",
        "auth": {"user": "***", "more": ["***", "***"]},
        "secret": None,
        "api_key": "",
        "use_auth": True,
    }
    assert mask(["https://a:b@c", 1]) == ["https://***@c", 1]


def test_words_of_a_command_line_are_masked_whole() -> None:
    words = ["train", "x.pwd=a b", "--x.token=abc", "x.uri=https://a:b@c/?sig=1", "data.root=/token=1"]
    assert mask_words(words) == ["train", "x.pwd=***", "--x.token=***", "x.uri=https://***@c/?sig=***", words[-1]]


def test_what_was_masked_is_known_again() -> None:
    assert all(is_masked(value) for value in ("***", "https://***@host/x", "https://h/?token=***"))
    assert not any(is_masked(value) for value in ("a***b", "/photos/***/x", "https://host/x", None, 3))


def test_the_target_of_a_class_that_is_called_like_a_secret_is_none() -> None:
    targets = {"target": {"recall": {"pass": 0.9, "token": 0.5}}}
    assert mask(targets) == targets
    assert mask({"storage": {"pass": 1234}}) == {"storage": {"pass": "***"}}
