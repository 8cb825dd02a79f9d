// Runs a run folder's golden images and compares the answers with Python's.
//
//   node check_golden.js RUN_FOLDER
//
// Exit codes: 0 all agree, 1 an answer differs, 2 the folder cannot be read.

import { readFile } from "node:fs/promises";
import path from "node:path";
import * as ort from "onnxruntime-web/wasm";
import { loadClassifier } from "./classifier.js";

const TOLERANCE = 1e-3;

async function check(folder) {
  const golden = JSON.parse(await readFile(path.join(folder, "golden", "golden.json"), "utf8"));
  const classifier = await loadClassifier(await readFile(path.join(folder, "pipeline.onnx")), { ort });
  if (JSON.stringify(classifier.classNames) !== JSON.stringify(golden.class_names)) {
    throw new Error("pipeline.onnx and golden.json name different classes: they are from different runs.");
  }
  if (golden.images.length === 0) throw new Error("golden.json names no images.");
  let numWrong = 0;
  for (const entry of golden.images) {
    const data = await readFile(path.join(folder, "golden", entry.rgb));
    const found = await classifier.classify({ data, width: entry.width, height: entry.height });
    const difference = Math.max(...entry.probabilities.map((share, k) => Math.abs(share - found.probabilities[k])));
    // Written so that a NaN is wrong too.
    const agrees = found.label === entry.label && difference <= TOLERANCE;
    if (!agrees) numWrong += 1;
    console.log(
      `${agrees ? "ok   " : "WRONG"} ${entry.image}: ${JSON.stringify(found.label)} ${found.confidence.toFixed(4)}, ` +
        `expected ${JSON.stringify(entry.label)}; largest difference ${difference.toExponential(1)}`,
    );
  }
  console.log(`${golden.images.length - numWrong} of ${golden.images.length} images agree with Python`);
  return numWrong === 0 ? 0 : 1;
}

if (process.argv.length !== 3) {
  console.error("usage: node check_golden.js RUN_FOLDER");
  process.exit(2);
}
ort.env.wasm.numThreads = 1; // more would keep the process from ending
ort.env.logLevel = "error";
try {
  process.exitCode = await check(process.argv[2]);
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
}
