"""Weights & Biases' artifacts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.secrets import masked_arguments
from classifier_training.registry.publish.bundle import bundle_files

if TYPE_CHECKING:
    from classifier_training.core.run_dir import RunDir
    from classifier_training.registry.record import RunRecord


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
