"""Publishing a promotion to another registry: MLflow or Weights & Biases."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.secrets import masked_arguments
from classifier_training.registry.mlflow_models import (
    PREFIX,
    SHA256,
    exports_of,
    find_holder,
    gathered,
    move_alias,
    publish_version,
    record_of,
)
from classifier_training.registry.mlflow_outbox import EXPERIMENT
from classifier_training.registry.mlflow_server import answering, connect

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir
    from classifier_training.registry.promotion import Gate
    from classifier_training.registry.record import RunRecord


REMEDY = "publish.tracking_uri=…; the promotion itself stands, and can be published by the same command again"


def bundle_files(run: RunDir) -> list[Path]:
    """List the files and folders of a bundle: the exports, what describes them, and what the run was and gave."""
    exported = [run.path / name for name in exports_of(run)]
    beside = [run.model_info, run.labels_mapping, run.config, run.versions, run.result, run.registration]
    return [path for path in (*exported, *beside) if path.exists()]


@register(group="publish", name="mlflow", extra="mlflow")
def mlflow(
    run: RunDir,
    record: RunRecord,
    alias: str | None,
    gate: Gate,
    *,
    tracking_uri: str | None = None,
    experiment_name: str = EXPERIMENT,
    model_name: str | None = None,
) -> str:
    """MLflow: the bundle as artifacts of a run there, a version of a registered model, and the alias.

    Args:
        tracking_uri: address of the server or database; when left out MLFLOW_TRACKING_URI, else MLflow's default.
        experiment_name: name of the experiment there, for a run that has not logged to it.
        model_name: name of the registered model there; the run's own when left out.

    Raises:
        UserError: when MLflow refuses.
        CheckFailedError: when the run does not pass the gate against the present holder there, or another version was
            promoted in the meantime.
    """
    # MLflow takes slashes for folders in some of its stores.
    name = re.sub(r"[/:@]", "-", model_name or record.title)
    server = connect(tracking_uri, purpose="publish=mlflow", remedy=REMEDY)
    with answering(server.uri, purpose="publish=mlflow", remedy=REMEDY), gathered(run) as bundle:
        # Looked up before the upload: of all who find this holder one can take its place.
        before = None if alias is None else find_holder(server, name, alias)
        former = None if before is None else before.version
        if alias is not None and (former is None or former.tags.get(SHA256) != bundle.sha256):
            holder = None if former is None else record_of(former)
            gate.check(record, holder, alias=f"{PREFIX}{name}@{alias}")
        version, is_new = publish_version(server, run, record, bundle, name=name, experiment_name=experiment_name)
        said = f"MLflow at {server.name}: {name} version {version.version}{'' if is_new else ' (published before)'}"
        if alias is None or before is None:
            return said
        if former is not None and former.version == version.version:
            return f"{said}, alias {alias} as before"
        move_alias(server, version, alias, before)
    return f"{said}, alias {alias}" + ("" if former is None else f", instead of version {former.version}")


@register(group="publish", name="wandb", extra="wandb")
def wandb(
    run: RunDir,
    record: RunRecord,
    alias: str | None,
    gate: Gate,  # noqa: ARG001 - W&B moves the alias whoever holds it
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
            "export WANDB_API_KEY=…, or leave registered_name out and synchronize later",
        )
    files = bundle_files(run)
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
            aliases = [] if alias is None else [alias]
            for path in files:
                if path.is_dir():
                    artifact.add_dir(str(path), name=path.name)
                else:
                    artifact.add_file(str(path), name=path.name)
            session.log_artifact(artifact, aliases=aliases)
            if registered_name is not None:
                artifact.wait()
                session.link_artifact(artifact, registered_name, aliases=aliases)
            folder = session.settings.sync_dir
    except Error as error:
        raise UserError(
            f"publish=wandb refused: {str(error).partition(chr(10))[0]}",
            "a project that you may write to, or mode=offline",
            "publish.mode=offline; the promotion itself stands, and can be published by the same command again",
        ) from error
    if mode == "offline":
        return f"W&B, kept for later: wandb sync {folder}"
    return f"W&B: artifact {record.title}{'' if alias is None else f' with the alias {alias}'}"
