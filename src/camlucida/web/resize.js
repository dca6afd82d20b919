/**
 * Pillow's `Image.resize` on 8-bit pixels, to the bit: antialiased filters whose support grows with the reduction,
 * coefficients in fixed point (22 bits), one direction after the other with 8 bits between them. As Pillow 13 does it;
 * before, rows always went first, and a few pixels of tall pictures were a step or two different. Pixels are RGBA;
 * alpha is left out.
 */

const PRECISION = 22;
const HALF = 2 ** (PRECISION - 1);

/** @param {number} x */
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** @param {number} x */
function bicubic(x) {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** @param {number} x */
function hamming(x) {
  const t = Math.abs(x);
  if (t === 0) return 1;
  if (t >= 1) return 0;
  return (Math.sin(t * Math.PI) / (t * Math.PI)) * (0.54 + 0.46 * Math.cos(t * Math.PI));
}

/**
 * Filters by Pillow's names: half width in pixels, and weight at a distance.
 * @type {Record<string, {support: number, weight: (x: number) => number}>}
 */
const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: { support: 1, weight: hamming },
  bicubic: { support: 2, weight: bicubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/**
 * For each output pixel of one axis: the first input pixel it mixes, how many, and their weights in fixed point.
 * @param {number} inputs pixels of the input.
 * @param {number} start where the first output pixel begins, in input pixels.
 * @param {number} stop where the last one ends.
 * @param {number} outputs pixels of the output.
 * @param {string} name of the filter.
 */
function coefficients(inputs, start, stop, outputs, name) {
  const filter = FILTERS[name];
  const scale = Math.fround(stop - start) / outputs;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const size = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outputs);
  const count = new Int32Array(outputs);
  const weights = new Int32Array(outputs * size);
  for (let i = 0; i < outputs; i++) {
    const centre = start + (i + 0.5) * scale;
    const low = Math.max(0, Math.trunc(centre - support + 0.5));
    const many = Math.min(inputs, Math.trunc(centre + support + 0.5)) - low;
    const exact = [];
    let total = 0;
    for (let k = 0; k < many; k++) {
      exact[k] = filter.weight((k + low - centre + 0.5) * (1 / stretch));
      total += exact[k];
    }
    for (let k = 0; k < many; k++) {
      const share = (total === 0 ? exact[k] : exact[k] / total) * 2 ** PRECISION;
      weights[i * size + k] = Math.trunc(share + (share < 0 ? -0.5 : 0.5));
    }
    first[i] = low;
    count[i] = many;
  }
  return { first, count, weights, size };
}

/**
 * Mix pixels along one axis.
 * @param {Uint8ClampedArray} from RGBA.
 * @param {Uint8ClampedArray} to RGBA, filled.
 * @param {ReturnType<typeof coefficients>} axis weights along that axis.
 * @param {number} lines how many rows (or columns) to mix.
 * @param {[number, number]} fromSteps between pixels along the axis and between lines, in `from`.
 * @param {[number, number]} toSteps the same in `to`.
 */
function mix(from, to, axis, lines, [along, across], [alongTo, acrossTo]) {
  const { first, count, weights, size } = axis;
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < first.length; i++) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let at = line * across + first[i] * along;
      const end = i * size + count[i];
      for (let k = i * size; k < end; k++, at += along) {
        const weight = weights[k];
        red += from[at] * weight;
        green += from[at + 1] * weight;
        blue += from[at + 2] * weight;
      }
      const put = line * acrossTo + i * alongTo;
      to[put] = red >> PRECISION; // a clamped array cuts to 0 … 255
      to[put + 1] = green >> PRECISION;
      to[put + 2] = blue >> PRECISION;
      to[put + 3] = 255;
    }
  }
}

/**
 * The nearest pixel's number for each output pixel; positions are added up, as Pillow does.
 * @param {number} inputs
 * @param {number} start
 * @param {number} stop
 * @param {number} outputs
 */
function nearestPixels(inputs, start, stop, outputs) {
  const found = new Int32Array(outputs);
  const step = Math.fround(stop - start) / outputs;
  let position = start + step * 0.5;
  for (let i = 0; i < outputs; i++, position += step) found[i] = Math.min(Math.trunc(position), inputs - 1);
  return found;
}

/**
 * Resize a picture.
 * @param {Uint8ClampedArray} pixels RGBA, H×W.
 * @param {[number, number]} imageHw its height and width.
 * @param {[number, number]} sizeHw the wanted height and width.
 * @param {string} interpolation nearest, box, bilinear, hamming, bicubic or lanczos.
 * @param {[number, number, number, number]} [box] the part to resize, xyxy in its pixels; all of it where not given.
 * @returns {Uint8ClampedArray} RGBA of the wanted size; alpha 255. The input itself where nothing changes.
 */
export function resize(pixels, imageHw, sizeHw, interpolation, box = [0, 0, imageHw[1], imageHw[0]]) {
  const [height, width] = imageHw;
  const [newHeight, newWidth] = sizeHw;
  const [x0, y0, x1, y1] = box.map(Math.fround); // C floats, as Pillow takes them
  const across = newWidth !== width || x0 !== 0 || x1 !== newWidth;
  const down = newHeight !== height || y0 !== 0 || y1 !== newHeight;
  if (!across && !down) return pixels;
  if (interpolation === "nearest") {
    const columns = nearestPixels(width, x0, x1, newWidth);
    const rows = nearestPixels(height, y0, y1, newHeight);
    return picked(pixels, width, rows, columns);
  }
  const horizontal = across ? coefficients(width, x0, x1, newWidth, interpolation) : null;
  const vertical = down ? coefficients(height, y0, y1, newHeight, interpolation) : null;
  const downFirst = height > newHeight && height - newHeight > 2 * (width - newWidth);
  if (downFirst || !horizontal || !vertical) {
    const low = vertical ? columnsMixed(pixels, width, vertical) : pixels;
    return horizontal ? rowsMixed(low, width, newHeight, horizontal) : low;
  }
  // Only the rows that the second pass will read.
  const top = vertical.first[0];
  const bottom = vertical.first[newHeight - 1] + vertical.count[newHeight - 1];
  const wide = rowsMixed(pixels.subarray(top * width * 4), width, bottom - top, horizontal);
  for (let i = 0; i < newHeight; i++) vertical.first[i] -= top;
  return columnsMixed(wide, newWidth, vertical);
}

/**
 * @param {Uint8ClampedArray} from RGBA.
 * @param {number} width of its rows.
 * @param {number} rows how many to mix.
 * @param {ReturnType<typeof coefficients>} axis
 */
function rowsMixed(from, width, rows, axis) {
  const newWidth = axis.first.length;
  const to = new Uint8ClampedArray(rows * newWidth * 4);
  mix(from, to, axis, rows, [4, width * 4], [4, newWidth * 4]);
  return to;
}

/**
 * @param {Uint8ClampedArray} from RGBA.
 * @param {number} width of its rows.
 * @param {ReturnType<typeof coefficients>} axis
 */
function columnsMixed(from, width, axis) {
  const to = new Uint8ClampedArray(axis.first.length * width * 4);
  mix(from, to, axis, width, [width * 4, 4], [width * 4, 4]);
  return to;
}

/**
 * @param {Uint8ClampedArray} pixels RGBA.
 * @param {number} width of its rows.
 * @param {Int32Array} rows
 * @param {Int32Array} columns
 */
function picked(pixels, width, rows, columns) {
  const to = new Uint8ClampedArray(rows.length * columns.length * 4).fill(255);
  let put = 0;
  for (const y of rows) {
    for (const x of columns) {
      const at = (y * width + x) * 4;
      to.set(pixels.subarray(at, at + 3), put);
      put += 4;
    }
  }
  return to;
}
