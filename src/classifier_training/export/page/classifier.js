// Runs pipeline.onnx, which holds the preprocessing, the network and the class names: a whole image in,
// probabilities out. For Node and browsers alike; ONNX Runtime is handed in.

/**
 * Load a classifier.
 *
 * @param {Uint8Array|ArrayBuffer|string|URL} pipeline bytes of pipeline.onnx, or a URL to fetch them from
 * @param {{ort: object, executionProviders?: string[]}} options `ort`: the module onnxruntime-web;
 *   `executionProviders`: where it computes, ["wasm"] unless given; ["webgpu"] needs the module onnxruntime-web/webgpu
 * @returns {Promise<{
 *   classNames: string[],
 *   modelName: string,
 *   inputSize: {height: number, width: number},
 *   classify: (picture: {data: Uint8Array|Uint8ClampedArray, width: number, height: number}) =>
 *     Promise<{label: string, confidence: number, probabilities: Float32Array}>
 * }>} `classify` takes RGB, or RGBA such as ImageData, of any size, upright; probabilities are in the order of
 *   `classNames`
 */
export async function loadClassifier(pipeline, { ort, executionProviders = ["wasm"] }) {
  const bytes = await readBytes(pipeline);
  const metadata = readMetadata(bytes);
  if (!metadata.has("class_names") || !metadata.has("preprocessing")) {
    throw new Error("The file carries no class names: it is not a pipeline.onnx.");
  }
  const classNames = JSON.parse(metadata.get("class_names"));
  // Fitted on validation images; a file that has it in its graph says 1.
  const temperature = Number(metadata.get("temperature") ?? 1);
  if (!(temperature > 0)) throw new Error("The file's temperature is no number above 0.");
  const [height, width] = JSON.parse(metadata.get("preprocessing")).size;
  const session = await ort.InferenceSession.create(bytes, { executionProviders });
  if (!session.inputNames.includes("image")) {
    throw new Error("The model takes no whole image: it is not a pipeline.onnx.");
  }

  async function classify(picture) {
    const image = new ort.Tensor("uint8", toRgb(picture), [picture.height, picture.width, 3]);
    const { probabilities } = await session.run({ image });
    const best = probabilities.data.indexOf(Math.max(...probabilities.data));
    const shares = scaleProbabilities(probabilities.data, temperature);
    return { label: classNames[best], confidence: shares[best], probabilities: shares };
  }

  return { classNames, modelName: metadata.get("architecture") ?? "", inputSize: { height, width }, classify };
}

/**
 * Drop the alpha channel, laying transparent pixels over white as Python does.
 *
 * @param {{data: Uint8Array|Uint8ClampedArray, width: number, height: number}} picture RGB or RGBA, 8 bits each
 * @returns {Uint8Array} RGB, row by row
 */
export function toRgb({ data, width, height }) {
  const numPixels = width * height;
  if (numPixels > 0 && data.length === 3 * numPixels) {
    return new Uint8Array(data.buffer, data.byteOffset, data.length);
  }
  if (numPixels === 0 || data.length !== 4 * numPixels) {
    throw new Error(`${data.length} bytes are no RGB or RGBA image of ${width} x ${height} pixels.`);
  }
  const rgb = new Uint8Array(3 * numPixels);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    const alpha = data[from + 3];
    const white = 255 * (255 - alpha);
    for (let channel = 0; channel < 3; channel++) {
      rgb[to + channel] = Math.round((data[from + channel] * alpha + white) / 255);
    }
  }
  return rgb;
}

/**
 * Divide by a temperature in the logarithm: what softmax(logits / temperature) is, from softmax(logits).
 *
 * @param {Float32Array} shares probabilities
 * @param {number} temperature above 0; above 1 makes answers less sure
 * @returns {Float32Array} probabilities, the same one largest
 */
export function scaleProbabilities(shares, temperature) {
  if (temperature === 1) return shares;
  const largest = Math.max(...shares);
  const powers = Array.from(shares, (share) => (share / largest) ** (1 / temperature));
  const sum = powers.reduce((total, power) => total + power, 0);
  return Float32Array.from(powers, (power) => power / sum);
}

async function readBytes(pipeline) {
  if (pipeline instanceof Uint8Array) return pipeline;
  if (pipeline instanceof ArrayBuffer) return new Uint8Array(pipeline);
  const response = await fetch(pipeline);
  if (!response.ok) throw new Error(`${pipeline}: the server answered ${response.status} ${response.statusText}.`);
  return new Uint8Array(await response.arrayBuffer());
}

// ONNX Runtime's JavaScript has no door to a model's metadata, so its few fields are read from the file: an ONNX file
// is a protobuf message whose field 14 repeats pairs of a key (field 1) and a value (field 2).
function readMetadata(bytes) {
  const text = new TextDecoder();
  const metadata = new Map();
  for (const entry of fields(bytes)) {
    if (entry.number !== 14) continue;
    const pair = new Map(Array.from(fields(entry.content), ({ number, content }) => [number, text.decode(content)]));
    metadata.set(pair.get(1), pair.get(2) ?? "");
  }
  return metadata;
}

// The fields of a protobuf message that have a length, each with its number and its bytes.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale; // no shift: they end at 32 bits
      if (byte < 128) return value;
    }
    throw new Error("The file is cut short or no ONNX file.");
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const end = varint() + at;
      if (end > bytes.length) throw new Error("The file is cut short or no ONNX file.");
      yield { number: Math.floor(tag / 8), content: bytes.subarray(at, end) };
      at = end;
    } else throw new Error("The file is cut short or no ONNX file.");
  }
}
