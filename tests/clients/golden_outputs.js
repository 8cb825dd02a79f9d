// Runs the exported files of a run on its golden images with onnxruntime-web, in a page served beside them.

import { loadClassifier } from "./classifier.js";

const NUM_ROUNDS = 2;

const read = async (name) => new Uint8Array(await (await fetch(`./run/${name}`)).arrayBuffer());

// How much work the GPU was given: a provider that leaves everything to the CPU would agree, too.
let numDispatches = 0;
for (const name of ["dispatchWorkgroups", "dispatchWorkgroupsIndirect"]) {
  const original = globalThis.GPUComputePassEncoder?.prototype[name];
  if (!original) continue;
  GPUComputePassEncoder.prototype[name] = function (...words) {
    numDispatches += 1;
    return original.apply(this, words);
  };
}

/**
 * @param {"wasm"|"webgpu"} provider
 * @returns {Promise<object>} the arrays that golden_outputs.py gives, nested; and for each file how often the GPU was
 *   given work
 */
export async function goldenOutputs(provider) {
  const ort = await import(`./dist/ort.${provider}.bundle.min.mjs`);
  ort.env.wasm.numThreads = 1;
  const executionProviders = [provider];
  const { images } = JSON.parse(new TextDecoder().decode(await read("golden/golden.json")));
  const open = async (name) => ort.InferenceSession.create(await read(name), { executionProviders });

  const model = await open("model.onnx");
  const predict = async (data, shape) => {
    const { logits } = await model.run({ input: new ort.Tensor("float32", data, shape) }, ["logits"]);
    const [rows, columns] = logits.dims;
    return Array.from({ length: rows }, (_, row) => Array.from(logits.data.subarray(row * columns, (row + 1) * columns)));
  };
  const inputs = [];
  for (const entry of images) inputs.push(new Float32Array((await read(`golden/${entry.input}`)).buffer));
  const logits = [];
  for (const input of inputs) logits.push(...(await predict(input, images[0].input_shape)));
  const joined = new Float32Array(inputs.flatMap((input) => Array.from(input)));
  const batchLogits = await predict(joined, [images.length, ...images[0].input_shape.slice(1)]);
  const modelDispatches = numDispatches;

  const classifier = await loadClassifier("./run/pipeline.onnx", { ort, executionProviders });
  const fitted = await open("fitted.onnx");
  const probabilities = [];
  const pixels = [];
  for (let round = 0; round < NUM_ROUNDS; round++) {
    probabilities.push([]);
    pixels.push([]);
    for (const { rgb, height, width } of images) {
      const data = await read(`golden/${rgb}`);
      probabilities[round].push(Array.from((await classifier.classify({ data, height, width })).probabilities));
      const image = new ort.Tensor("uint8", data, [height, width, 3]);
      const found = (await fitted.run({ image }, ["pixels"])).pixels;
      pixels[round].push(Array.from(found.data));
    }
  }
  return {
    version: ort.env.versions.web,
    logits,
    batch_logits: batchLogits,
    probabilities,
    pixels,
    dispatches: { model: modelDispatches, pipeline: numDispatches - modelDispatches },
  };
}
