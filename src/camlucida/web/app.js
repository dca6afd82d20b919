/** The page: a picture comes in, an engine answers, the chosen class is drawn. */

import { shown } from "./answer.js";
import { largestBox } from "./boxes.js";
import { ClassList } from "./classes.js";
import { openEngine } from "./engine.js";
import { gradient } from "./heat.js";
import { listen } from "./intake.js";
import { read } from "./picture.js";
import { extremes, projection } from "./projection.js";
import { Refusal } from "./refusal.js";
import { download, numbers, overlay } from "./save.js";
import { drawPicture, Stage } from "./stage.js";
import { theme } from "./theme.js";
import { boxWords, percent, residualSentence, sentence, short } from "./words.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./engine.js").Engine} Engine */
/** @typedef {import("./answer.js").Model} Model */
/** @typedef {import("./picture.js").Picture} Picture */

const MAX_SHOWN = 4_000_000; // pixels of the picture on the screen

/** @param {string} id @returns {any} */
const byId = (id) => document.getElementById(id);

/**
 * What the page knows.
 * @typedef {object} State
 * @property {Engine | null} engine
 * @property {Promise<Model> | null} model null where loading it failed, or has not begun.
 * @property {Picture | null} picture the one on the screen.
 * @property {Answer | null} answer about it.
 * @property {import("./projection.js").Projection | null} laid its maps over it, at its own size.
 * @property {Stage | null} stage
 * @property {number} room pixels across that the stage is drawn for.
 * @property {number} place of the class on the screen.
 * @property {number} latest counts pictures, so that a late answer to a former one is dropped.
 */

/** @type {State} */
const state = {
  engine: null, model: null, picture: null, answer: null, laid: null, stage: null, room: 0, place: 0, latest: 0,
};

const list = new ClassList(
  { list: byId("list"), find: byId("find"), none: byId("none"), rival: byId("rival") },
  {
    preview: (place) => show(place),
    leave: () => show(list.chosen),
    choose: (place) => {
      show(place);
      announce();
    },
  },
);

/** @param {string} text */
const showStatus = (text) => (byId("status").textContent = text);

/** @param {unknown} error */
function showError(error) {
  const isRefusal = error instanceof Refusal;
  if (!isRefusal) console.error(error);
  const message = isRefusal ? error.message : "Something went wrong here; reload the page.";
  byId("notice").querySelector("p").textContent = message;
  byId("access").hidden = !isRefusal || error.name !== "Unauthorized";
  byId("notice").hidden = false;
  byId("notice").scrollIntoView({ block: "nearest" });
  showStatus("");
}

/** Opens the engine; a failure is shown, and tried again with the next picture. */
async function load() {
  showStatus("Loading the model …");
  const opened = state.engine ? { engine: state.engine, sample: null } : await openEngine();
  state.engine = opened.engine;
  if (opened.sample) byId("sample").hidden = false;
  if (opened.sample) byId("sample").onclick = () => sample(String(opened.sample));
  const model = await opened.engine.load((share) => {
    showStatus(share < 1 ? `Loading the model … ${10 * Math.floor(10 * share)} %` : "Starting the model …");
  });
  byId("model").textContent = `${model.name}, ${model.classes} classes. ${sentence(model.note)}`;
  byId("where").textContent = model.where;
  showStatus("");
  return model;
}

/** @param {Blob} blob @param {string} name */
async function explain(blob, name) {
  const number = ++state.latest;
  byId("notice").hidden = true;
  try {
    showStatus(`Reading ${name} …`);
    const picture = await read(blob, name);
    if (!state.model) beginLoading();
    await state.model;
    if (number !== state.latest || !state.engine) return;
    showStatus(`Looking at ${name} …`);
    const answer = await state.engine.explain(picture);
    if (number === state.latest) present(picture, answer);
  } catch (error) {
    if (number === state.latest) showError(error);
  }
}

/** @param {string} url */
async function sample(url) {
  const reply = await fetch(url).catch(() => null);
  if (reply?.ok) explain(await reply.blob(), url);
  else showError(new Refusal("The sample picture could not be fetched."));
}

/** @param {Picture} picture @param {Answer} answer */
function present(picture, answer) {
  Object.assign(state, { picture, answer, laid: projection(answer.view, answer.grid) });
  byId("intake").hidden = true;
  byId("result").hidden = byId("another").hidden = false;
  state.place = list.show(answer);
  stage();
  for (const place of [...list.listed().slice(0, 3), list.chosen]) show(place); // compiled now, the next is in time
  announce();
}

/** Prepares both layers for the room that there is. */
function stage() {
  const { picture, answer } = state;
  if (!picture || !answer || byId("result").hidden) return;
  const { width, height } = picture.canvas;
  state.room = byId("frame").clientWidth;
  const across = Math.min(state.room, Math.max(1, (0.68 * innerHeight * width) / height));
  const scale = Math.min((across * devicePixelRatio) / width, Math.sqrt(MAX_SHOWN / (width * height)));
  const [wide, tall] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  byId("layers").style.width = `${across}px`;
  drawPicture(byId("picture"), picture.canvas, answer.view, wide, tall);
  state.stage = new Stage(byId("map"), answer.view, answer.grid, wide, tall);
  show(state.place);
}

/** What is drawn now: the class at `state.place`, with what the controls say. */
function drawing() {
  const { answer, laid, place } = state;
  if (!answer || !laid) throw new Error("nothing to draw yet");
  const what = shown(answer, place, byId("rival").value === "" ? null : Number(byId("rival").value));
  const { low, high } = extremes(what.map, laid);
  const signed = document.querySelector('input[name="view"]:checked')?.getAttribute("value") === "signed";
  const threshold = Number(byId("threshold").value) / 100;
  const { box } = largestBox(what.map, laid, threshold, high);
  const limit = signed ? Math.max(high, -low) : high;
  const opacity = Number(byId("opacity").value) / 100;
  return { what, drawn: { map: what.map, limit, signed, opacity, cut: threshold * high, box } };
}

/** Draws a class at once. @param {number} place */
function show(place) {
  if (!state.stage) return;
  performance.clearMeasures("show");
  const started = performance.now();
  state.place = place;
  const { what, drawn } = drawing();
  state.stage.draw(drawn);
  byId("shown").textContent = what.name;
  byId("shown-score").textContent = percent(what.probability, what.logit);
  byId("residual").textContent = residualSentence(what);
  byId("opacity-value").textContent = `${byId("opacity").value} %`;
  byId("threshold-value").textContent = `${byId("threshold").value} % of the maximum`;
  byId("box").textContent = `Box ${boxWords(drawn.box)}`;
  byId("legend-bar").style.backgroundImage = gradient(drawn.signed);
  byId("legend-low").textContent = drawn.signed ? short(-drawn.limit) : "0";
  byId("legend-high").textContent = short(Math.max(0, drawn.limit));
  const seen = `${state.picture?.name} with the map of ${what.name}. Box ${boxWords(drawn.box)}`;
  byId("layers").setAttribute("aria-label", seen);
  performance.measure("show", { start: started });
}

/** Says what is chosen, for those who do not see it. */
function announce() {
  const { what, drawn } = drawing();
  showStatus("");
  byId("said").textContent = `${what.name}, ${percent(what.probability, what.logit)}. Box ${boxWords(drawn.box)}.`;
}

/** @param {() => void} work once a frame at most. */
function eachFrame(work) {
  let waiting = 0;
  return () => (waiting ||= requestAnimationFrame(() => ((waiting = 0), work())));
}

for (const id of ["opacity", "threshold"]) byId(id).addEventListener("input", eachFrame(() => show(state.place)));
byId("threshold").addEventListener("change", announce);
for (const input of [byId("rival"), ...document.querySelectorAll('input[name="view"]')]) {
  input.addEventListener("change", () => {
    show(state.place);
    announce();
  });
}
byId("dismiss").addEventListener("click", () => (byId("notice").hidden = true));
byId("another").addEventListener("click", () => {
  state.latest++;
  byId("result").hidden = byId("another").hidden = byId("notice").hidden = true;
  byId("intake").hidden = false;
  showStatus("");
  byId("pick").focus();
});
byId("access").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  Object.assign(state.engine ?? {}, { token: byId("token").value });
  byId("notice").hidden = true;
  beginLoading();
});
byId("save-overlay").addEventListener("click", async () => {
  const { picture, answer } = state;
  if (!picture || !answer) return;
  const { what, drawn } = drawing();
  download(await overlay(picture, answer, drawn), `${stem(picture.name)}.${what.name}.png`);
});
byId("save-numbers").addEventListener("click", async () => {
  const { picture, answer, model } = state;
  if (!picture || !answer || !model) return;
  const places = [...new Set([...list.listed(), list.chosen])];
  const { name } = await model;
  download(numbers(picture, answer, name, Number(byId("threshold").value) / 100, places), `${stem(picture.name)}.json`);
});

/** @param {string} name */
const stem = (name) => name.replace(/\.[^.]*$/, "") || "picture";

function beginLoading() {
  state.model = load();
  state.model.catch((error) => {
    state.model = null;
    showError(error);
  });
}

theme(byId("theme"));
listen({ inputs: [byId("pick"), byId("photograph")], onNoFile: (text) => showError(new Refusal(text)) }, explain);
const refit = eachFrame(() => byId("frame").clientWidth === state.room || stage());
new ResizeObserver(refit).observe(byId("frame"));
beginLoading();
