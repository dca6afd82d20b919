/** The model on the server that this page comes from: one request a picture, which brings the maps of all classes. */

import { fromBase64, fromFloat16 } from "./float16.js";
import { Refusal } from "./refusal.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./answer.js").Model} Model */
/** @typedef {import("./picture.js").Picture} Picture */

export class ServerEngine {
  constructor() {
    this.token = "";
    this.last = new AbortController();
  }

  /** @returns {Promise<Model>} */
  async load() {
    const { models } = await this.request("v1/models", {});
    const [{ name, classes, note }] = models;
    const where = "The picture is sent to the server of this page, and nowhere else.";
    return { name, classes: classes.length, note, where };
  }

  /**
   * @param {Picture} picture
   * @returns {Promise<Answer>}
   */
  async explain({ blob, name }) {
    this.last.abort();
    this.last = new AbortController();
    const body = new FormData();
    body.set("image", blob, name);
    body.set("classes", "all");
    body.set("maps", "float16");
    const options = { method: "POST", body, signal: this.last.signal };
    const { classes, maps, view } = await this.request("v1/explain", options);
    const [, height, width] = maps.shape;
    const values = fromFloat16(fromBase64(maps.data)).map((value) => value * maps.scale);
    return { classes, maps: values, grid: [height, width], view };
  }

  /**
   * @param {string} url
   * @param {RequestInit} options
   * @returns {Promise<any>}
   */
  async request(url, options) {
    const headers = new Headers(this.token ? { Authorization: `Bearer ${this.token}` } : {});
    let reply;
    try {
      reply = await fetch(url, { ...options, headers });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Refusal("The server does not answer; check that it runs, and try again.");
    }
    if (reply.ok) return reply.json();
    const problem = await reply.json().catch(() => ({}));
    const reason = String(problem.detail || problem.title || "no reason given");
    const refusal = new Refusal(`The server refused: ${reason} (${reply.status}).`);
    refusal.name = reply.status === 401 ? "Unauthorized" : "Refusal";
    throw refusal;
  }
}
