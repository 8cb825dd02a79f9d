"""Metrics on their way to an MLflow server: kept in the run folder until the server has them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import re
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError, first_line, plural
from classifier_training.core.run_dir import sha256, write_json
from classifier_training.core.run_reader import RunReader, read_values
from classifier_training.core.runtime import command, setting, user_name
from classifier_training.core.secrets import mask_text, mask_words
from classifier_training.registry.mlflow_server import Server, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mlflow.entities import Metric

    from classifier_training.core.run_dir import RunDir

log = logging.getLogger(__name__)

METRICS_PER_REQUEST, PARAMS_PER_REQUEST = 1000, 100
"""What MLflow takes at once."""

LONGEST_NAME, LONGEST_PARAM = 250, 500
"""Characters; servers before MLflow 2.9 take so many of a parameter's value."""

EXPERIMENT = "classifier-training"

GONE = "deleted"
"""MLflow's word for a run or experiment that was deleted and can be restored."""


class Outbox:
    """The metrics of a run folder for one server, and which run there they are of.

    A row is on the disk before it is sent, with the time that the server is given. So a row that is sent a second time
    is the same to MLflow, which keeps one. Of a metric and step the first value counts: an epoch that is trained again
    after a kill adds nothing.

    Args:
        run: the run folder.
        uri: address of the server.
        experiment_name: name of the experiment there, for a run that is new to it.
    """

    def __init__(self, run: RunDir, uri: str, experiment_name: str = EXPERIMENT) -> None:
        self.run = run
        self.server = mask_text(uri)
        self.experiment_name = experiment_name
        self.refused: dict[str, str] = {}
        self._sending = threading.Lock()
        self._facts = _read_facts(self.run.mlflow_run)
        if self._facts.get("server") not in (None, self.server):
            # Another server, or the same by another name: it gets a run of its own, with all metrics.
            self._facts = {}
        self._rows = list(self._kept())
        # Fewer where a full disk cost a row that was sent all the same.
        self._num_sent = min(self._facts.get("rows_sent", 0), len(self._rows))
        self._seen = {(row["step"], name) for row in self._rows for name in row["metrics"]}

    @property
    def run_id(self) -> str | None:
        """Of the run there; None where there is none yet."""
        return self._facts.get("run_id")

    @property
    def num_unsent(self) -> int:
        """Metrics that the server does not have yet."""
        return sum(len(row["metrics"]) for row in self._rows[self._num_sent :])

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep metrics, to be sent.

        Args:
            metrics: by name; those of a step that were kept before are left out.
            step: of the optimizer.
        """
        new = {name: float(value) for name, value in metrics.items() if (step, name) not in self._seen}
        if not new:
            return
        row = {"step": step, "timestamp": time.time_ns() // 1_000_000, "metrics": new}
        self._seen |= {(step, name) for name in new}
        self.run.mlflow_metrics.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.run.mlflow_metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        finally:
            # A full disk costs the copy, not the row.
            self._rows.append(row)

    def check(self, server: Server) -> None:
        """Raise when the run there was deleted.

        Raises:
            UserError: then.
        """
        if self.run_id is None:
            return
        try:
            is_gone = server.client.get_run(self.run_id).info.lifecycle_stage == GONE
        except Exception as error:
            if code_of(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            is_gone = True
        if is_gone:
            raise UserError(
                f"{self.run.path}: its run {self.run_id} on {self.server} was deleted there",
                "the run that this folder has logged to",
                f"restore it: mlflow runs restore --run-id {self.run_id}; or rm {self.run.mlflow_run}, and a new run "
                "there gets all metrics, those from before too",
            )

    def open(self, server: Server) -> str:
        """Return the id of the run there, which is made where there is none; it is running again.

        Args:
            server: that is asked.
        """
        if self.run_id is None:
            client = server.client
            self._save(
                server=self.server,
                experiment=self.experiment_name,
                run_id=client.create_run(
                    experiment_id(server, self.experiment_name), run_name=self.run.path.name, tags=tags_of(self.run)
                ).info.run_id,
                rows_sent=0,
            )
        else:
            self.check(server)
            server.client.update_run(self.run_id, status="RUNNING")
        assert self.run_id is not None
        self._log_params(server, self.run_id)
        return self.run_id

    def send(self, server: Server) -> int:
        """Send what was not sent; returns how many metrics the server took.

        Args:
            server: to send to; `open` has made the run there.

        Raises:
            MlflowException: when it does not take them; those that it took are noted.
        """
        sent = 0
        with self._sending:
            while rows := self._rows[self._num_sent :][:METRICS_PER_REQUEST]:
                taken = 0
                metrics: list[Metric] = []
                for row in rows:
                    if metrics and len(metrics) + len(row["metrics"]) > METRICS_PER_REQUEST:
                        break
                    metrics += _metrics(row)
                    taken += 1
                for start in range(0, len(metrics), METRICS_PER_REQUEST):
                    sent += self._send(server, metrics[start : start + METRICS_PER_REQUEST])
                self._num_sent += taken
                self._save(rows_sent=self._num_sent)
        return sent

    def _send(self, server: Server, metrics: Sequence[Metric]) -> int:
        """Send metrics in one request; of those that it is refused for, each is found and named."""
        assert self.run_id is not None
        try:
            server.client.log_batch(self.run_id, metrics=metrics)
        except Exception as error:
            if code_of(error) != "INVALID_PARAMETER_VALUE":
                raise
            self.check(server)
            if len(metrics) == 1:
                log.warning("%s refuses the metric %s: %s", self.server, metrics[0].key, first_line(error))
                self.refused[metrics[0].key] = first_line(error)
                return 0
            half = len(metrics) // 2
            return self._send(server, metrics[:half]) + self._send(server, metrics[half:])
        return len(metrics)

    def _log_params(self, server: Server, run_id: str) -> None:
        """Log the settings; MLflow takes each once, so what a resumed run changes becomes a tag."""
        from mlflow.entities import Param, RunTag

        settings = flat(RunReader(self.run).config)
        before = server.client.get_run(run_id).data.params
        new = [Param(name, value) for name, value in settings.items() if name not in before]
        for start in range(0, len(new), PARAMS_PER_REQUEST):
            server.client.log_batch(run_id, params=new[start : start + PARAMS_PER_REQUEST])
        changed = {name: value for name, value in settings.items() if before.get(name, value) != value}
        tags = [RunTag(f"resumed with {name}"[:LONGEST_NAME], value) for name, value in changed.items()]
        if tags:
            server.client.log_batch(run_id, tags=tags[:PARAMS_PER_REQUEST])

    def _kept(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of before."""
        try:
            written = self.run.mlflow_metrics.read_bytes()
        except FileNotFoundError:
            return
        whole = written.rpartition(b"\n")[0]
        if len(whole) + 1 < len(written):
            # A process was killed while it wrote the last; the epoch is trained again.
            os.truncate(self.run.mlflow_metrics, len(whole) + 1 if whole else 0)
        for line in whole.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                log.warning("%s: a line is damaged; its metrics are lost", self.run.mlflow_metrics)
                yield {"step": 0, "timestamp": 0, "metrics": {}}

    def _save(self, **changed: Any) -> None:
        self._facts |= changed
        write_json(self.run.mlflow_run, self._facts)

    def words(self) -> str:
        """Say which metrics the server does not have, and how it gets them; empty where it has all."""
        found = []
        if self.num_unsent:
            again = f"{command('registry')} publish {setting('run', self.run.path)}"
            found.append(
                f"{plural(self.num_unsent, 'metric')} not sent to {self.server}; they are in "
                f"{self.run.mlflow_metrics}: {again} "
                "sends them with the model, and train resume=… sends them too"
            )
        if self.refused:
            found.append(f"{plural(len(self.refused), 'metric')} refused by {self.server}: {', '.join(self.refused)}")
        return "; ".join(found)


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        return read_values(path)
    except FileNotFoundError:
        return {}


def _metrics(row: Mapping[str, Any]) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(metric_name(name), value, row["timestamp"], row["step"]) for name, value in row["metrics"].items()]


def metric_name(name: str) -> str:
    """Return the name of a metric that MLflow takes; where that is another one, a digest keeps it apart from others.

    MLflow takes letters of every language, digits, spaces and / _ . - : and no name that means another one as a path.
    """
    plain = re.sub(r"[^/\w. -]", "_", name)
    if plain == name and posixpath.normpath(name) == name and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    split, slash, rest = plain.partition("/")
    return f"{split}{slash}{rest.replace('/', '_')}"[: LONGEST_NAME - 10] + f"_{digest}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings by their dotted names, as texts that MLflow takes."""
    found: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            found |= flat(value, f"{key}.")
        else:
            text = str(value)
            shown = text if len(text) <= LONGEST_PARAM else f"{text[: LONGEST_PARAM - 1]}…"
            found[metric_name(key)] = shown
    return found


def experiment_id(server: Server, name: str) -> str:
    """Return the number of an experiment, which is made where there is none; others may make it at the same time."""
    found = server.client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(server.client.create_experiment(name))
        except Exception as error:
            if code_of(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            found = server.client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == GONE:
        raise UserError(
            f"the experiment {name} on {server.name} was deleted",
            "an experiment that runs can be added to",
            f"mlflow experiments restore --experiment-id {found.experiment_id if found else '…'}, or another "
            "experiment_name",
        )
    return str(found.experiment_id)


def tags_of(run: RunDir) -> dict[str, str]:
    """Return what is known of a run besides its settings: host, user, folder, data, code."""
    config = RunReader(run).config
    data = config.get("data") or {}
    found = {
        "mlflow.source.name": " ".join(["classifier-training", *mask_words(sys.argv[1:])])[:LONGEST_PARAM],
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user_name() or "",
        "host": socket.gethostname(),
        "folder": str(run.path.absolute()),
        "data": str(data.get("root") or data.get("name") or data.get("type") or ""),
        "splits.sha256": sha256(run.splits) if run.splits.is_file() else "",
        **_git(),
    }
    return {name: value for name, value in found.items() if value}


def _git() -> dict[str, str]:
    """Return the commit of the working folder, and whether files differ from it; nothing outside a repository."""

    def say(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603, S607
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = say("rev-parse", "HEAD")
    if not commit:
        return {}
    changed = say("status", "--porcelain", "--untracked-files=no")
    return {"mlflow.source.git.commit": commit, "git.changed": str(bool(changed)).lower()}
