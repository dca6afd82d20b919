/** Two engines behind one interface: the page does not know where the model runs. */

import { Refusal } from "./refusal.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./answer.js").Model} Model */
/** @typedef {import("./picture.js").Picture} Picture */

/**
 * @typedef {object} Engine
 * @property {(progress: (share: number) => void) => Promise<Model>} load gets ready; tells how far it is, 0 to 1.
 * @property {(picture: Picture) => Promise<Answer>} explain maps of all classes; a later call replaces an earlier one.
 *
 * @typedef {{engine: "server"} | import("./worker.js").Config} Config `config.json` beside the page.
 */

/** @returns {Promise<{engine: Engine, sample: string | null}>} the engine that `config.json` asks for. */
export async function openEngine() {
  const config = await fetchJson("config.json");
  const open = {
    server: async () => new (await import("./engine-server.js")).ServerEngine(),
    browser: async () => new (await import("./engine-browser.js")).BrowserEngine(config),
  }[/** @type {Config} */ (config).engine];
  if (!open) throw new Refusal("config.json names no engine of this page; write the site again.");
  return { engine: await open(), sample: config.sample ?? null };
}

/**
 * @param {string} url
 * @returns {Promise<any>}
 */
async function fetchJson(url) {
  try {
    const reply = await fetch(url, { cache: "no-cache" });
    if (reply.ok) return await reply.json();
  } catch {
    // refused below
  }
  throw new Refusal(
    location.protocol === "file:"
      ? "A browser opens this page only from a server: run python -m http.server in its folder."
      : `${url} could not be read; check that the whole folder was published.`,
  );
}
