/** The page: a picture comes in, an engine answers, the chosen class is drawn. */

import { shown } from "./answer.js";
import { largestBox } from "./boxes.js";
import { ClassList } from "./classes.js";
import { openEngine, Refusal } from "./engine.js";
import { gradient } from "./heat.js";
import { listen } from "./intake.js";
import { read } from "./picture.js";
import { extremes, projection } from "./projection.js";
import { download, numbers, overlay } from "./save.js";
import { drawPicture, Stage } from "./stage.js";
import { theme } from "./theme.js";
import { boxWords, percent, residualSentence, sentence, short } from "./words.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./engine.js").Engine} Engine */
/** @typedef {import("./engine.js").Model} Model */
/** @typedef {import("./picture.js").Picture} Picture */

const MAX_SHOWN = 4_000_000; // pixels of the picture on the screen

/** @param {string} id @returns {any} */
const at = (id) => document.getElementById(id);

/**
 * What the page knows.
 * @typedef {object} State
 * @property {Engine | null} engine
 * @property {Promise<Model> | null} model null where loading it failed, or has not begun.
 * @property {Picture | null} picture the one on the screen.
 * @property {Answer | null} answer about it.
 * @property {import("./projection.js").Projection | null} laid its maps over it, at its own size.
 * @property {Stage | null} stage
 * @property {number} room pixels across that the stage was made for.
 * @property {number} place of the class on the screen.
 * @property {number} asked counts pictures, so that a late answer to a former one is dropped.
 */

/** @type {State} */
const state = {
  engine: null, model: null, picture: null, answer: null, laid: null, stage: null, room: 0, place: 0, asked: 0,
};

const list = new ClassList(
  { list: at("list"), find: at("find"), none: at("none"), rival: at("rival") },
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
const say = (text) => (at("status").textContent = text);

/** @param {unknown} error */
function refuse(error) {
  const known = error instanceof Refusal;
  if (!known) console.error(error);
  at("notice").querySelector("p").textContent = known ? error.message : "Something went wrong here; reload the page.";
  at("access").hidden = !known || error.name !== "Unauthorized";
  at("notice").hidden = false;
  at("notice").scrollIntoView({ block: "nearest" });
  say("");
}

/** Opens the engine; a failure is told, and tried again with the next picture. */
async function load() {
  say("Loading the model …");
  const opened = state.engine ? { engine: state.engine, sample: null } : await openEngine();
  state.engine = opened.engine;
  if (opened.sample) at("sample").hidden = false;
  if (opened.sample) at("sample").onclick = () => sample(String(opened.sample));
  const model = await opened.engine.load((share) => {
    say(share < 1 ? `Loading the model … ${10 * Math.floor(10 * share)} %` : "Starting the model …");
  });
  at("model").textContent = `${model.name}, ${model.classes} classes. ${sentence(model.note)}`;
  at("where").textContent = model.where;
  say("");
  return model;
}

/** @param {Blob} blob @param {string} name */
async function take(blob, name) {
  const asked = ++state.asked;
  at("notice").hidden = true;
  try {
    say(`Reading ${name} …`);
    const picture = await read(blob, name);
    if (!state.model) begin();
    await state.model;
    if (asked !== state.asked || !state.engine) return;
    say(`Looking at ${name} …`);
    const answer = await state.engine.explain(picture);
    if (asked === state.asked) present(picture, answer);
  } catch (error) {
    if (asked === state.asked) refuse(error);
  }
}

/** @param {string} url */
async function sample(url) {
  const reply = await fetch(url).catch(() => null);
  if (reply?.ok) take(await reply.blob(), url);
  else refuse(new Refusal("The sample picture could not be fetched."));
}

/** @param {Picture} picture @param {Answer} answer */
function present(picture, answer) {
  Object.assign(state, { picture, answer, laid: projection(answer.view, answer.grid) });
  at("intake").hidden = true;
  at("result").hidden = at("another").hidden = false;
  state.place = list.show(answer);
  stage();
  for (const place of [...list.listed().slice(0, 3), list.chosen]) show(place); // compiled now, the next is in time
  announce();
}

/** Prepares both layers for the room that there is. */
function stage() {
  const { picture, answer } = state;
  if (!picture || !answer || at("result").hidden) return;
  const { width, height } = picture.canvas;
  state.room = at("frame").clientWidth;
  const across = Math.min(state.room, Math.max(1, (0.68 * innerHeight * width) / height));
  const scale = Math.min((across * devicePixelRatio) / width, Math.sqrt(MAX_SHOWN / (width * height)));
  const [wide, tall] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  at("layers").style.width = `${across}px`;
  drawPicture(at("picture"), picture.canvas, answer.view, wide, tall);
  state.stage = new Stage(at("map"), answer.view, answer.grid, wide, tall);
  show(state.place);
}

/** What is drawn now: the class at `state.place`, with what the controls say. */
function drawing() {
  const { answer, laid, place } = state;
  if (!answer || !laid) throw new Error("nothing to draw yet");
  const what = shown(answer, place, at("rival").value === "" ? null : Number(at("rival").value));
  const { low, high } = extremes(what.map, laid);
  const signed = document.querySelector('input[name="view"]:checked')?.getAttribute("value") === "signed";
  const threshold = Number(at("threshold").value) / 100;
  const { box } = largestBox(what.map, laid, threshold, high);
  const limit = signed ? Math.max(high, -low) : high;
  const opacity = Number(at("opacity").value) / 100;
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
  at("shown").textContent = what.name;
  at("shown-score").textContent = percent(what.probability, what.logit);
  at("residual").textContent = residualSentence(what);
  at("opacity-value").textContent = `${at("opacity").value} %`;
  at("threshold-value").textContent = `${at("threshold").value} % of the maximum`;
  at("box").textContent = `Box ${boxWords(drawn.box)}`;
  at("legend-bar").style.backgroundImage = gradient(drawn.signed);
  at("legend-low").textContent = drawn.signed ? short(-drawn.limit) : "0";
  at("legend-high").textContent = short(Math.max(0, drawn.limit));
  const seen = `${state.picture?.name} with the map of ${what.name}. Box ${boxWords(drawn.box)}`;
  at("layers").setAttribute("aria-label", seen);
  performance.measure("show", { start: started });
}

/** Says what is chosen, for those who do not see it. */
function announce() {
  const { what, drawn } = drawing();
  say("");
  at("said").textContent = `${what.name}, ${percent(what.probability, what.logit)}. Box ${boxWords(drawn.box)}.`;
}

/** @param {() => void} work once a frame at most. */
function eachFrame(work) {
  let waiting = 0;
  return () => (waiting ||= requestAnimationFrame(() => ((waiting = 0), work())));
}

for (const id of ["opacity", "threshold"]) at(id).addEventListener("input", eachFrame(() => show(state.place)));
at("threshold").addEventListener("change", announce);
for (const input of [at("rival"), ...document.querySelectorAll('input[name="view"]')]) {
  input.addEventListener("change", () => {
    show(state.place);
    announce();
  });
}
at("dismiss").addEventListener("click", () => (at("notice").hidden = true));
at("another").addEventListener("click", () => {
  state.asked++;
  at("result").hidden = at("another").hidden = at("notice").hidden = true;
  at("intake").hidden = false;
  say("");
  at("pick").focus();
});
at("access").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  Object.assign(state.engine ?? {}, { token: at("token").value });
  at("notice").hidden = true;
  begin();
});
at("save-overlay").addEventListener("click", async () => {
  const { picture, answer } = state;
  if (!picture || !answer) return;
  const { what, drawn } = drawing();
  download(await overlay(picture, answer, drawn), `${stem(picture.name)}.${what.name}.png`);
});
at("save-numbers").addEventListener("click", async () => {
  const { picture, answer, model } = state;
  if (!picture || !answer || !model) return;
  const places = [...new Set([...list.listed(), list.chosen])];
  const { name } = await model;
  download(numbers(picture, answer, name, Number(at("threshold").value) / 100, places), `${stem(picture.name)}.json`);
});

/** @param {string} name */
const stem = (name) => name.replace(/\.[^.]*$/, "") || "picture";

function begin() {
  state.model = load();
  state.model.catch((error) => {
    state.model = null;
    refuse(error);
  });
}

theme(at("theme"));
listen({ inputs: [at("pick"), at("photograph")], refuse: (text) => refuse(new Refusal(text)) }, take);
const refit = eachFrame(() => at("frame").clientWidth === state.room || stage());
new ResizeObserver(refit).observe(at("frame"));
begin();
