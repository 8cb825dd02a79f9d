"""Lightning's logger of an MLflow server, which may be away for a while."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import Logger

from classifier_training.core.errors import UserError, plural, reason_of
from classifier_training.core.secrets import mask_text
from classifier_training.registry.mlflow_models import gathered, upload_bundle
from classifier_training.registry.mlflow_outbox import Outbox
from classifier_training.registry.mlflow_server import Server, connect, is_away

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.core.run_dir import RunDir

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds until a server that did not answer is asked again; they double from the first to the longest."""

END_SECONDS = {"success": 60.0, "failed": 5.0}
"""How long the end of a run waits for metrics to be sent; a process that was interrupted may not have long to live."""


class MlflowLogger(Logger):
    """Logs to one run of an MLflow server, which a resumed run continues.

    A thread sends the metrics; training never waits for the server and never ends because of it.

    Args:
        run: the run folder.
        uri: address of the server.
        experiment_name: of a run that is new there.
        log_model: whether the exported model is uploaded at the end.
    """

    def __init__(self, run: RunDir, uri: str, experiment_name: str, *, log_model: bool) -> None:
        super().__init__()
        self.outbox = Outbox(run, uri, experiment_name)
        self._uri = uri
        self._log_model = log_model
        self._server: Server | None = None
        self._news = threading.Event()
        self._ending: str | None = None
        self._end, self._left = threading.Event(), False
        self._given_up = False
        self._trouble = ""
        self._sender = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._sender.start()

    @property
    def name(self) -> str:
        """The experiment."""
        return self.outbox.experiment_name

    @property
    def version(self) -> str | None:
        """Id of the run there, once it is known."""
        return self.outbox.run_id

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings of the run folder are logged."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics in the run folder, and have them sent."""
        try:
            self.outbox.add(metrics, step or 0)
        except OSError as error:
            log.warning("%s cannot be written: %s", self.outbox.run.mlflow_metrics, reason_of(error))
        self._news.set()

    def close(self, status: str) -> None:
        """Wait until all is sent, but not for long, and say what was not.

        It is not Lightning's finalize, which comes after the last epoch, before the scores.

        Args:
            status: success or failed.
        """
        self._ending = "FINISHED" if status == "success" else "FAILED"
        self._end.set()
        self._news.set()
        self._sender.join(END_SECONDS.get(status, END_SECONDS["failed"]))
        self._left = True
        if words := self.outbox.words():
            log.warning("logging.mlflow: %s", words)
        elif self._sender.is_alive() or self._given_up:
            log.warning("logging.mlflow: %s was not told that the run has ended", self.outbox.server)

    def upload(self) -> None:
        """Send the exported model of the finished run."""
        if self._log_model and not self._sender.is_alive() and not self._given_up and self._server is not None:
            assert self.outbox.run_id is not None
            with gathered(self.outbox.run) as bundle:
                upload_bundle(self._server, self.outbox.run, bundle, self.outbox.run_id)

    def _send_all(self) -> None:
        """Send what comes, until the end of the run; a server that does not answer is asked again and again."""
        wait = FIRST_WAIT
        while True:
            # In this order: news of the end between the two would be forgotten.
            self._news.clear()
            ending = self._ending
            try:
                if self._server is None:
                    server = connect(self._uri, purpose="logging=mlflow")
                    self._say_where(self.outbox.open(server))
                    self._server = server
                self.outbox.send(self._server)
                if ending is not None:
                    self._server.client.set_terminated(str(self.outbox.run_id), ending)
                    return
            except Exception as error:  # noqa: BLE001 - nothing that happens here may end a training
                if not self._is_temporary(error) or self._left:
                    return
                # Not all runs of a cluster at the same moment.
                if self._end.wait(wait * random.uniform(0.5, 1.5)):  # noqa: S311
                    time.sleep(FIRST_WAIT)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            wait = FIRST_WAIT
            if self._trouble:
                log.info("logging.mlflow: %s takes metrics again; all are sent", self.outbox.server)
                self._trouble = ""
            self._news.wait()

    def _is_temporary(self, error: Exception) -> bool:
        """Say once what is wrong with the server; returns whether it may take metrics later."""
        may_pass = is_away(error)
        reason = mask_text(reason_of(error))
        if not may_pass:
            self._given_up = True
            log.warning(
                "logging.mlflow: %s takes no metrics of this run: %s; training goes on, and metrics.csv has them",
                self.outbox.server,
                error if isinstance(error, UserError) else reason,
            )
        elif not self._trouble:
            self._trouble = reason
            log.warning(
                "logging.mlflow: %s does not answer: %s; training goes on, and %s kept in %s until it does",
                self.outbox.server, reason, f"{plural(self.outbox.num_unsent, 'metric is', 'metrics are')}",
                self.outbox.run.mlflow_metrics,
            )  # fmt: skip
        return may_pass

    def _say_where(self, run_id: str) -> None:
        log.info("logging.mlflow: run %s on %s", run_id, self.outbox.server)
