/** How a picture becomes the network's input: the same steps, and the same numbers, as `camlucida.Preprocess`. */

import { resize } from "./resize.js";

/**
 * @typedef {object} Preprocess
 * @property {[number, number]} size_hw height and width of the network's input.
 * @property {"crop" | "stretch" | "pad"} fit
 * @property {number} crop_fraction
 * @property {string} interpolation
 * @property {[number, number, number]} mean of the input's channels, in units of `scale`.
 * @property {[number, number, number]} std
 * @property {number} [scale] what white becomes before mean and std; 1 if not given.
 * @property {"rgb" | "bgr"} [order] of the input's channels; "rgb" if not given.
 *
 * @typedef {object} View what the network's input covers of the picture.
 * @property {[number, number]} image_hw
 * @property {[number, number, number, number]} seen_xyxy in pixels of the picture.
 */

const MAX_RESIZED = 64_000_000; // pixels; a longer picture is resized only where the crop sees it

/** Python's `round`: halves go to the even neighbour. @param {number} x */
function round(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

/** Round down, but take 231.99999999999997 for what was meant. @param {number} side */
const floor = (side) => Math.floor(side + 1e-6);

/**
 * Size of the whole picture after resizing.
 * @param {[number, number]} imageHw
 * @param {Preprocess} how
 * @returns {[number, number]}
 */
function resizedHw(imageHw, how) {
  const [height, width] = how.size_hw.map((side) => floor(side / how.crop_fraction));
  if (how.fit === "stretch") return [height, width];
  if (how.fit === "crop" && height === width) {
    const [short, long] = imageHw[0] <= imageHw[1] ? imageHw : [imageHw[1], imageHw[0]];
    const other = Math.trunc((height * long) / short);
    return imageHw[0] <= imageHw[1] ? [height, other] : [other, height];
  }
  const ratios = [imageHw[0] / height, imageHw[1] / width];
  const ratio = how.fit === "crop" ? Math.min(...ratios) : Math.max(...ratios);
  return [Math.max(1, round(imageHw[0] / ratio)), Math.max(1, round(imageHw[1] / ratio))];
}

/** Where the middle begins; negative where padding is needed. @param {number} resized @param {number} size */
const offset = (resized, size) => (resized >= size ? round((resized - size) / 2) : -Math.floor((size - resized) / 2));

/**
 * The network's view of a picture, as 8-bit pixels.
 * @param {Uint8ClampedArray} pixels RGBA, upright, opaque.
 * @param {[number, number]} imageHw
 * @param {Preprocess} how
 * @returns {{seen: Uint8ClampedArray, view: View}} RGBA of `how.size_hw`, and what it covers.
 */
export function look(pixels, imageHw, how) {
  const [height, width] = how.size_hw;
  const [tall, wide] = resizedHw(imageHw, how);
  const [top, left] = [offset(tall, height), offset(wide, width)];
  const [down, across] = [imageHw[0] / tall, imageHw[1] / wide];
  /** @type {View} */
  const view = {
    image_hw: imageHw,
    seen_xyxy: [left * across, top * down, (left + width) * across, (top + height) * down],
  };
  if (how.fit === "crop" && tall * wide > MAX_RESIZED) {
    return { seen: resize(pixels, imageHw, [height, width], how.interpolation, view.seen_xyxy), view };
  }
  const resized = resize(pixels, imageHw, [tall, wide], how.interpolation);
  if (tall === height && wide === width) return { seen: resized, view };
  const seen = new Uint8ClampedArray(height * width * 4);
  const levels = how.mean.map((mean) => round(Math.min(Math.max((255 * mean) / (how.scale ?? 1), 0), 255)));
  const padding = [...(how.order === "bgr" ? levels.reverse() : levels), 255];
  for (let i = 0; i < seen.length; i++) seen[i] = padding[i % 4];
  const [fromX, toX] = [Math.max(0, left), Math.min(wide, left + width)];
  for (let y = Math.max(0, top); y < Math.min(tall, top + height); y++) {
    const row = resized.subarray((y * wide + fromX) * 4, (y * wide + toX) * 4);
    seen.set(row, ((y - top) * width + fromX - left) * 4);
  }
  return { seen, view };
}

/**
 * `(value * scale / 255 - mean) / std` of every pixel, channel by channel, in float32.
 * @param {Uint8ClampedArray} seen RGBA.
 * @param {Preprocess} how
 * @returns {Float32Array} 3×h×w.
 */
export function normalized(seen, how) {
  const cells = seen.length / 4;
  const values = new Float32Array(3 * cells);
  const white = Math.fround(255 / (how.scale ?? 1));
  for (let channel = 0; channel < 3; channel++) {
    const from = how.order === "bgr" ? 2 - channel : channel;
    const [mean, std] = [Math.fround(how.mean[channel]), Math.fround(how.std[channel])];
    const table = Float32Array.from({ length: 256 }, (_, value) =>
      Math.fround(Math.fround(value / white) - mean) / std,
    );
    for (let i = 0; i < cells; i++) values[channel * cells + i] = table[seen[i * 4 + from]];
  }
  return values;
}
