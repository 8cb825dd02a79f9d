"""Versions and aliases of a team's models on an MLflow server."""

from __future__ import annotations

import json
import logging
import re
import secrets
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from classifier_training.core.errors import CheckFailedError, UserError, enumerate_words, nearest
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.core.run_reader import RunReader
from classifier_training.core.runtime import command, setting, user_name
from classifier_training.registry.mlflow_outbox import GONE, Outbox
from classifier_training.registry.mlflow_server import Server, answering, code_of
from classifier_training.registry.record import FINISHED, RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

log = logging.getLogger(__name__)

PREFIX = "mlflow:"
"""What a reference to a model on the server begins with."""

SHA256, METRICS, SPLIT, CLASSES = "sha256", "metrics", "split", "classes"
"""Tags of a version: of its bundle's files; the run's scores as JSON; what they are of; digest of the class names."""

UPLOADED = "bundle.sha256"
"""Tag of a run on the server: the bundle that it has, once it has all of it."""


@dataclass(frozen=True)
class ModelReference:
    """mlflow:NAME for the newest version, mlflow:NAME/3, or mlflow:NAME@production.

    Args:
        name: of the registered model.
        which: number of a version, an alias, or empty for the newest version.
        is_alias: whether it is an alias.
    """

    name: str
    which: str = ""
    is_alias: bool = False

    @classmethod
    def parse(cls, text: str, *, setting: str = "run") -> ModelReference:
        """Take a reference apart.

        Raises:
            UserError: when it is none.
        """
        found = re.fullmatch(r"mlflow:([^/@:]+)(?:/([1-9]\d*)|@([\w-]+))?", text)
        if found is None:
            raise UserError(
                f"{setting}={text}: no model of an MLflow server",
                "mlflow:NAME for the newest version, mlflow:NAME/3 for a version, mlflow:NAME@production for an alias",
                f"{setting}=mlflow:rooms@production, for example",
            )
        return cls(found[1], found[2] or found[3] or "", is_alias=bool(found[3]))

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}{('@' if self.is_alias else '/') if self.which else ''}{self.which}"


def version_of(server: Server, reference: ModelReference, *, setting: str = "run") -> ModelVersion:
    """Return the version that a reference stands for.

    Raises:
        UserError: when there is no such model, version or alias; it names those that there are.
        UnreachableError: when the server does not answer.
    """
    typed = f"{setting}={reference}"
    with answering(server.uri, purpose=typed):
        try:
            if reference.is_alias:
                return server.client.get_model_version_by_alias(reference.name, reference.which)
            if reference.which:
                return server.client.get_model_version(reference.name, reference.which)
        except Exception as error:
            if code_of(error) not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
        versions = versions_of(server, reference.name)
        if versions and not reference.which:
            return versions[-1]
        if not versions:
            names = sorted(model.name for model in models_of(server))
            close = nearest(reference.name, names)
            raise UserError(
                f"{typed}: {server.name} has no model {reference.name} with a version",
                f"one of {enumerate_words(names)}" if names else "a model that a run was published as",
                f"{setting}={PREFIX}{close[0]}" if close else "registry publish RUN publishes one",
            )
        aliases = sorted(server.client.get_registered_model(reference.name).aliases)
    numbers = [f"{PREFIX}{reference.name}/{version.version}" for version in versions]
    known = [f"{PREFIX}{reference.name}@{alias}" for alias in aliases]
    raise UserError(
        f"{typed}: {reference.name} on {server.name} has no {'alias' if reference.is_alias else 'version'} "
        f"{reference.which}",
        f"one of {enumerate_words([*known, *reversed(numbers)])}",
        f"{setting}={(known or numbers[::-1])[0]}",
    )


def models_of(server: Server) -> list[RegisteredModel]:
    """Return all models of the server."""
    found: list[RegisteredModel] = []
    token = None
    while True:
        page = server.client.search_registered_models(page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def versions_of(server: Server, name: str) -> list[ModelVersion]:
    """Return the versions of a model, the oldest first; none where there is no such model."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = server.client.search_model_versions(f"name='{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def record_of(version: ModelVersion) -> RunRecord:
    """Return what the gate needs to know of a version; little of one that another program has registered."""
    return RunRecord(
        folder=f"{PREFIX}{version.name}/{version.version}",
        status=FINISHED,
        classes=version.tags.get(CLASSES, ""),
        split=version.tags.get(SPLIT, ""),
        metrics=json.loads(version.tags.get(METRICS, "{}")),
    )


class Bundle(NamedTuple):
    """What of a run is published.

    Args:
        folder: with links to its files.
        sha256: of their names and contents.
    """

    folder: Path
    sha256: str

    @property
    def place(self) -> str:
        """Where it is among the artifacts of the run there."""
        return f"bundle-{self.sha256[:12]}"


def exports_of(run: RunDir) -> list[str]:
    """Return the names of a run's exports.

    Raises:
        UserError: when it has none.
    """
    files = RunReader(run).info.get("files")
    if not files:
        remedy = f"{command('export')} {setting('run', run.path)}, or another run"
        raise UserError(f"{run.path} has exported nothing", "a run with its exported model", remedy)
    return list(files)


@contextmanager
def gathered(run: RunDir) -> Iterator[Bundle]:
    """Give a run's bundle: the exports, what describes them, what the run was and gave, and the images it had.

    Raises:
        UserError: when the run has exported nothing.
    """
    exported = exports_of(run)
    beside = [run.model_info, run.labels_mapping, run.config, run.versions, run.result, run.splits, run.corrections]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for path in (*(run.path / name for name in exported), *beside):
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    link = folder / file.relative_to(run.path)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file.absolute())
        yield Bundle(folder, sha256(folder))


def publish_version(
    server: Server, run: RunDir, record: RunRecord, bundle: Bundle, *, name: str, experiment_name: str
) -> tuple[ModelVersion, bool]:
    """Register a run as a version of a model; the same files twice are the same version.

    The run there is the one that training has logged to, if it did; metrics that were not sent are sent.

    Args:
        server: where to.
        run: the run folder.
        record: of the run.
        bundle: of the run.
        name: of the registered model.
        experiment_name: of a run that is new there.

    Returns:
        The version, and whether it is new.
    """
    client, outbox = server.client, Outbox(run, server.uri, experiment_name)
    try:
        client.create_registered_model(name)
    except Exception as error:
        if code_of(error) != "RESOURCE_ALREADY_EXISTS":
            raise
    known = _same(versions_of(server, name), bundle)
    if known is not None:
        if outbox.run_id == known.run_id:
            outbox.send(server)
        return known, False
    if outbox.run_id is None:
        run_id = outbox.open(server)
        outbox.add({f"{record.split}/{metric}": value for metric, value in record.metrics.items()}, 0)
        outbox.send(server)
        client.set_terminated(run_id)
    else:
        run_id = outbox.run_id
        outbox.check(server)
        outbox.send(server)
        if record.status == FINISHED:
            # Its end may have found no server.
            client.set_terminated(run_id)
    upload_bundle(server, run, bundle, run_id)
    tags = {
        SHA256: bundle.sha256,
        SPLIT: record.split,
        METRICS: json.dumps(record.metrics),
        CLASSES: record.classes,
        "version": record.version_name,
        "architecture": record.architecture,
        "published by": user_name() or "",
    }
    source = f"{client.get_run(run_id).info.artifact_uri}/{bundle.place}"
    made = client.create_model_version(name, source=source, run_id=run_id, tags=tags)
    first = _same(versions_of(server, name), bundle)
    if first is not None and first.version != made.version:
        # Two have published the same run at once.
        client.delete_model_version(name, made.version)
        return first, False
    return made, True


def upload_bundle(server: Server, run: RunDir, bundle: Bundle, run_id: str) -> None:
    """Upload a bundle and the report, unless the run there has these files.

    Args:
        server: to upload to.
        run: the run folder.
        bundle: of the run.
        run_id: of the run there.
    """
    if server.client.get_run(run_id).data.tags.get(UPLOADED) != bundle.sha256:
        server.client.log_artifacts(run_id, str(bundle.folder), bundle.place)
        for path in (run.report, run.model_card):
            if path.exists():
                server.client.log_artifact(run_id, str(path))
        server.client.set_tag(run_id, UPLOADED, bundle.sha256)


def _same(versions: list[ModelVersion], bundle: Bundle) -> ModelVersion | None:
    return next((version for version in versions if version.tags.get(SHA256) == bundle.sha256), None)


class Holder(NamedTuple):
    """Who holds an alias, as a promotion finds it.

    Args:
        version: that holds it; None where none does.
        turn: number of the last promotion to this alias; 0 where there was none.
        ledger: id of the run on the server that the promotions are noted in; empty where there is no version.
    """

    version: ModelVersion | None
    turn: int
    ledger: str


SETTLED_SECONDS = 10.0
"""How long an alias may differ from the last promotion that was noted, before it counts as moved by other means."""


def find_holder(server: Server, name: str, alias: str) -> Holder:
    """Return who holds an alias now; a promotion that is under way is waited for.

    Args:
        server: that is asked.
        name: of the registered model.
        alias: such as production.
    """
    began = time.monotonic()
    while True:
        ledger, turns = _turns(server, name, alias)
        version = _held(server, name, alias)
        is_settled = not turns or (version is not None and turns[max(turns)].startswith(f"version {version.version},"))
        if is_settled or time.monotonic() - began > SETTLED_SECONDS:
            return Holder(version, max(turns, default=0), ledger)
        time.sleep(0.2)


def _turns(server: Server, name: str, alias: str) -> tuple[str, dict[int, str]]:
    """Return the run that the promotions of a model are noted in, and those to an alias by their number.

    That is the run of the model's first version: the one thing that all who promote find without agreeing on it.
    """
    prefix = f"promotion.{alias}."
    for version in versions_of(server, name):
        if not version.run_id:
            continue
        try:
            run = server.client.get_run(version.run_id)
        except Exception as error:
            if code_of(error) == "RESOURCE_DOES_NOT_EXIST":
                continue
            raise
        if run.info.lifecycle_stage != GONE:
            numbered = {key.removeprefix(prefix): value for key, value in run.data.params.items()}
            return version.run_id, {int(key): value for key, value in numbered.items() if key.isdecimal()}
    return "", {}


def _held(server: Server, name: str, alias: str) -> ModelVersion | None:
    try:
        return server.client.get_model_version_by_alias(name, alias)
    except Exception as error:
        if code_of(error) not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    return None


def move_alias(server: Server, version: ModelVersion, alias: str, before: Holder) -> None:
    """Give a version an alias, if nobody else has since its holder was looked up.

    MLflow's aliases have no compare-and-set, but a parameter of a run is written once and never again. So the
    promotions of an alias are numbered parameters of one run, and of all who found the same holder one alone can write
    the next. The alias follows: whoever has set it reads the parameters again, and sets it anew where a later promotion
    is noted. Between the two, and for up to `SETTLED_SECONDS` after a process was killed there, it is behind.

    Args:
        server: of the model.
        version: to be the holder.
        alias: such as production.
        before: the holder that the version was compared with.

    Raises:
        CheckFailedError: when another version was promoted since.
    """
    name, key = version.name, f"promotion.{alias}.{before.turn + 1}"
    ledger = before.ledger or _turns(server, name, alias)[0]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    turn = f"version {version.version}, {now}, {(user_name() or 'unknown').replace(',', ' ')}, {secrets.token_hex(4)}"
    try:
        server.client.log_param(ledger, key, turn)
    except Exception as error:
        if code_of(error) != "INVALID_PARAMETER_VALUE":
            raise
        winner = server.client.get_run(ledger).data.params.get(key)
        if winner is None:
            raise
        raise _lost(version, alias, winner, before) from None
    while True:
        _, turns = _turns(server, name, alias)
        last = turns[max(turns)]
        found = re.match(r"version (\d+),", last)
        assert found is not None
        server.client.set_registered_model_alias(name, alias, found[1])
        if _turns(server, name, alias)[1].keys() == turns.keys():
            break
    if last != turn:
        log.warning("%s was replaced as %s at once: %s", record_of(version).version_name, alias, last)


def _lost(version: ModelVersion, alias: str, winner: str, before: Holder) -> CheckFailedError:
    number, when, who, _ = winner.split(", ")
    compared = "no version" if before.version is None else record_of(before.version).version_name
    return CheckFailedError(
        f"{PREFIX}{version.name}/{version.version} is not {alias}: {number} was promoted by {who} at {when}, in the "
        "meantime",
        f"the holder that it was compared with: {compared}",
        f"the same command again compares it with {PREFIX}{version.name}@{alias}, which is {number} now",
    )
