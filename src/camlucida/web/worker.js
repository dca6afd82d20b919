/** The worker behind `engine-browser.js`: fetches the model, opens it in ONNX Runtime, answers picture after picture. */

import { answerOf } from "./answer.js";
import { fromFloat16 } from "./float16.js";
import { look, normalized } from "./preprocess.js";

/** @typedef {import("./engine-browser.js").Config} Config */

/** What is told to the reader; other errors are wrapped where they arise. */
class Told extends Error {}

/** @type {Promise<{ort: any, session: any, config: Config, backend: string}> | null} */
let opened = null;
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data)); // one after another: a session runs once at a time
};

/** @param {{number: number, load?: Config, explain?: ImageData}} question */
async function answer({ number, load, explain }) {
  try {
    if (load) opened = open(load);
    if (!opened) throw new Told("The model was not loaded; reload the page.");
    const made = await opened;
    if (!explain) return self.postMessage({ number, value: made.backend });
    const value = await run(made, explain);
    self.postMessage({ number, value }, { transfer: [value.maps.buffer] });
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    self.postMessage({ number, refusal: error instanceof Told ? said : `The model failed: ${said.split("\n")[0]}` });
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
  const failed = new Told(`${model} could not be fetched, or is not the file that this page was made for; reload.`);
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
  const made = { ort, session, config, backend: backend === "webgpu" ? "WebGPU" : "WebAssembly" };
  const [height, width] = config.preprocess.size_hw;
  await infer(made, new Float32Array(3 * height * width)); // a first run compiles shaders, and shows that it works
  return made;
}

/**
 * @param {{ort: any, session: any, config: Config}} made
 * @param {Float32Array} values 3×h×w.
 */
async function infer({ ort, session, config }, values) {
  const [height, width] = config.preprocess.size_hw;
  const dims = config.channels_last ? [1, height, width, 3] : [1, 3, height, width];
  const cells = height * width;
  const laid = config.channels_last ? values.map((_, i) => values[(i % 3) * cells + Math.floor(i / 3)]) : values;
  const type = session.inputMetadata[0].type;
  const Half = /** @type {any} */ (globalThis).Float16Array;
  if (type === "float16" && !Half) throw new Told("This browser has no half-precision numbers, which the model takes.");
  const input = new ort.Tensor(type, type === "float16" ? Half.from(laid) : laid, dims);
  return session.run({ [config.input]: input }, config.outputs);
}

/** An output's numbers, also where they are of half precision. @param {{data: any}} output */
function floats({ data }) {
  if (data instanceof Uint16Array) return fromFloat16(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return Float32Array.from(data);
}

/**
 * @param {{ort: any, session: any, config: Config, backend: string}} made
 * @param {ImageData} pixels
 */
async function run(made, pixels) {
  const { seen, view } = look(pixels.data, [pixels.height, pixels.width], made.config.preprocess);
  const outputs = await infer(made, normalized(seen, made.config.preprocess));
  const [logits, maps, bias] = [outputs.logits, outputs.maps, outputs.bias].map(floats);
  if (!maps.every(Number.isFinite)) throw new Told("The model's maps are not finite numbers; export it in float32.");
  const ids = outputs.top_ids ? Array.from(outputs.top_ids.data, Number) : Array.from(logits.keys());
  const grid = outputs.maps.dims.slice(2);
  return answerOf({ logits, maps, bias, ids }, grid, view, made.config.labels, made.config.activation);
}
