/** Numbers in words. Pure functions. */

/** @typedef {import("./answer.js").Shown} Shown */
/** @typedef {import("./boxes.js").Box} Box */

/** With a true minus sign, and a plus if wanted. @param {number} value @param {number} digits @param {boolean} [plus] */
export function decimal(value, digits = 2, plus = false) {
  const text = Math.abs(value).toFixed(digits);
  const zero = Number(text) === 0;
  return (value < 0 && !zero ? "−" : plus && !zero ? "+" : "") + text;
}

/** @param {number | null} probability @param {number} logit */
export function percent(probability, logit) {
  if (probability === null) return decimal(logit, 2, true);
  if (probability > 0 && probability < 0.001) return "< 0.1 %";
  if (probability > 0.999 && probability < 1) return "> 99.9 %";
  return `${(100 * probability).toFixed(1)} %`;
}

/** A short number with three significant digits. @param {number} value */
export function short(value) {
  return value === 0 ? "0" : `${value < 0 ? "−" : ""}${Number(Math.abs(value).toPrecision(3))}`;
}

/**
 * What the map explains of the logit, and what it leaves.
 * @param {Shown} shown
 * @returns {string}
 */
export function residualSentence({ map, logit, bias, residual, name }) {
  const sum = map.reduce((a, b) => a + b, 0);
  const terms = `its cells sum to ${decimal(sum)}, the bias is ${decimal(bias)}`;
  const what = name.includes(" rather than ") ? "the difference of the logits" : "the logit";
  if (residual === null) return `This map is no decomposition of ${what}: it shows where, not how much.`;
  if (residual <= 1e-4) return `The map is exact: ${terms}, and together they are ${what}, ${decimal(logit)}.`;
  const missing = Number((100 * residual).toPrecision(2));
  const advice = residual > 0.01 ? " Read it as an approximation." : "";
  const left = `The map leaves ${missing} % of the logits' spread unexplained`;
  return `${left}: ${terms}, but ${what} is ${decimal(logit)}.${advice}`;
}

/** A note as a sentence: a capital first, a full stop last. @param {string} note */
export function sentence(note) {
  return note && note[0].toUpperCase() + note.slice(1) + (/[.!?]$/.test(note) ? "" : ".");
}

/** @param {Box | null} box */
export function boxWords(box) {
  if (!box) return "none: nothing speaks for this class";
  const [x0, y0, x1, y1] = box;
  return `${x0}, ${y0} – ${x1}, ${y1} (${x1 - x0} × ${y1 - y0} pixels)`;
}
