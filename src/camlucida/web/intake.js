/** The ways in: drop, paste, pick, photograph. Each calls back with a blob and its name. */

/** @typedef {(blob: Blob, name: string) => void} FileCallback */

/**
 * @param {object} elements
 * @param {HTMLInputElement[]} elements.inputs of files.
 * @param {(message: string) => void} elements.onNoFile called with a message when nothing in what came is a file.
 * @param {FileCallback} onFile
 */
export function listen({ inputs, onNoFile }, onFile) {
  for (const input of inputs) {
    input.addEventListener("change", () => {
      const [file] = input.files ?? [];
      if (file) onFile(file, file.name);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.target instanceof HTMLInputElement) return;
    const [file] = event.clipboardData?.files ?? [];
    if (file) onFile(file, file.name || "pasted picture");
    else onNoFile("The clipboard holds no picture; copy one first.");
  });
  let depth = 0; // drags enter and leave every element on their way
  /** @param {number} now */
  const inside = (now) => document.body.classList.toggle("dragging", (depth = Math.max(0, now)) > 0);
  document.addEventListener("dragenter", () => inside(depth + 1));
  document.addEventListener("dragleave", () => inside(depth - 1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside(0);
    const [file] = event.dataTransfer?.files ?? [];
    if (file) onFile(file, file.name);
    else onNoFile("What was dropped is no file; save the picture first, then drop its file.");
  });
}
