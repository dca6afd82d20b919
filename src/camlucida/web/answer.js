/** An answer of a model about one picture: classes, their maps, and what can be computed from them. Pure functions. */

/** @typedef {import("./preprocess.js").View} View */
/** @typedef {"softmax" | "sigmoid" | "none"} Activation */

/**
 * @typedef {object} ClassRow one explained class; its map is at the same place in `Answer.maps`.
 * @property {number} id
 * @property {string} name
 * @property {number} logit
 * @property {number | null} probability null where the model's logits are no probabilities.
 * @property {number} bias the part of the logit that no cell carries.
 * @property {number | null} residual |map.sum() + bias - logit| over the spread of the logits; null where unknown.
 *
 * @typedef {object} Answer
 * @property {ClassRow[]} classes
 * @property {Float32Array} maps T×h×w, signed, logits per cell.
 * @property {[number, number]} grid h and w.
 * @property {View} view
 *
 * @typedef {object} Model what the page says about the model.
 * @property {string} name
 * @property {number} classes how many there are.
 * @property {string} note what the reader should know; mostly empty.
 * @property {string} where what happens to the picture, in a sentence.
 *
 * @typedef {object} Shown what is drawn: a class, or a class against another.
 * @property {string} name
 * @property {Float32Array} map h×w.
 * @property {number} logit
 * @property {number | null} probability
 * @property {number} bias
 * @property {number | null} residual
 */

/**
 * The name of a class, or its number where there are no names. A single logit is two classes.
 * @param {number} id
 * @param {string[] | null} classNames
 * @param {number} width how many logits the model has.
 */
export function nameOf(id, classNames, width) {
  if (width === 1 && classNames?.length === 1) return id ? classNames[0] : `not ${classNames[0]}`;
  if (classNames && id < classNames.length) return classNames[id];
  return width === 1 ? ["negative", "positive"][id] : `class ${id}`;
}

/**
 * Probabilities of logits.
 * @param {ArrayLike<number>} logits
 * @param {Activation} activation
 * @returns {(number | null)[]}
 */
export function probabilities(logits, activation) {
  const all = Array.from(logits);
  if (activation === "none") return all.map(() => null);
  if (activation === "sigmoid") return all.map((logit) => 1 / (1 + Math.exp(-logit)));
  const highest = all.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = all.map((logit) => Math.exp(logit - highest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

/**
 * What a model's outputs say.
 * @param {object} outputs
 * @param {Float32Array} outputs.logits K.
 * @param {Float32Array} outputs.maps T×h×w.
 * @param {Float32Array} outputs.bias T.
 * @param {number[]} outputs.ids T: which class each map belongs to.
 * @param {[number, number]} grid
 * @param {View} view
 * @param {string[] | null} classNames
 * @param {Activation} activation
 * @returns {Answer}
 */
export function answerOf({ logits, maps, bias, ids }, grid, view, classNames, activation) {
  const width = logits.length;
  const cells = grid[0] * grid[1];
  let [low, high] = [Infinity, -Infinity];
  for (const logit of logits) [low, high] = [Math.min(low, logit), Math.max(high, logit)];
  const spread = width === 1 ? Math.abs(high) : high - low;
  /** @param {number} t @param {number} id */
  const residual = (t, id) => {
    let missing = bias[t] - logits[id];
    for (let i = t * cells; i < (t + 1) * cells; i++) missing += maps[i];
    return Math.abs(missing) / (spread || 1);
  };
  if (width === 1) {
    const both = new Float32Array(2 * cells);
    both.set(maps.map((value) => -value));
    both.set(maps, cells);
    const chances = probabilities([-logits[0], logits[0]], activation === "none" ? "none" : "sigmoid");
    const classes = [-1, 1].map((sign, id) => {
      const name = nameOf(id, classNames, 1);
      const [logit, constant] = [sign * logits[0], sign * bias[0]];
      return { id, name, logit, probability: chances[id], bias: constant, residual: residual(0, 0) };
    });
    return { classes, maps: both, grid, view };
  }
  const chances = probabilities(logits, activation);
  const classes = ids.map((id, t) => {
    const name = nameOf(id, classNames, width);
    return { id, name, logit: logits[id], probability: chances[id], bias: bias[t], residual: residual(t, id) };
  });
  return { classes, maps, grid, view };
}

/** Places of the classes in an answer, likeliest first. @param {Answer} answer */
export function ranked({ classes }) {
  return classes.map((_, place) => place).sort((a, b) => classes[b].logit - classes[a].logit || a - b);
}

/** The map at a place, without a copy. @param {Answer} answer @param {number} place */
export function mapAt({ maps, grid }, place) {
  const cells = grid[0] * grid[1];
  return maps.subarray(place * cells, (place + 1) * cells);
}

/**
 * A class alone, or against another: the difference of two maps explains the difference of two logits.
 * @param {Answer} answer
 * @param {number} place
 * @param {number | null} rival the other's place.
 * @returns {Shown}
 */
export function shown(answer, place, rival) {
  const chosen = answer.classes[place];
  if (rival === null || rival === place) return { ...chosen, map: mapAt(answer, place) };
  const against = answer.classes[rival];
  const rivalMap = mapAt(answer, rival);
  const known = chosen.residual !== null && against.residual !== null;
  return {
    name: `${chosen.name} rather than ${against.name}`,
    map: mapAt(answer, place).map((value, i) => value - rivalMap[i]),
    logit: chosen.logit - against.logit,
    probability: null,
    bias: chosen.bias - against.bias,
    residual: known ? Number(chosen.residual) + Number(against.residual) : null, // it is at most their sum
  };
}
