"""The JavaScript client in Node, with onnxruntime-web's WebAssembly, against Python."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from tests.bundles import PREPROCESSING

from classifier_training.core.images import to_rgb
from classifier_training.export.pipeline import with_pixels

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.conftest import Client

    from classifier_training.core.run_dir import RunDir

pytestmark = pytest.mark.slow

FITTED_PIXELS = """
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web/wasm";
ort.env.wasm.numThreads = 1;
const [folder, ...shapes] = process.argv.slice(2);
const session = await ort.InferenceSession.create(readFileSync(`${folder}/model.onnx`));
for (const [number, shape] of shapes.entries()) {
  const bytes = new Uint8Array(readFileSync(`${folder}/${number}.rgb`));
  const image = new ort.Tensor("uint8", bytes, shape.split("x").map(Number));
  const { data } = (await session.run({ image })).pixels;
  writeFileSync(`${folder}/${number}.f32`, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}
"""

TO_RGB = """
import { readFileSync, writeFileSync } from "node:fs";
import { toRgb } from "./classifier.js";
const [rgba, height, width, out] = process.argv.slice(2);
writeFileSync(out, toRgb({ data: readFileSync(rgba), height: Number(height), width: Number(width) }));
"""


def run_module(javascript_client: Client, module: str, *words: object) -> None:
    command = ["node", "--input-type=module", "-", *map(str, words)]
    subprocess.run(command, input=module, cwd=javascript_client.folder, text=True, check=True)


def test_it_sees_the_pixels_that_python_sees(
    javascript_client: Client, run_dir_of_every_kind: RunDir, tmp_path: Path
) -> None:
    run_dir = run_dir_of_every_kind
    info = json.loads(run_dir.model_info.read_text())
    preprocessing = PREPROCESSING.from_dict(info["preprocessing"])
    (tmp_path / "model.onnx").write_bytes(with_pixels(run_dir.pipeline, preprocessing.size))
    china, flower = load_sample_images().images
    pictures = [china, flower[:, :33], flower[:5, :7], china[:300, :2], china[:60, :50]]
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number}.rgb").write_bytes(picture.tobytes())
    run_module(javascript_client, FITTED_PIXELS, tmp_path, *("x".join(map(str, picture.shape)) for picture in pictures))
    for number, picture in enumerate(pictures):
        found = np.fromfile(tmp_path / f"{number}.f32", dtype="<f4").reshape(3, *preprocessing.size)
        expected = preprocessing.pixels(Image.fromarray(picture)).astype(np.float32)
        assert np.abs(found.transpose(1, 2, 0) - expected).max() <= 1


def test_transparent_pixels_lie_over_white_as_in_python(javascript_client: Client, tmp_path: Path) -> None:
    level, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.stack([level, level[::-1, ::-1], np.full_like(level, 7), alpha], axis=-1)
    (tmp_path / "rgba").write_bytes(rgba.tobytes())
    run_module(javascript_client, TO_RGB, tmp_path / "rgba", 256, 256, tmp_path / "out")
    found = np.fromfile(tmp_path / "out", dtype=np.uint8).reshape(256, 256, 3)
    assert (found == np.asarray(to_rgb(Image.fromarray(rgba)))).all()
