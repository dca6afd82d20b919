/**
 * The paper's rule (Zhou et al., CVPR 2016, section 3.2): keep what is above a share of the map's maximum, and box the
 * largest connected part. The same boxes as `camlucida.boxes.localize.boxes`, at the picture's own size, but from runs of
 * pixels instead of pixels, fast enough to follow a slider on a large photo.
 */

import { rowOf, valueAt } from "./projection.js";

/** @typedef {import("./projection.js").Projection} Projection */
/** @typedef {[number, number, number, number]} Box half-open xyxy pixels. */

/**
 * Boxes the largest part of a map above `threshold * high`.
 * @param {Float32Array} map h×w.
 * @param {Projection} laid over the picture at its own size.
 * @param {number} threshold share of the maximum, in [0, 1].
 * @param {number} high the map's maximum over the picture (see `extremes`).
 * @returns {{box: Box | null, area: number}} null where the map is nowhere positive; the part's pixels.
 */
export function largestBox(map, laid, threshold, high) {
  if (!(high > 0) || threshold >= 1) return { box: null, area: 0 };
  const runs = runsAbove(map, laid, threshold * high);
  const parent = joined(runs);
  /** @type {Map<number, {box: Box, area: number}>} */
  const parts = new Map(); // in reading order of their first pixels
  for (let i = 0; i < parent.length; i++) {
    const [y, start, stop] = runs.slice(3 * i, 3 * i + 3);
    const part = parts.get(root(parent, i));
    if (!part) {
      parts.set(parent[i], { box: [start, y, stop, y + 1], area: stop - start });
      continue;
    }
    part.box = [Math.min(part.box[0], start), part.box[1], Math.max(part.box[2], stop), y + 1];
    part.area += stop - start;
  }
  let largest = { box: /** @type {Box | null} */ (null), area: 0 };
  for (const part of parts.values()) if (part.area > largest.area) largest = part;
  return largest;
}

/**
 * Runs of pixels above `cut`, in reading order. Along a row the map is straight between two cells, so it crosses the
 * cut at most once there, and halving finds where.
 * @param {Float32Array} map
 * @param {Projection} laid
 * @param {number} cut
 * @returns {number[]} y, start, stop of each run, one after the other.
 */
function runsAbove(map, laid, cut) {
  const { rows, columns } = laid;
  const row = new Float32Array(columns.cells);
  /** @type {number[]} */
  const runs = [];
  for (let y = rows.start; y < rows.stop; y++) {
    rowOf(map, laid, y, row);
    let open = -1;
    for (let piece = 0; piece + 1 < columns.pieces.length; piece++) {
      let [low, high] = [columns.pieces[piece], columns.pieces[piece + 1] - 1];
      const begins = valueAt(row, columns, low) > cut;
      const ends = valueAt(row, columns, high) > cut;
      if (begins && open < 0) open = low;
      if (!begins && open >= 0) {
        runs.push(y, open, low);
        open = -1;
      }
      if (begins === ends) continue;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (valueAt(row, columns, middle) > cut === begins) low = middle;
        else high = middle;
      }
      if (ends) {
        open = high;
      } else {
        runs.push(y, open, high);
        open = -1;
      }
    }
    if (open >= 0) runs.push(y, open, columns.stop);
  }
  return runs;
}

/**
 * Joins runs that touch, at corners too.
 * @param {number[]} runs
 * @returns {Int32Array} for each run one that it is joined to; the first of a part points at itself.
 */
function joined(runs) {
  const parent = Int32Array.from({ length: runs.length / 3 }, (_, i) => i);
  let above = 0; // the first run of the row above that may still touch
  for (let i = 0; i < parent.length; i++) {
    const [y, start, stop] = [runs[3 * i], runs[3 * i + 1], runs[3 * i + 2]];
    while (runs[3 * above] < y - 1 || (runs[3 * above] === y - 1 && runs[3 * above + 2] < start)) above++;
    for (let k = above; runs[3 * k] === y - 1 && runs[3 * k + 1] <= stop; k++) {
      const [a, b] = [root(parent, i), root(parent, k)];
      parent[Math.max(a, b)] = Math.min(a, b);
    }
  }
  return parent;
}

/** The first run of the part that run `i` belongs to. @param {Int32Array} parent @param {number} i */
function root(parent, i) {
  let at = i;
  while (parent[at] !== at) at = parent[at];
  while (parent[i] !== at) [parent[i], i] = [at, parent[i]];
  return at;
}
