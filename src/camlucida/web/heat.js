/** Colours for a map: a table from values to transparent colours, the mask's outline, grey for what was not seen. */

import { coolwarm, inferno } from "./colormaps.js";

/** @typedef {import("./projection.js").Projection} Projection */

const LEVELS = 1023; // steps between a map's limits; odd, so that 0 has its own in a signed map
const WHITE = 0xf2ffffff; // ABGR, as a little-endian machine stores RGBA
const DARK = 0x8c101010;

/**
 * Colour and opacity both grow in proportion to the value, from clear at 0, as in `camlucida.drawing.overlay.overlay`.
 * @param {boolean} signed negative values too, in the colours below the table's middle.
 * @param {number} opacity at full strength, in [0, 1].
 * @returns {Uint32Array} LEVELS colours, from the least (0, or minus the limit) to the limit.
 */
export function heatColours(signed, opacity) {
  const table = signed ? coolwarm : inferno;
  const colours = new Uint32Array(LEVELS);
  for (let level = 0; level < LEVELS; level++) {
    const place = level / (LEVELS - 1);
    const at = Math.min(Math.floor(place * 255), 254);
    const share = place * 255 - at;
    let colour = Math.round(255 * opacity * Math.abs(signed ? 2 * place - 1 : place)); // alpha first, red last
    for (let channel = 2; channel >= 0; channel--) {
      const mixed = table[3 * at + channel] * (1 - share) + table[3 * (at + 1) + channel] * share;
      colour = (colour << 8) | Math.round(mixed);
    }
    colours[level] = colour;
  }
  return colours;
}

/**
 * Paint a map.
 * @param {Uint32Array} into pixels to fill, as RGBA in memory.
 * @param {Float32Array} values as many, in logits per cell.
 * @param {Uint32Array} colours from `heatColours`.
 * @param {boolean} signed
 * @param {number} limit the value at full strength; nothing is painted where it is not positive.
 */
export function paintHeat(into, values, colours, signed, limit) {
  if (!(limit > 0)) {
    into.fill(0);
    return;
  }
  const zero = signed ? (LEVELS - 1) / 2 : 0;
  const scale = (LEVELS - 1 - zero) / limit;
  for (let i = 0; i < into.length; i++) {
    const level = values[i] * scale + zero + 0.5;
    into[i] = colours[level < 0 ? 0 : level > LEVELS - 1 ? LEVELS - 1 : level | 0];
  }
}

/**
 * Draw the edge of the mask (values above `cut`): a white line just inside, a dark one just outside.
 * @param {Uint32Array} into pixels, as RGBA in memory.
 * @param {Float32Array} values
 * @param {number} width of a row.
 * @param {number} cut
 * @param {number} thickness of the line, pixels.
 */
export function paintOutline(into, values, width, cut, thickness) {
  const height = values.length / width;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const inside = values[i] > cut;
      const edge =
        (x >= thickness && values[i - thickness] > cut !== inside) ||
        (x < width - thickness && values[i + thickness] > cut !== inside) ||
        (y >= thickness && values[i - thickness * width] > cut !== inside) ||
        (y < height - thickness && values[i + thickness * width] > cut !== inside);
      if (edge) into[i] = inside ? WHITE : DARK;
    }
  }
}

/**
 * Put a dim grey version of the picture, under diagonal lines, where the network did not look.
 * @param {Uint8ClampedArray} pixels RGBA, changed.
 * @param {Projection} laid over a picture of this size.
 */
export function hatch(pixels, { rows, columns }) {
  const [height, width] = [rows.length, columns.length];
  const period = Math.max(6, Math.round(Math.min(height, width) / 32));
  const stripe = Math.max(1, Math.floor(period / 6));
  for (let y = 0, i = 0; y < height; y++) {
    const seenRow = y >= rows.start && y < rows.stop;
    for (let x = 0; x < width; x++, i += 4) {
      if (seenRow && x >= columns.start && x < columns.stop) continue;
      const grey = (pixels[i] * 4899 + pixels[i + 1] * 9617 + pixels[i + 2] * 1868 + 8192) >> 14;
      const dim = Math.round(48 + 0.4 * grey) + ((y + x) % period < stripe ? 44 : 0);
      pixels[i] = pixels[i + 1] = pixels[i + 2] = dim;
    }
  }
}

/** The legend's colours as a CSS gradient. @param {boolean} signed */
export function gradient(signed) {
  const table = signed ? coolwarm : inferno;
  const stops = Array.from({ length: 17 }, (_, i) => {
    const at = 3 * Math.round((i * 255) / 16);
    return `rgb(${table[at]} ${table[at + 1]} ${table[at + 2]})`;
  });
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
