"""Where figures go besides metrics.csv."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from classifier_training.core.errors import reason_of
from classifier_training.core.register import register
from classifier_training.core.secrets import masked_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytorch_lightning.loggers import Logger

    from classifier_training.core.run_dir import RunDir


log = logging.getLogger(__name__)


def finish(logger: Logger, *, status: str) -> None:
    """Close what a run logged to, so that the next run of this process gets records of its own.

    Args:
        logger: of the run.
        status: success or failed.
    """
    from pytorch_lightning.loggers import WandbLogger

    logger.finalize(status)
    if isinstance(logger, WandbLogger):
        # Lightning leaves the run open until the process ends, and would continue it.
        logger.experiment.finish(exit_code=0 if status == "success" else 1)


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
    """Weights & Biases; without an API key the run is kept in the run folder, to be synchronised later.

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
        logger = WandbLogger(
            project=project,
            entity=entity,
            name=run_dir.path.name,
            save_dir=run_dir.path,
            offline=mode == "offline",
            settings=client.Settings(silent=True, console="off", mode=mode),
        )
        _ = logger.experiment
    return logger


@register(group="logging", name="mlflow", extra="mlflow")
def mlflow(
    run_dir: RunDir,
    *,
    tracking_uri: str | None = None,
    experiment_name: str = "classifier-training",
) -> Logger:
    """MLflow, on a server or in a database file.

    Args:
        tracking_uri: address of the server; when left out MLFLOW_TRACKING_URI, else mlflow.db where `mlflow ui` looks.
        experiment_name: name of the experiment there.
    """
    import mlflow as client
    from pytorch_lightning.loggers import MLFlowLogger

    # Its notes on setting up a database are no part of a run's story.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Nor is the run's address at the end, with whatever secret stands in it.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    uri = tracking_uri or client.get_tracking_uri()
    return MLFlowLogger(experiment_name=experiment_name, tracking_uri=uri, run_name=run_dir.path.name)
