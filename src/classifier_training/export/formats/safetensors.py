"""safetensors: the weights, loadable without pickle."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from classifier_training.core.register import register
from classifier_training.core.run_dir import atomic_path
from classifier_training.export.contestants import torch_runner
from classifier_training.export.hub import write_hub_config

if TYPE_CHECKING:
    from classifier_training.export.job import ExportedFile, ExportJob


@register(group="format", name="safetensors")
def safetensors(job: ExportJob) -> list[ExportedFile]:
    """Weights for PyTorch in model.safetensors, with class names and preprocessing in its metadata.

    Where timm has the network under the same name, config.json lets `timm.create_model("local-dir:…")` read them.

    Raises:
        CheckFailedError: when the weights that were read back answer differently.
    """
    from safetensors.torch import load_file, save_file

    path = job.target.weights
    with atomic_path(path) as temporary:
        state = {name: value.contiguous() for name, value in job.network.state_dict().items()}
        save_file(state, temporary, metadata=job.info.metadata())
    write_hub_config(job.target.hub_config, job.network, job.info)
    restored = copy.deepcopy(job.network)
    restored.load_state_dict(load_file(path))
    return [job.finish(path, "safetensors", torch_runner(restored))]
