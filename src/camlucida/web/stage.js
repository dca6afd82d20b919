/** Two layers: the picture, drawn once, and over it its map, the mask's outline and the box, drawn for each class. */

import { hatch, heatColours, paintHeat, paintOutline } from "./heat.js";
import { project, projection } from "./projection.js";

/** @typedef {import("./preprocess.js").View} View */
/** @typedef {import("./boxes.js").Box} Box */

/**
 * @typedef {object} Drawing
 * @property {Float32Array} map h×w, logits per cell.
 * @property {number} limit the value drawn at full strength.
 * @property {boolean} signed
 * @property {number} opacity in [0, 1].
 * @property {number} cut values above it are the mask.
 * @property {Box | null} box in pixels of the picture.
 */

const MAX_DRAWN = 500_000; // pixels of a map on the screen, so that it is drawn within a frame

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 * @param {number} [most] pixels; a larger canvas is made smaller.
 */
function sized(canvas, width, height, most = Infinity) {
  const scale = Math.min(1, Math.sqrt(most / (width * height)));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
}

/**
 * Draws the picture, greyed where the network did not look.
 * @param {HTMLCanvasElement} canvas gets the size.
 * @param {CanvasImageSource} picture upright.
 * @param {View} view
 * @param {number} width pixels.
 * @param {number} height
 */
export function drawPicture(canvas, picture, view, width, height) {
  const pen = sized(canvas, width, height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, width, height);
  const laid = projection(view, [1, 1], [height, width]);
  if (seesAll(laid.rows) && seesAll(laid.columns)) return;
  const pixels = pen.getImageData(0, 0, width, height);
  hatch(pixels.data, laid);
  pen.putImageData(pixels, 0, 0);
}

/** @param {import("./projection.js").Axis} axis */
const seesAll = ({ start, stop, length }) => start === 0 && stop === length;

/** A transparent canvas over a picture, on which any of its maps is drawn at once. */
export class Stage {
  /**
   * @param {HTMLCanvasElement} canvas drawn on; gets the size.
   * @param {View} view
   * @param {[number, number]} grid
   * @param {number} width of the picture on the screen, pixels.
   * @param {number} height
   * @param {number} [most] pixels to draw; the canvas is smaller, and scaled, where there are more.
   */
  constructor(canvas, view, grid, width, height, most = MAX_DRAWN) {
    this.pen = sized(canvas, width, height, most);
    this.scale = [canvas.width / view.image_hw[1], canvas.height / view.image_hw[0]];
    this.laid = projection(view, grid, [canvas.height, canvas.width]);
    this.image = new ImageData(canvas.width, canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.values = new Float32Array(this.pixels.length);
  }

  /** @param {Drawing} drawing @param {boolean} [outlined] draw the mask's outline. */
  draw({ map, limit, signed, opacity, cut, box }, outlined = true) {
    const { pen, image, pixels, values } = this;
    project(map, this.laid, values);
    paintHeat(pixels, values, heatColours(signed, opacity), signed, limit);
    const thin = Math.max(1, Math.round(Math.min(image.width, image.height) / 400));
    if (outlined && box) paintOutline(pixels, values, image.width, cut, thin);
    pen.putImageData(image, 0, 0);
    if (box) this.frame(box);
  }

  /** A white line just inside the box, between dark ones that keep it visible on any picture. @param {Box} box */
  frame(box) {
    const line = Math.max(1, Math.round(Math.min(this.image.width, this.image.height) / 150));
    const halo = Math.max(1, Math.floor(line / 2));
    const [x0, y0, x1, y1] = box.map((side, i) => Math.round(side * this.scale[i % 2]));
    /** @type {[string, number][]} */
    const strokes = [["rgb(16 16 16)", line + 2 * halo], ["#fff", line]];
    for (const [colour, width] of strokes) {
      this.pen.strokeStyle = colour;
      this.pen.lineWidth = width;
      this.pen.strokeRect(x0 + line / 2, y0 + line / 2, Math.max(0, x1 - x0 - line), Math.max(0, y1 - y0 - line));
    }
  }
}
