/** What can be kept: the overlay as PNG, the numbers as JSON (the fields of `camlucida map --json`, and the maps). */

import { mapAt } from "./answer.js";
import { largestBox } from "./boxes.js";
import { extremes, projection } from "./projection.js";
import { drawPicture, Stage } from "./stage.js";

/** @typedef {import("./answer.js").Answer} Answer */
/** @typedef {import("./picture.js").Picture} Picture */

const MAX_PIXELS = 16_000_000; // of a saved overlay: what phones' browsers can draw

/**
 * The overlay at the picture's own size.
 * @param {Picture} picture
 * @param {Answer} answer
 * @param {import("./stage.js").Drawing} drawing
 * @returns {Promise<Blob>} PNG.
 */
export function overlay({ canvas: picture }, { view, grid }, drawing) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (picture.width * picture.height)));
  const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
  const [below, above] = [document.createElement("canvas"), document.createElement("canvas")];
  drawPicture(below, picture, view, width, height);
  new Stage(above, view, grid, width, height, MAX_PIXELS).draw(drawing, false);
  below.getContext("2d")?.drawImage(above, 0, 0, width, height);
  return new Promise((resolve, reject) => {
    below.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no memory for the overlay"))), "image/png");
  });
}

/**
 * @param {Picture} picture
 * @param {Answer} answer
 * @param {string} model
 * @param {number} threshold of the boxes.
 * @param {number[]} places of the classes to write.
 * @returns {Blob} JSON.
 */
export function numbers({ name: picture }, answer, model, threshold, places) {
  const { classes, grid, view } = answer;
  const laid = projection(view, grid);
  const rows = places.map((place) => {
    const { id, name, probability, logit: score, bias, residual } = classes[place];
    const map = mapAt(answer, place);
    const { box, area } = largestBox(map, laid, threshold, extremes(map, laid).high);
    const cells = Array.from({ length: grid[0] }, (_, y) => Array.from(map.subarray(y * grid[1], (y + 1) * grid[1])));
    return { name, id, probability, score, bias, residual, box, area, map: cells };
  });
  const record = { picture, model, method: "cam", unit: "logits per cell", grid, ...view, threshold, classes: rows };
  return new Blob([JSON.stringify(record)], { type: "application/json" });
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
