/** The model in this browser: a worker runs it with ONNX Runtime, so that the page never stops. Nothing is uploaded. */

import { Refusal } from "./engine.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./answer.js").Activation} Activation */
/** @typedef {import("./engine.js").Model} Model */
/** @typedef {import("./picture.js").Picture} Picture */
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

export class BrowserEngine {
  /** @param {Config} config */
  constructor(config) {
    this.config = config;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.number = 0;
    /** @type {Map<number, {resolve: (value: any) => void, reject: (reason: Error) => void}>} */
    this.waiting = new Map();
    this.progress = /** @type {(share: number) => void} */ (() => {});
    this.worker.onmessage = ({ data }) => {
      if ("progress" in data) return this.progress(data.progress);
      const { resolve, reject } = this.waiting.get(data.number) ?? {};
      this.waiting.delete(data.number);
      return data.refusal ? reject?.(new Refusal(data.refusal)) : resolve?.(data.value);
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      const error = new Refusal("This browser could not start the model; a current Chrome, Firefox or Safari can.");
      for (const { reject } of this.waiting.values()) reject(error);
      this.waiting.clear();
    };
  }

  /**
   * @param {(share: number) => void} progress
   * @returns {Promise<Model>}
   */
  async load(progress) {
    this.progress = progress;
    const backend = await this.ask({ load: this.config });
    const { name, classes, note } = this.config;
    const where = `The picture stays on this machine: the model runs in this browser (${backend}).`;
    return { name, classes, note, where };
  }

  /**
   * @param {Picture} picture
   * @returns {Promise<Answer>}
   */
  explain({ pixels }) {
    return this.ask({ explain: pixels }, [pixels.data.buffer]);
  }

  /**
   * @param {object} question
   * @param {Transferable[]} [moved]
   * @returns {Promise<any>}
   */
  ask(question, moved = []) {
    const number = ++this.number;
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject });
      this.worker.postMessage({ number, ...question }, moved);
    });
  }
}
