"""MLflow's model registry."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.registry.publish.bundle import bundle_files

if TYPE_CHECKING:
    from classifier_training.core.run_dir import RunDir
    from classifier_training.registry.record import RunRecord


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
