import assert from "node:assert/strict";
import { test } from "node:test";

import { answerOf, mapAt, nameOf, ranked, shown } from "../../src/camlucida/web/answer.js";

const view = { image_hw: [2, 4], seen_xyxy: [0, 0, 4, 2] };
const three = {
  logits: Float32Array.of(3, 1, -1),
  maps: Float32Array.of(1, 1.5, 0, 1, -1, -1),
  bias: Float32Array.of(0.5, 0, 0.5),
  ids: [0, 1, 2],
};

test("an exact map leaves nothing, another its share of the logits' spread", () => {
  const { classes } = answerOf(three, [1, 2], view, ["ant", "bee", "cow"], "softmax");
  assert.deepEqual(classes.map(({ name }) => name), ["ant", "bee", "cow"]);
  assert.deepEqual(classes.map(({ residual }) => residual), [0, 0, 0.125]); // |-2 + 0.5 + 1| / (3 + 1)
  const total = classes.reduce((sum, { probability }) => sum + probability, 0);
  assert.ok(Math.abs(total - 1) < 1e-12);
});

test("a contrast is the difference of maps, logits and biases, and its residual is at most the sum", () => {
  const answer = answerOf(three, [1, 2], view, null, "softmax");
  const against = shown(answer, 0, 2);
  assert.equal(against.name, "class 0 rather than class 2");
  assert.deepEqual([...against.map], [2, 2.5]);
  assert.deepEqual([against.logit, against.bias, against.residual, against.probability], [4, 0, 0.125, null]);
  assert.equal(shown(answer, 1, 1).name, "class 1"); // against itself it is alone
  assert.deepEqual([...mapAt(answer, 1)], [0, 1]); // and no map was changed
});

test("a model that gives only its likeliest classes' maps", () => {
  const outputs = { ...three, maps: three.maps.slice(0, 4), bias: Float32Array.of(0, 0.5), ids: [1, 0] };
  const answer = answerOf(outputs, [1, 2], view, ["ant", "bee", "cow"], "softmax");
  assert.deepEqual(answer.classes.map(({ id, name, logit }) => [id, name, logit]), [[1, "bee", 1], [0, "ant", 3]]);
  assert.deepEqual(ranked(answer), [1, 0]);
});

test("a single logit is two classes, whose maps are each other's negative", () => {
  const outputs = { logits: Float32Array.of(2), maps: Float32Array.of(1, 0.5), bias: Float32Array.of(0.5), ids: [0] };
  const { classes, maps } = answerOf(outputs, [1, 2], view, ["tumour"], "sigmoid");
  const rows = classes.map(({ id, name, logit, bias }) => [id, name, logit, bias]);
  assert.deepEqual(rows, [[0, "not tumour", -2, -0.5], [1, "tumour", 2, 0.5]]);
  assert.deepEqual([...maps], [-1, -0.5, 1, 0.5]);
  assert.ok(Math.abs(classes[0].probability + classes[1].probability - 1) < 1e-12);
  assert.equal(nameOf(1, null, 1), "positive");
});
