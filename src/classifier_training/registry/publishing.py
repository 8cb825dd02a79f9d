"""Publishing a promotion to another registry: MLflow or Weights & Biases."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.run_reader import RunReader
from classifier_training.core.secrets import masked_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir
    from classifier_training.registry.record import RunRecord


def bundle_files(run: RunDir) -> list[Path]:
    """List the files and folders of a bundle: the exports, what describes them, and what the run was and gave."""
    exported = [run.path / name for name in RunReader(run).info["files"]]
    beside = [run.model_info, run.labels_mapping, run.config, run.versions, run.result, run.registration]
    return [path for path in (*exported, *beside) if path.exists()]


@register(group="publish", name="mlflow", extra="mlflow")
def mlflow(
    run: RunDir,
    record: RunRecord,
    alias: str,
    *,
    tracking_uri: str | None = None,
    experiment_name: str = "classifier-training",
    model_name: str | None = None,
) -> str:
    """MLflow: the bundle as artifacts of a run there, a version of a registered model, and the alias.

    Args:
        tracking_uri: address of the server or database; when left out MLFLOW_TRACKING_URI, else MLflow's default.
        experiment_name: name of the experiment there.
        model_name: name of the registered model there; the run's own when left out.

    Raises:
        UserError: when MLflow refuses.
    """
    import mlflow as client
    from mlflow.exceptions import MlflowException

    # Its notes on setting up a database are no part of a promotion's story.
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    uri = tracking_uri or client.get_tracking_uri()
    # MLflow takes slashes for folders in some of its stores.
    name = (model_name or record.title).replace("/", "-")
    try:
        there = client.MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = there.get_experiment_by_name(experiment_name)
        number = there.create_experiment(experiment_name) if experiment is None else experiment.experiment_id
        made = there.create_run(number, run_name=record.version_name, tags={"folder": record.folder})
        for metric, value in record.metrics.items():
            there.log_metric(made.info.run_id, f"{record.split}/{metric}", value)
        for path in bundle_files(run):
            if path.is_dir():
                there.log_artifacts(made.info.run_id, str(path), f"bundle/{path.name}")
            else:
                there.log_artifact(made.info.run_id, str(path), "bundle")
        there.set_terminated(made.info.run_id)
        if not there.search_registered_models(f"name = '{name}'"):
            there.create_registered_model(name)
        version = there.create_model_version(
            name,
            source=f"{made.info.artifact_uri}/bundle",
            run_id=made.info.run_id,
            tags={"version": record.version_name, "architecture": record.architecture},
        )
        there.set_registered_model_alias(name, alias, version.version)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"publish=mlflow: {uri} refused: {str(error).partition(chr(10))[0]}",
            "a tracking server or database with a model registry, such as sqlite:///mlflow.db",
            "publish.tracking_uri=…; the promotion itself stands, and can be published by the same command again",
        ) from error
    return f"MLflow at {uri}: {name} version {version.version}, alias {alias}"


@register(group="publish", name="wandb", extra="wandb")
def wandb(
    run: RunDir,
    record: RunRecord,
    alias: str,
    *,
    project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")] = "classifier-training",
    entity: str | None = None,
    mode: Literal["auto", "online", "offline"] = "auto",
    registered_name: str | None = None,
) -> str:
    """Weights & Biases: the bundle as an artifact of type model, under the alias; without an API key kept for later.

    Args:
        project: name of the project there.
        entity: team or user that owns the project.
        mode: auto is online when WANDB_API_KEY or a saved login is there, else offline. Nothing is ever asked.
        registered_name: collection of the registry to link it to, as in my-registry/digits; only online.

    Raises:
        UserError: when W&B refuses.
    """
    import wandb as client
    from wandb.errors import Error

    os.environ.setdefault("WANDB_SILENT", "true")
    if mode == "auto":
        with masked_arguments():
            mode = "online" if client.login(prompt=False, verify=False) else "offline"
    if registered_name is not None and mode == "offline":
        raise UserError(
            f"publish.registered_name={registered_name} without a connection",
            "an API key: the registry is linked to on the server alone",
            "export WANDB_API_KEY=…, or leave registered_name out and synchronise later",
        )
    try:
        # The client keeps the command line.
        with (
            masked_arguments(),
            client.init(
                project=project,
                entity=entity,
                name=f"promote {record.version_name}",
                job_type="promote",
                dir=run.path,
                settings=client.Settings(silent=True, console="off", mode=mode),
            ) as session,
        ):
            # W&B's names know no slash and no colon.
            artifact = client.Artifact(
                record.title.replace("/", "-"),
                type="model",
                metadata={"version": record.version_name, "split": record.split, **record.metrics},
            )
            for path in bundle_files(run):
                if path.is_dir():
                    artifact.add_dir(str(path), name=path.name)
                else:
                    artifact.add_file(str(path), name=path.name)
            session.log_artifact(artifact, aliases=[alias])
            if registered_name is not None:
                artifact.wait()
                session.link_artifact(artifact, registered_name, aliases=[alias])
            folder = session.settings.sync_dir
    except Error as error:
        raise UserError(
            f"publish=wandb refused: {str(error).partition(chr(10))[0]}",
            "a project that you may write to, or mode=offline",
            "publish.mode=offline; the promotion itself stands, and can be published by the same command again",
        ) from error
    if mode == "offline":
        return f"W&B, kept for later: wandb sync {folder}"
    return f"W&B: artifact {record.title} with the alias {alias}"
