// Answers questions about the page's arithmetic: a JSON object a line in, one a line out. Arrays travel in base64.
import { createInterface } from "node:readline";

import { probabilities } from "../../src/camlucida/web/answer.js";
import { largestBox } from "../../src/camlucida/web/boxes.js";
import { coolwarm, inferno } from "../../src/camlucida/web/colormaps.js";
import { fromBase64, fromFloat16 } from "../../src/camlucida/web/float16.js";
import { look, normalized } from "../../src/camlucida/web/preprocess.js";
import { extremes, project, projection } from "../../src/camlucida/web/projection.js";

const base64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const floats = (text) => new Float32Array(new Uint8Array(Buffer.from(text, "base64")).buffer);

const answers = {
  look({ pixels, image_hw, preprocess }) {
    const { seen, view } = look(new Uint8ClampedArray(Buffer.from(pixels, "base64")), image_hw, preprocess);
    return { seen: base64(seen), values: base64(normalized(seen, preprocess)), view };
  },
  project({ map, grid, view, size_hw }) {
    const laid = projection(view, grid, size_hw);
    const into = new Float32Array(laid.rows.length * laid.columns.length);
    project(floats(map), laid, into);
    return { values: base64(into), ...extremes(floats(map), laid) };
  },
  boxes({ map, grid, view, thresholds }) {
    const laid = projection(view, grid);
    const { high } = extremes(floats(map), laid);
    return thresholds.map((threshold) => largestBox(floats(map), laid, threshold, high));
  },
  probabilities: ({ logits, activation }) => probabilities(logits, activation),
  half: ({ data }) => base64(fromFloat16(fromBase64(data))),
  colormaps: () => [base64(inferno), base64(coolwarm)],
};

for await (const line of createInterface({ input: process.stdin })) {
  const { ask, ...question } = JSON.parse(line);
  console.log(JSON.stringify(answers[ask](question)));
}
