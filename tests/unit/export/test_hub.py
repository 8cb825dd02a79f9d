"""Weights for timm and a push to the Hub, which is a local server here."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from classifier_training.core.errors import UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir
from classifier_training.export.bundle import BundleInfo
from classifier_training.export.sharing import push_to_hub, write_hub_config
from classifier_training.models.timm_models import timm_model
from classifier_training.models.torchvision_models import torchvision_model

PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.25))


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_timm_reads_the_weights_of_a_run_folder(tmp_path: Path, kind: str) -> None:
    import timm

    torch.manual_seed(0)
    build, name = (timm_model, "test_resnet") if kind == "timm" else (torchvision_model, "resnet18")
    built = build(3, name=name, pretrained=False)
    info = BundleInfo(class_names=("a", "b", "c"), preprocessing=PREPROCESSING, architecture=built.architecture)
    run_dir = RunDir(tmp_path)
    network = built.network.eval()
    assert write_hub_config(run_dir.hub_config, network, info)
    save_file(network.state_dict(), run_dir.weights)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pictures = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))
    with torch.inference_mode():
        assert torch.allclose(again(pictures), network(pictures), atol=1e-5)
    known: Any = again.pretrained_cfg
    assert known["label_names"] == ["a", "b", "c"]
    assert list(known["mean"]) == [0.5, 0.4, 0.3]


def test_a_network_that_timm_does_not_have_leaves_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    info = BundleInfo(class_names=("a", "b"), preprocessing=PREPROCESSING, architecture="resnet18")
    assert not write_hub_config(path, torch.nn.Linear(2, 2), info)
    assert not path.exists()
    # With a dropout before it the last layer's weights have another name.
    dropping = torchvision_model(2, name="resnet18", dropout=0.5, pretrained=False)
    assert not write_hub_config(path, dropping.network, info)


class _Hub(BaseHTTPRequestHandler):
    asked: list[tuple[str, str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append((self.path, self.headers.get("authorization", ""), body))
        answer: dict[str, Any] = {"url": "https://huggingface.co/me/model"}
        if "preupload" in self.path:
            files = json.loads(body)["files"]
            answer = {
                "files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            }
        elif "commit" in self.path:
            answer = {"commitUrl": "https://huggingface.co/me/model/commit/1", "commitOid": "1", "success": True}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, str]]]:
    from huggingface_hub import constants

    _Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield _Hub.asked
    server.shutdown()
    server.server_close()


def test_a_push_uploads_the_model_and_its_card_and_nothing_else(
    hub: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    for name in ("model.onnx", "model.safetensors", "config.json", "MODEL_CARD.md", "splits.csv", "report.html"):
        (tmp_path / name).write_text(f"content of {name}")
    assert push_to_hub(RunDir(tmp_path), "me/model") == "https://huggingface.co/me/model/commit/1"
    created = json.loads(hub[0][2])
    # The client's releases say it in two ways.
    assert created["name"] == "model"
    assert created.get("private") or created.get("visibility") == "private"
    assert all(authorization == "Bearer hf_secret" for _, authorization, _ in hub)
    lines = [json.loads(line) for line in hub[-1][2].splitlines()]
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }
    assert set(files) == {"model.onnx", "model.safetensors", "config.json", "README.md"}
    assert files["README.md"] == b"content of MODEL_CARD.md"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "hf_secret" in path.read_text()]


def test_a_push_that_cannot_work_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="push_to_hub=model: no name of a repository"):
        push_to_hub(RunDir(tmp_path), "model")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="push_to_hub=me/model: "):
        push_to_hub(RunDir(tmp_path), "me/model")
