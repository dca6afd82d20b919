/** Numbers as a server sends them: half precision, in base64. */

/**
 * @param {string} text base64.
 * @returns {Uint8Array}
 */
export function fromBase64(text) {
  const signs = atob(text);
  const bytes = new Uint8Array(signs.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = signs.charCodeAt(i);
  return bytes;
}

/**
 * IEEE 754 half precision, little-endian, to single; every half is exactly a single.
 * @param {Uint8Array} bytes
 * @returns {Float32Array}
 */
export function fromFloat16(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = new Float32Array(bytes.byteLength / 2);
  for (let i = 0; i < values.length; i++) {
    const half = view.getUint16(2 * i, true);
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const sign = half & 0x8000 ? -1 : 1;
    if (exponent === 31) values[i] = fraction ? NaN : sign * Infinity;
    else values[i] = exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction;
  }
  return values;
}
