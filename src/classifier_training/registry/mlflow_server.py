"""An MLflow server: who it is, what it answers, and what it says when it does not."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from classifier_training.core.errors import UserError, first_line, refuse_missing
from classifier_training.core.secrets import mask_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

SECONDS_TO_ANSWER = 10.0

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
"""MLflow's own variables and what they are here unless they are set: its 7 retries of 2 minutes each are too long."""


class UnreachableError(UserError):
    """Nothing answers at the address of a server."""


@dataclass(frozen=True)
class Server:
    """A tracking server or database.

    Args:
        uri: its address, with whatever secret stands in it.
        client: MLflow's client of it.
    """

    uri: str
    client: MlflowClient

    @property
    def name(self) -> str:
        """The address without secrets."""
        return mask_text(self.uri)


def connect(uri: str | None, *, purpose: str, remedy: str = "") -> Server:
    """Return the server of an address; nothing is asked of it yet.

    Args:
        uri: its address; when left out MLFLOW_TRACKING_URI, else the database mlflow.db of the working folder.
        purpose: what needs it, for messages.
        remedy: what to do where it does not answer.

    Raises:
        UserError: when the extra is missing.
        UnreachableError: when nothing listens there.
    """
    found = uri or default_uri(purpose=purpose)
    import mlflow

    # Its notes on setting up a database are no part of a run's story, nor is a run's address with a secret in it.
    for logger, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING), ("urllib3", logging.ERROR)):
        logging.getLogger(logger).setLevel(level)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    _refuse_silent(found, purpose=purpose, remedy=remedy)
    registry = found if uri else os.environ.get("MLFLOW_REGISTRY_URI", found)
    with answering(found, purpose=purpose):
        return Server(found, mlflow.MlflowClient(tracking_uri=found, registry_uri=registry))


def default_uri(*, purpose: str) -> str:
    """Return the address that MLflow's own settings name.

    Args:
        purpose: what needs it, for messages.

    Raises:
        UserError: when the extra is missing.
    """
    refuse_missing("mlflow", purpose=purpose)
    import mlflow

    return str(mlflow.get_tracking_uri())


def _refuse_silent(uri: str, *, purpose: str, remedy: str) -> None:
    """Raise when nothing listens at the address of an MLflow server; files and databases are not looked at.

    Raises:
        UnreachableError: then.
    """
    try:
        address = urlsplit(uri)
        if address.scheme not in ("http", "https"):
            return
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:
        raise UnreachableError(
            f"{purpose}: {mask_text(uri)} does not answer ({error})",
            "the address of a running MLflow server, or a database file such as sqlite:///mlflow.db",
            remedy or "start it, or correct the address: export MLFLOW_TRACKING_URI=https://mlflow.example.org",
        ) from error


def refuse_no_server(uri: str, *, typed: str) -> None:
    """Raise where there is no database to read, which MLflow would make.

    Args:
        uri: address of the server or database.
        typed: what is read, for messages.

    Raises:
        UserError: then.
    """
    path = urlsplit(uri).path.removeprefix("/") if uri.startswith("sqlite:") else ""
    if path and not Path(path).exists():
        raise UserError(
            f"{typed}: no MLflow server is named, and {path} does not exist",
            "the address of the server in MLflow's own variable",
            "export MLFLOW_TRACKING_URI=https://mlflow.example.org",
        )


@contextmanager
def answering(uri: str, *, purpose: str, remedy: str = "") -> Iterator[None]:
    """Turn what MLflow, or a driver that it uses, raises in the block into a message.

    Args:
        uri: address of the server.
        purpose: what it was asked for.
        remedy: what to do about it.

    Raises:
        UserError: when MLflow refuses.
        UnreachableError: when it does not answer.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the drivers of databases and of artifact stores, too
        kind = UnreachableError if is_away(error) else UserError
        raise kind(
            f"{purpose}: {mask_text(uri)} refused: {mask_text(first_line(error))}",
            "a tracking server or database with a model registry, such as sqlite:///mlflow.db",
            remedy or "check MLFLOW_TRACKING_URI, and MLFLOW_TRACKING_USERNAME and _PASSWORD or _TOKEN",
        ) from error


def code_of(error: BaseException) -> str:
    """Return MLflow's name of an error, such as RESOURCE_DOES_NOT_EXIST; empty for other errors."""
    return str(getattr(error, "error_code", ""))


REFUSALS = frozenset(
    {
        "CUSTOMER_UNAUTHORIZED",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)
"""Answers that a repetition would not change. BAD_REQUEST is also what a server says that is short of connections."""


def is_away(error: BaseException) -> bool:
    """Whether an error is of a server that does not answer, or is out of order for a while."""
    if isinstance(error, UserError):
        return isinstance(error, UnreachableError)
    return code_of(error) not in REFUSALS
