import assert from "node:assert/strict";
import { test } from "node:test";

import { boxWords, decimal, percent, residualSentence, sentence, short } from "../../src/camlucida/web/words.js";

const map = Float32Array.of(4, 2.5);

test("numbers", () => {
  assert.equal(decimal(-1.234), "−1.23");
  assert.equal(decimal(-0.001), "0.00"); // no minus before nothing
  assert.equal(decimal(2, 1, true), "+2.0");
  const percents = [0.9221, 0.00001, 0.99999, 1, 0].map((probability) => percent(probability, 0));
  assert.deepEqual(percents, ["92.2 %", "< 0.1 %", "> 99.9 %", "100.0 %", "0.0 %"]);
  assert.equal(percent(null, -3.5), "−3.50");
  assert.deepEqual([0.19234, -12345, 0].map(short), ["0.192", "−12300", "0"]);
});

test("the residual in a sentence", () => {
  const exact = { name: "cat", map, logit: 7, bias: 0.5, residual: 2e-7, probability: 0.9 };
  assert.match(residualSentence(exact), /^The map is exact: its cells sum to 6\.50, the bias is 0\.50, .* logit, 7\.00\.$/);
  const rough = residualSentence({ ...exact, logit: 8, residual: 0.0312 });
  assert.match(rough, /leaves 3\.1 % of the logits' spread unexplained: .* is 8\.00\. Read it as an approximation\.$/);
  assert.match(residualSentence({ ...exact, residual: 0.0003 }), /leaves 0\.03 % .* but the logit is 7\.00\.$/);
  assert.match(residualSentence({ ...exact, residual: null }), /no decomposition/);
  assert.match(residualSentence({ ...exact, name: "cat rather than dog" }), /the difference of the logits, 7\.00/);
});

test("boxes", () => {
  assert.equal(boxWords([1, 2, 31, 22]), "1, 2 – 31, 22 (30 × 20 pixels)");
  assert.match(boxWords(null), /nothing speaks for/);
});

test("notes", () => {
  assert.deepEqual(["", "this is a demo", "Done!"].map(sentence), ["", "This is a demo.", "Done!"]);
});
