/** The worker behind `engine-browser.js`: fetches the model, opens it in ONNX Runtime, answers picture after picture. */

import { answerOf } from "./answer.js";
import { fromFloat16 } from "./float16.js";
import { look, normalized } from "./preprocess.js";
import { Refusal } from "./refusal.js";

/** @typedef {import("./answer.js").Activation} Activation */
/** @typedef {import("./preprocess.js").Preprocess} Preprocess */

/**
 * @typedef {object} Config what `camlucida web` writes beside the model.
 * @property {"browser"} engine
 * @property {string} model the file, beside the page.
 * @property {string} sha256 of the file, in hexadecimal digits.
 * @property {number} bytes of the file.
 * @property {string} name
 * @property {string} input name of the input.
 * @property {boolean} channels_last whether it takes pictures as h×w×3.
 * @property {string[]} outputs names of the outputs to ask for.
 * @property {number} classes
 * @property {string[] | null} labels
 * @property {Preprocess} preprocess
 * @property {Activation} activation
 * @property {string} note
 * @property {string} [sample] a picture to try, beside the page.
 */

/** @typedef {{ort: any, session: any, config: Config, backend: string}} OpenedModel */

/** @type {Promise<OpenedModel> | null} */
let opened = null;
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data)); // one after another: a session runs once at a time
};

/** @param {{number: number, load?: Config, explain?: ImageData}} question */
async function answer({ number, load, explain }) {
  try {
    if (load) opened = open(load);
    if (!opened) throw new Refusal("The model was not loaded; reload the page.");
    const model = await opened;
    if (!explain) return self.postMessage({ number, value: model.backend });
    const value = await run(model, explain);
    self.postMessage({ number, value }, { transfer: [value.maps.buffer] });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const refusal = error instanceof Refusal ? message : `The model failed: ${message.split("\n")[0]}`;
    self.postMessage({ number, refusal });
  }
}

/** @param {Config} config */
async function open(config) {
  const bytes = await download(config);
  const gpu = await /** @type {any} */ (navigator).gpu?.requestAdapter().catch(() => null);
  if (gpu && !gpu.info?.isFallbackAdapter) { // which is the processor, and slower than WebAssembly
    try {
      return await start(config, bytes, "webgpu");
    } catch {
      // A graphics driver that cannot run this model: the processor can.
    }
  }
  return start(config, bytes, "wasm");
}

/**
 * The model's file, checked against its hash.
 * @param {Config} config
 */
async function download({ model, sha256, bytes }) {
  const failed = new Refusal(`${model} could not be fetched, or is not the file that this page was made for; reload.`);
  const reply = await fetch(model).catch(() => null);
  if (!reply?.ok || !reply.body) throw failed;
  const buffer = new Uint8Array(bytes);
  let filled = 0;
  const reader = reply.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true, value: undefined }));
    if (done || !value || filled + value.length > bytes) break;
    buffer.set(value, filled);
    filled += value.length;
    self.postMessage({ progress: filled / bytes });
  }
  if (filled !== bytes) throw failed;
  if (crypto.subtle) { // browsers have it only on https and localhost
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", buffer));
    if (Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") !== sha256) throw failed;
  }
  return buffer;
}

/**
 * @param {Config} config
 * @param {Uint8Array} bytes
 * @param {"webgpu" | "wasm"} backend
 */
async function start(config, bytes, backend) {
  const ort = await import(`./ort/ort-${backend}.js`);
  ort.env.logLevel = "fatal";
  ort.env.wasm.wasmPaths = { wasm: new URL(`./ort/ort-${backend}.wasm`, import.meta.url).href };
  // Threads share memory, which browsers allow only to pages that are isolated from others by their server's headers.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: [backend] });
  const opened = { ort, session, config, backend: backend === "webgpu" ? "WebGPU" : "WebAssembly" };
  const [height, width] = config.preprocess.size_hw;
  await infer(opened, new Float32Array(3 * height * width)); // a first run compiles shaders, and shows that it works
  return opened;
}

/**
 * @param {OpenedModel} model
 * @param {Float32Array} values 3×h×w.
 */
async function infer({ ort, session, config }, values) {
  const [height, width] = config.preprocess.size_hw;
  const dims = config.channels_last ? [1, height, width, 3] : [1, 3, height, width];
  const cells = height * width;
  const laid = config.channels_last ? values.map((_, i) => values[(i % 3) * cells + Math.floor(i / 3)]) : values;
  const type = session.inputMetadata[0].type;
  const Half = /** @type {any} */ (globalThis).Float16Array;
  if (type === "float16" && !Half) {
    throw new Refusal("This browser has no half-precision numbers, which the model takes.");
  }
  const input = new ort.Tensor(type, type === "float16" ? Half.from(laid) : laid, dims);
  return session.run({ [config.input]: input }, config.outputs);
}

/** An output's numbers, also where they are of half precision. @param {{data: any}} output */
function floats({ data }) {
  if (data instanceof Uint16Array) return fromFloat16(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return Float32Array.from(data);
}

/**
 * @param {OpenedModel} model
 * @param {ImageData} pixels
 */
async function run(model, pixels) {
  const { seen, view } = look(pixels.data, [pixels.height, pixels.width], model.config.preprocess);
  const outputs = await infer(model, normalized(seen, model.config.preprocess));
  const [logits, maps, bias] = [outputs.logits, outputs.maps, outputs.bias].map(floats);
  if (!maps.every(Number.isFinite)) throw new Refusal("The model's maps are not finite numbers; export it in float32.");
  const ids = outputs.top_ids ? Array.from(outputs.top_ids.data, Number) : Array.from(logits.keys());
  const grid = outputs.maps.dims.slice(2);
  return answerOf({ logits, maps, bias, ids }, grid, view, model.config.labels, model.config.activation);
}
