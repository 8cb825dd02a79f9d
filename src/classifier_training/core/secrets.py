"""Secrets in settings and texts, which are masked in everything that a run writes or logs."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"
"""Replaces a secret."""

ANYWHERE = re.compile(
    r"(?:password|passwd|passphrase|passcode|pwd|secret|token|credentials?|authorization|bearer|cookie|signature"
    r"|connectionstring|(?:api|access|secret|private|account|signing|encryption|shared|storage|license)key(?:id)?)$"
)
"""Endings of names of secrets, in lower case and without separators."""

WORDS = frozenset({"auth", "oauth", "pass", "sig", "jwt", "sas", "pat"})
"""Names, or last words of names, of secrets; as the end of a longer word they mean something else."""

PARAMETERS = frozenset({"key", "code"})
"""Names of secrets in the query of a URL only."""

DATABASES = frozenset({"postgresql", "postgres", "mysql", "mariadb"})
"""Schemes of addresses in which a name without a password is a user."""

URL = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*)://([^\s'\"<>]+)")
PARAMETER = re.compile(r"(?<=[?&;#])([^=&;#?]+)=([^&;#]+)")
ASSIGNMENT = re.compile(r"(?<![\w.?&;#/-])([\w.-]*\w)=(\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s'\"]+)")


def is_secret(name: str) -> bool:
    """Whether a setting of that name is a secret, such as `api_key`, `auth` or `storage.secretKey`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rpartition(".")[2]).lower()
    last = re.split(r"[^a-z0-9]+", words)[-1]
    return last in WORDS or ANYWHERE.search(re.sub(r"[^a-z0-9]", "", words)) is not None


def mask(value: Any, key: str = "") -> Any:
    """Return plain values with every secret masked: values of secret settings, and secrets in texts.

    A number with a fraction is no secret: the weight or target of a class that is called `pass` or `token`.

    Args:
        value: texts, numbers, mappings and lists of them.
        key: name of the value.
    """
    if isinstance(value, Mapping):
        return {name: mask(item, key if is_secret(key) else str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(item, key) for item in value]
    if is_secret(key) and value not in (None, "") and not isinstance(value, (bool, float)):
        return MASK
    return mask_text(value) if isinstance(value, str) else value


def mask_text(text: str) -> str:
    """Mask credentials and secret parameters of addresses in a text, and the value of NAME=value for secret names."""
    if "=" not in text and "://" not in text:
        return text
    text = URL.sub(lambda found: f"{found[1]}://{_mask_address(found[2], found[1])}", text)
    return ASSIGNMENT.sub(lambda found: f"{found[1]}={MASK}" if is_secret(found[1]) else found[0], text)


def mask_words(words: Iterable[str]) -> list[str]:
    """Mask the secrets of a command line."""
    return [
        f"{key}{equals}{MASK}" if equals and value and is_secret(key) else mask_text(word)
        for word in words
        for key, equals, value in [word.partition("=")]
    ]


@contextmanager
def masked_arguments() -> Iterator[None]:
    """Mask the secrets of this process's command line inside the block, for libraries that record it."""
    arguments, sys.argv = sys.argv, mask_words(sys.argv)
    try:
        yield
    finally:
        sys.argv = arguments


def is_masked(value: Any) -> bool:
    """Whether a value contains a masked secret."""
    if not isinstance(value, str) or MASK not in value:
        return False
    return value == MASK or ("://" in value and mask_text(value) == value)


def _mask_address(rest: str, scheme: str) -> str:
    """Mask the secrets of a URL after its ://."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if not at and not authority.startswith("["):
        # A password with one of / ? # looks like a host and port; a port has digits only.
        _, colon, port = authority.rpartition(":")
        if colon and port and not port.isdecimal():
            user, at, _ = rest.rpartition("@")
    # A name alone may be a token, but not before a database.
    if at and not (scheme.partition("+")[0].lower() in DATABASES and user and ":" not in user):
        rest = f"{MASK}@{rest[len(user) + 1 :]}"
    return PARAMETER.sub(lambda found: f"{found[1]}={MASK}" if _is_secret_parameter(found[1]) else found[0], rest)


def _is_secret_parameter(name: str) -> bool:
    return name.lower() in PARAMETERS or is_secret(name) or is_secret(name.replace("-", "_"))
