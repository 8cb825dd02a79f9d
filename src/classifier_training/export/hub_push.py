"""A run's model as a repository of the Hugging Face Hub. Needs no torch."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from classifier_training.core.run_dir import RunDir

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

PUSHED = ("*.onnx", "*.safetensors", "config.json", "labels_mapping.json", "model_info.json")
"""What is pushed besides the card. No pictures, nor pages that show some: their owner may not want them shown."""

CARD_ON_HUB = "README.md"


def check_repository(repository: str) -> None:
    """Make sure, before any work, that a repository is named as the Hub names them.

    Raises:
        UserError: when it is not.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UserError(
            f"push_to_hub={repository}: no name of a repository",
            "user/name, or organisation/name",
            "push_to_hub=me/model",
        )


def push_to_hub(run_dir: RunDir, repository: str) -> str:
    """Upload what the model needs to be used, with MODEL_CARD.md as its page; a new repository is private.

    The token is that of `hf auth login` or HF_TOKEN; it is never asked for, nor written anywhere.

    Args:
        run_dir: the folder of the model.
        repository: user/name.

    Returns:
        The address of the commit.

    Raises:
        UserError: when the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    check_repository(repository)
    api = HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for pattern in PUSHED:
            for file in run_dir.path.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        if run_dir.model_card.exists():
            shutil.copyfile(run_dir.model_card, folder / CARD_ON_HUB)
        try:
            api.create_repo(repository, private=True, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload a trained classifier"
            )
        except Exception as error:  # the client's HTTP library, and so its errors, have changed before
            raise UserError(
                f"push_to_hub={repository}: {str(error).strip().partition(chr(10))[0] or type(error).__name__}",
                "the Hub within reach, and a token that may write there",
                "log in with `hf auth login`, or set HF_TOKEN; the files themselves lie in " + str(run_dir.path),
            ) from error
    return str(commit.commit_url)
