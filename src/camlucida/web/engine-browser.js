/** The model in this browser: a worker runs it with ONNX Runtime, so that the page never stops. Nothing is uploaded. */

import { Refusal } from "./refusal.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./answer.js").Model} Model */
/** @typedef {import("./picture.js").Picture} Picture */
/** @typedef {import("./worker.js").Config} Config */

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
    const backend = await this.call({ load: this.config });
    const { name, classes, note } = this.config;
    const where = `The picture stays on this machine: the model runs in this browser (${backend}).`;
    return { name, classes, note, where };
  }

  /**
   * @param {Picture} picture
   * @returns {Promise<Answer>}
   */
  explain({ pixels }) {
    return this.call({ explain: pixels }, [pixels.data.buffer]);
  }

  /**
   * @param {object} question
   * @param {Transferable[]} [moved]
   * @returns {Promise<any>}
   */
  call(question, moved = []) {
    const number = ++this.number;
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject });
      this.worker.postMessage({ number, ...question }, moved);
    });
  }
}
