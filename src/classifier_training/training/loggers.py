"""Where metrics go besides metrics.csv."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from classifier_training.core.errors import UserError, reason_of
from classifier_training.core.register import TYPE_KEY, describe, register
from classifier_training.core.secrets import masked_arguments
from classifier_training.registry.mlflow_server import UnreachableError, answering, connect, default_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytorch_lightning.loggers import Logger

    from classifier_training.core.run_dir import RunDir
    from classifier_training.training.settings import LoggerBuilder

log = logging.getLogger(__name__)


def finish(logger: Logger, *, status: str) -> None:
    """Close what a run logged to, so that the next run of this process gets records of its own.

    Args:
        logger: of the run.
        status: success or failed.
    """
    from pytorch_lightning.loggers import WandbLogger

    from classifier_training.training.mlflow_logger import MlflowLogger

    logger.finalize(status)
    if isinstance(logger, MlflowLogger):
        logger.close(status)
    if isinstance(logger, WandbLogger):
        # Lightning leaves the run open until the process ends, and would continue it.
        logger.experiment.finish(exit_code=0 if status == "success" else 1)


def upload(logger: Logger) -> None:
    """Send the exported model of a finished run where its metrics went, if the logger does that."""
    # Its module imports Lightning's, and few runs need it.
    from classifier_training.training.mlflow_logger import MlflowLogger

    if isinstance(logger, MlflowLogger):
        logger.upload()


@contextmanager
def closed_after_errors(loggers: Iterable[Logger]) -> Iterator[None]:
    """Close what a run logged to when the block fails; its error reaches the user, whatever happens in a logger."""
    try:
        yield
    except BaseException:
        for logger in loggers:
            try:
                finish(logger, status="failed")
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("%s could not be closed: %s", type(logger).__name__, reason_of(error))
        raise


def refuse_unreachable(chosen: Mapping[str, LoggerBuilder], resumed: RunDir | None = None) -> None:
    """Raise when a logger that was asked for cannot log, before a run has read or made anything.

    Args:
        chosen: the loggers.
        resumed: the run that is resumed, if one is.

    Raises:
        UserError: for wandb online without a login, for an MLflow server that does not answer, and where the resumed
            run's was deleted there.
    """
    for name, build in chosen.items():
        node = describe(build)
        if node[TYPE_KEY] == "wandb" and node["mode"] == "online":
            import wandb as client

            if not client.login(prompt=False, verify=False):
                raise UserError(
                    f"logging.{name}.mode=online: there is no login of Weights & Biases on this machine",
                    "an API key",
                    "wandb login, or export WANDB_API_KEY=…; logging.wandb.mode=offline keeps the run here, to be sent "
                    "later",
                )
        if node[TYPE_KEY] == "mlflow":
            _refuse_mlflow(node["tracking_uri"], node["experiment_name"], resumed)


def _refuse_mlflow(uri: str | None, experiment_name: str, resumed: RunDir | None) -> None:
    """Raise when an MLflow server does not answer or refuses, or the run there was deleted.

    A run that is resumed needs no server: its metrics are kept until there is one.
    """
    from classifier_training.registry.mlflow_outbox import Outbox

    try:
        server = connect(uri, purpose="logging=mlflow")
        outbox = None if resumed is None else Outbox(resumed, server.uri, experiment_name)
        if outbox is None or outbox.run_id is None:
            with answering(server.uri, purpose="logging=mlflow"):
                server.client.get_experiment_by_name(experiment_name)
        else:
            with answering(server.uri, purpose="logging=mlflow"):
                outbox.check(server)
    except UnreachableError as error:
        if resumed is None:
            raise
        log.warning("%s; the run is resumed all the same, and its metrics are kept until it does", error.came)


@register(group="logging", name="tensorboard", extra="tensorboard")
def tensorboard(run_dir: RunDir) -> Logger:
    """TensorBoard event files in the run folder's tensorboard/."""
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=run_dir.path, name="tensorboard", version="", default_hp_metric=False)


@register(group="logging", name="wandb", extra="wandb")
def wandb(
    run_dir: RunDir,
    *,
    project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")] = "classifier-training",
    entity: str | None = None,
    mode: Literal["auto", "online", "offline"] = "auto",
) -> Logger:
    """Weights & Biases; without an API key the run is kept in the run folder, to be synchronized later.

    Args:
        project: name of the project there.
        entity: team or user that owns the project.
        mode: auto is online when WANDB_API_KEY or a saved login is there, else offline. Nothing is ever asked.
    """
    import wandb as client
    from pytorch_lightning.loggers import WandbLogger

    # Lightning passes a setting on that the client no longer has, and the client says so.
    os.environ.setdefault("WANDB_SILENT", "true")
    # The client keeps the command line, as it is when it begins.
    with masked_arguments():
        if mode == "auto":
            known = client.login(prompt=False, verify=False)
            mode = "online" if known else "offline"
            if not known:
                log.info(
                    "logging.wandb: no login on this machine; the run is kept in %s, for wandb sync to send",
                    run_dir.path / "wandb",
                )
        # A run that is resumed is one run there, too; of one that is kept here the client would say that it cannot.
        known_id = wandb_id(run_dir) if mode == "online" else None
        logger = WandbLogger(
            id=known_id,
            resume="allow" if known_id else None,
            project=project,
            entity=entity,
            name=run_dir.path.name,
            save_dir=run_dir.path,
            offline=mode == "offline",
            settings=client.Settings(silent=True, console="off", mode=mode),
        )
        _ = logger.experiment
    return logger


def wandb_id(run_dir: RunDir) -> str | None:
    """The id that a run had at Weights & Biases when it was last trained, by the folder there; None for a new run."""
    folders = sorted((run_dir.path / "wandb").glob("run-*-*"))
    return folders[-1].name.rpartition("-")[2] if folders else None


@register(group="logging", name="mlflow", extra="mlflow")
def mlflow(
    run_dir: RunDir,
    *,
    tracking_uri: str | None = None,
    experiment_name: str = "classifier-training",
    log_model: bool = True,
) -> Logger:
    """MLflow, on a server or in a database file; a server that is away for a while gets the metrics later.

    Args:
        tracking_uri: address of the server; when left out MLFLOW_TRACKING_URI, else mlflow.db where `mlflow ui` looks.
        experiment_name: name of the experiment there.
        log_model: upload the exported model and the report at the end of the run.
    """
    from classifier_training.training.mlflow_logger import MlflowLogger

    uri = tracking_uri or default_uri(purpose="logging=mlflow")
    return MlflowLogger(run_dir, uri, experiment_name, log_model=log_model)
