"""One exported model for all tests of inference."""

from __future__ import annotations

import pytest
import torch
from tests.bundles import write_bundle
from tests.unit.export.test_export import PREPROCESSING, examples

from classifier_training.core.run_dir import RunDir
from classifier_training.export.bundle import BundleInfo
from classifier_training.models.timm_models import timm_model


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    torch.manual_seed(0)
    made = RunDir(tmp_path_factory.mktemp("run"))
    info = BundleInfo(class_names=("a", "b", "c"), preprocessing=PREPROCESSING, architecture="test_resnet")
    write_bundle(
        made,
        timm_model(3, name="test_resnet", pretrained=False),
        info,
        examples=examples(tmp_path_factory.mktemp("images")),
        opset=None,
    )
    return made
