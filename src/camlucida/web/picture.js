/** Whatever was dropped, pasted, picked or photographed -> upright opaque pixels. */

import { Refusal } from "./refusal.js";

/**
 * @typedef {object} Picture
 * @property {Blob} blob as it came.
 * @property {string} name
 * @property {HTMLCanvasElement} canvas upright, transparency over white, at its own size.
 * @property {ImageData} pixels of the canvas; an engine may take their memory.
 */

const MAX_PIXELS = 89_478_485; // as the library's own limit

/**
 * Read a picture: EXIF orientation applied, colour profiles not, transparency over white, the first frame.
 * @param {Blob} blob
 * @param {string} name
 * @returns {Promise<Picture>}
 * @throws {Refusal} it is no picture, or too large.
 */
export async function read(blob, name) {
  if (!blob.size) throw new Refusal(`${name}: empty; choose another file.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new Refusal(`${name}: not a picture that this browser can read; try a JPEG, PNG or WebP.`);
  }
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) throw new Error("too large");
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.drawImage(bitmap, 0, 0);
    return { blob, name, canvas, pixels: pen.getImageData(0, 0, width, height) };
  } catch {
    throw new Refusal(`${name}: ${width}×${height} pixels are too many here; scale it down first.`);
  } finally {
    bitmap.close();
  }
}
