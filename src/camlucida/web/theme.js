/** Dark or light: as the system has it, until the button says otherwise; remembered in this browser. */

const KEY = "camlucida-theme";

/** @param {HTMLElement} button */
export function theme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const update = () => button.setAttribute("aria-pressed", String(isDark()));
  try {
    const kept = localStorage.getItem(KEY);
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // storage may be forbidden: then it is not remembered
  }
  update();
  system.addEventListener("change", update);
  button.addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    update();
    try {
      localStorage.setItem(KEY, chosen);
    } catch {
      // as above
    }
  });
}
