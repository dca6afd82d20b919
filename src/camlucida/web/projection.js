/**
 * A map's grid laid over a picture: half-pixel bilinear, held at the outermost cells, 0 where the network saw nothing.
 * The same float32 numbers as `camlucida.View.project`.
 */

/** @typedef {import("./preprocess.js").View} View */

/**
 * @typedef {object} Axis one direction of the picture, `length` pixels long.
 * @property {number} length
 * @property {number} cells
 * @property {Int32Array} low for each pixel the first of the two cells that it lies between.
 * @property {Float64Array} share the second one's share.
 * @property {Float32Array} first what the first cell is multiplied with: 1 - share, or 0 outside of what was seen.
 * @property {Float32Array} second the same of the second cell.
 * @property {number} start first pixel that was seen.
 * @property {number} stop first pixel after it that was not.
 * @property {Int32Array} pieces where the map changes its slope: `pieces[i]` … `pieces[i + 1]` lie between two cells.
 *
 * @typedef {{rows: Axis, columns: Axis}} Projection
 */

/**
 * @param {number} length pixels.
 * @param {number} cells
 * @param {number} from where the first cell begins, in pixels.
 * @param {number} to where the last cell ends.
 * @returns {Axis}
 */
export function axis(length, cells, from, to) {
  const low = new Int32Array(length);
  const share = new Float64Array(length);
  const first = new Float32Array(length);
  const second = new Float32Array(length);
  const pieces = [];
  let start = length;
  let stop = length;
  for (let i = 0; i < length; i++) {
    const centre = i + 0.5;
    const position = Math.min(Math.max((centre - from) * (cells / (to - from)) - 0.5, 0), cells - 1);
    low[i] = Math.floor(position);
    share[i] = position - low[i];
    if (centre < from) continue;
    if (centre >= to) {
      stop = i;
      break;
    }
    first[i] = 1 - share[i];
    second[i] = share[i];
    if (start === length) start = i;
    if (i === start || low[i] !== low[i - 1]) pieces.push(i);
  }
  if (start < length) pieces.push(stop);
  return { length, cells, low, share, first, second, start, stop, pieces: Int32Array.from(pieces) };
}

/**
 * How a grid lies over a picture shown at some size.
 * @param {View} view
 * @param {[number, number]} grid rows and columns.
 * @param {[number, number]} [sizeHw] height and width to lay it over; the picture's own where not given.
 * @returns {Projection}
 */
export function projection(view, [rows, columns], [height, width] = view.image_hw) {
  const [x0, y0, x1, y1] = view.seen_xyxy;
  const [down, across] = [height / view.image_hw[0], width / view.image_hw[1]];
  return { rows: axis(height, rows, y0 * down, y1 * down), columns: axis(width, columns, x0 * across, x1 * across) };
}

/**
 * The map along row `y` of the picture, still at the grid's columns.
 * @param {Float32Array} map h×w.
 * @param {Projection} laid
 * @param {number} y a row that was seen.
 * @param {Float32Array} into w values, filled.
 */
export function rowOf(map, { rows, columns }, y, into) {
  const above = rows.low[y] * columns.cells;
  const below = Math.min(rows.low[y] + 1, rows.cells - 1) * columns.cells;
  const share = rows.share[y];
  for (let k = 0; k < columns.cells; k++) into[k] = (1 - share) * map[above + k] + share * map[below + k];
}

/**
 * The map at pixel `x` of a row from `rowOf`.
 * @param {Float32Array} row
 * @param {Axis} columns
 * @param {number} x
 */
export function valueAt(row, columns, x) {
  const left = columns.low[x];
  const right = left + 1 < columns.cells ? left + 1 : left;
  return Math.fround(Math.fround(row[left] * columns.first[x]) + Math.fround(row[right] * columns.second[x]));
}

/**
 * The least and greatest value of a map laid over its picture. Between two cells it is straight in each direction, so
 * that only the pixels beside the cells' centres are looked at.
 * @param {Float32Array} map h×w.
 * @param {Projection} laid
 * @returns {{low: number, high: number}} 0 counts as a value where the network did not see all of the picture.
 */
export function extremes(map, laid) {
  const { rows, columns } = laid;
  const all = rows.stop - rows.start === rows.length && columns.stop - columns.start === columns.length;
  let [low, high] = all ? [Infinity, -Infinity] : [0, 0];
  const row = new Float32Array(columns.cells);
  for (const y of endsOf(rows)) {
    rowOf(map, laid, y, row);
    for (const x of endsOf(columns)) {
      const value = valueAt(row, columns, x);
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return { low, high };
}

/** First and last pixel of every piece. @param {Axis} axis */
function endsOf({ pieces }) {
  const ends = [];
  for (let i = 0; i + 1 < pieces.length; i++) ends.push(pieces[i], pieces[i + 1] - 1);
  return ends;
}

/**
 * The whole map over the picture.
 * @param {Float32Array} map h×w.
 * @param {Projection} laid
 * @param {Float32Array} into height×width values, filled.
 */
export function project(map, laid, into) {
  const { rows, columns } = laid;
  const { low, first, second } = columns;
  const row = new Float32Array(columns.cells + 1); // one more, whose share is 0
  into.fill(0);
  for (let y = rows.start; y < rows.stop; y++) {
    rowOf(map, laid, y, row);
    const line = y * columns.length;
    for (let x = columns.start; x < columns.stop; x++) {
      const left = low[x];
      into[line + x] = Math.fround(row[left] * first[x]) + Math.fround(row[left + 1] * second[x]);
    }
  }
}
