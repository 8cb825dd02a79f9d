"""Models of an MLflow server: listed, and downloaded once into the cache, checked by SHA-256 and read-only."""

from __future__ import annotations

import json
import logging
import shutil
import stat
import tempfile
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.display import align
from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import sha256, write_json
from classifier_training.core.run_reader import read_values
from classifier_training.core.runtime import cache_dir
from classifier_training.core.secrets import mask_text
from classifier_training.registry.mlflow_models import (
    METRICS,
    PREFIX,
    SHA256,
    SPLIT,
    ModelReference,
    models_of,
    version_of,
    versions_of,
)
from classifier_training.registry.mlflow_server import (
    Server,
    UnreachableError,
    answering,
    connect,
    default_uri,
    refuse_no_server,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

READ_ONLY = ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def fetch_model(text: str, *, setting: str = "run") -> Path:
    """Return the run folder in the cache that a model of the server stands for; it is downloaded if it is not there.

    The server is asked each time which version an alias means. When it does not answer, the version of the last time
    is used, with a warning.

    Args:
        text: mlflow:NAME, mlflow:NAME/3 or mlflow:NAME@production.
        setting: what the user set, for messages.

    Raises:
        UserError: when there is no such model, it was registered by another program, or its files are not those that
            were published.
        UnreachableError: when the server does not answer, and the cache has no such model.
    """
    reference = ModelReference.parse(text, setting=setting)
    typed = f"{setting}={reference}"
    uri = default_uri(purpose=typed)
    refuse_no_server(uri, typed=typed)
    place = cache_dir() / "mlflow"
    key = blake2b(f"{mask_text(uri)} {reference}".encode(), digest_size=8).hexdigest()
    noted = place / "references" / f"{key}.json"
    try:
        server = connect(None, purpose=typed)
        version = version_of(server, reference, setting=setting)
        folder = _download(server, version, place, typed=typed)
    except UnreachableError as error:
        return _known(noted, place, typed=typed, error=error)
    write_json(noted, {"server": server.name, "reference": str(reference), "number": version.version, "folder": folder})
    return place / folder


def _download(server: Server, version: ModelVersion, place: Path, *, typed: str) -> str:
    """Return the name of a version's folder in the cache, whose files are those that were published."""
    digest = version.tags.get(SHA256)
    if digest is None:
        raise UserError(
            f"{typed}: version {version.version} of {version.name} has no tag {SHA256}: another program registered it",
            "a version that registry publish or registry promote publish=mlflow has registered",
            "publish a run of yours: classifier-training registry publish RUN",
        )
    folder = place / f"{version.name}-v{version.version}-{digest[:12]}"
    if folder.exists():
        if sha256(folder) == digest:
            return folder.name
        log.warning("%s is not what was published; it is downloaded again", folder)
        _remove(folder)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as staging:
        import mlflow

        with answering(server.uri, purpose=typed):
            found = mlflow.artifacts.download_artifacts(version.source, dst_path=staging, tracking_uri=server.uri)
        downloaded = Path(found)
        if (came := sha256(downloaded)) != digest:
            raise UserError(
                f"{typed}: the files at {version.source} have the SHA-256 {came[:12]}…",
                f"those that were published, {digest[:12]}…",
                "somebody has changed them there: publish the run again from its folder, or choose another version",
            )
        inside = list(downloaded.rglob("*"))
        for path in inside:
            path.chmod(path.stat().st_mode & READ_ONLY)
        try:
            downloaded.rename(folder)
        except OSError:
            # Another process was quicker; its folder is the same.
            if not folder.is_dir():
                raise
            for path in (path for path in inside if path.is_dir()):
                path.chmod(0o755)
    folder.chmod(folder.stat().st_mode & READ_ONLY)
    log.info("%s: version %s of %s, downloaded to %s", typed, version.version, version.name, folder)
    return folder.name


def _known(noted: Path, place: Path, *, typed: str, error: UnreachableError) -> Path:
    """Return the folder that a reference stood for when the server was last reached.

    Raises:
        UnreachableError: when there is none.
    """
    facts: dict[str, Any] = read_values(noted) if noted.is_file() else {}
    folder = place / str(facts.get("folder"))
    if not facts or not folder.is_dir():
        raise error
    log.warning(
        "%s: %s; used from the cache: version %s, which it was when the server was last reached", typed, error.came,
        facts["number"],
    )  # fmt: skip
    return folder


def _remove(folder: Path) -> None:
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    shutil.rmtree(folder)


def list_models(text: str, *, limit: int = 0) -> list[str]:
    """Return a table of the models of the server, or of the versions of one, the newest first.

    Args:
        text: mlflow: or mlflow:NAME.
        limit: rows; 0 for all.

    Raises:
        UserError: when there is no such model, or the server does not answer.
    """
    typed = f"registry list {text}"
    uri = default_uri(purpose=typed)
    refuse_no_server(uri, typed=typed)
    server = connect(None, purpose=typed)
    name = ModelReference.parse(text, setting="output").name if text != PREFIX else ""
    if name:
        version_of(server, ModelReference(name), setting="output")
    with answering(server.uri, purpose=typed):
        models = [server.client.get_registered_model(name)] if name else models_of(server)
        found = [
            (model, version)
            for model in models
            for version in (versions_of(server, model.name) if name else versions_of(server, model.name)[-1:])
        ]
    found.sort(key=lambda pair: (pair[1].creation_timestamp, int(pair[1].version)), reverse=True)
    rows = []
    for model, version in found[: limit or None]:
        held = [alias for alias, number in model.aliases.items() if str(number) == str(version.version)]
        when = datetime.fromtimestamp(version.creation_timestamp / 1000).astimezone()
        scores = json.loads(version.tags.get(METRICS, "{}"))
        rows.append(
            (
                f"{PREFIX}{model.name}/{version.version}",
                ",".join(sorted(held)) or "-",
                version.tags.get("architecture", "-"),
                f"{scores['balanced_accuracy']:.4f}" if "balanced_accuracy" in scores else "-",
                version.tags.get(SPLIT, "-"),
                version.tags.get("published by", "-"),
                when.strftime("%Y-%m-%d %H:%M"),
            )
        )
    header = ("model", "alias", "architecture", "balanced_accuracy", "split", "by", "published")
    return align(header, rows, right=frozenset({"balanced_accuracy"})) if rows else [f"{server.name} has no model"]
