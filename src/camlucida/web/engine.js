/** Two engines behind one interface: the page does not know where the model runs. */

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./picture.js").Picture} Picture */

/**
 * @typedef {object} Model what the page says about the model.
 * @property {string} name
 * @property {number} classes how many there are.
 * @property {string} note what the reader should know; mostly empty.
 * @property {string} where what happens to the picture, in a sentence.
 *
 * @typedef {object} Engine
 * @property {(progress: (share: number) => void) => Promise<Model>} load gets ready; tells how far it is, 0 to 1.
 * @property {(picture: Picture) => Promise<Answer>} explain maps of all classes; a later call replaces an earlier one.
 *
 * @typedef {{engine: "server"} | import("./engine-browser.js").Config} Config `config.json` beside the page.
 */

/** A message for the reader: what was wrong, and what to do. */
export class Refusal extends Error {}

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
    // told below
  }
  throw new Refusal(
    location.protocol === "file:"
      ? "A browser opens this page only from a server: run python -m http.server in its folder."
      : `${url} could not be read; check that the whole folder was published.`,
  );
}
