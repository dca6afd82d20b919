/** The list of classes: radio buttons, likeliest first; pointing at one previews it, the arrow keys choose. */

import { ranked } from "./answer.js";
import { percent } from "./words.js";

/** @typedef {import("./answer.js").Answer} Answer */

const LISTED = 8;

export class ClassList {
  /**
   * @param {object} parts
   * @param {HTMLElement} parts.list
   * @param {HTMLInputElement} parts.find
   * @param {HTMLElement} parts.none shown where nothing is found.
   * @param {HTMLSelectElement} parts.rival
   * @param {object} calls
   * @param {(place: number) => void} calls.preview pointed at.
   * @param {() => void} calls.leave no longer.
   * @param {(place: number) => void} calls.choose
   */
  constructor(parts, { preview, leave, choose }) {
    this.list = parts.list;
    this.find = parts.find;
    this.none = parts.none;
    this.rival = parts.rival;
    /** @type {Answer | null} */ this.answer = null;
    /** @type {number[]} */ this.order = [];
    this.chosen = 0;
    this.find.addEventListener("input", () => this.render());
    this.list.addEventListener("pointerover", (event) => {
      const row = event.target instanceof Element && event.target.closest("label");
      if (row && event.pointerType !== "touch") preview(Number(row.dataset.place));
    });
    this.list.addEventListener("pointerleave", leave);
    this.list.addEventListener("change", (event) => {
      this.chosen = Number(/** @type {HTMLInputElement} */ (event.target).value);
      choose(this.chosen);
    });
  }

  /** Show another answer, its likeliest class chosen. @param {Answer} answer @returns {number} the class's place. */
  show(answer) {
    this.answer = answer;
    this.order = ranked(answer);
    this.chosen = this.order[0];
    this.find.value = "";
    this.find.hidden = answer.classes.length <= LISTED;
    const options = this.order.map((place) => new Option(answer.classes[place].name, String(place)));
    this.rival.replaceChildren(new Option("no other class", ""), ...options);
    this.render();
    return this.chosen;
  }

  /** Places of the classes in the list, likeliest first; of all classes, or of those with the searched text. */
  listed() {
    const wanted = this.find.value.trim().toLowerCase();
    const { classes } = /** @type {Answer} */ (this.answer);
    return this.order.filter((place) => classes[place].name.toLowerCase().includes(wanted)).slice(0, LISTED);
  }

  render() {
    const places = this.listed();
    this.none.hidden = places.length > 0;
    this.list.replaceChildren(...places.map((place) => this.row(place)));
  }

  /** @param {number} place */
  row(place) {
    const { name, probability, logit } = /** @type {Answer} */ (this.answer).classes[place];
    const row = document.createElement("label");
    row.className = "class";
    row.dataset.place = String(place);
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "class", value: String(place), checked: place === this.chosen });
    const parts = ["part", "name", "score"].map((kind) => {
      const part = document.createElement("span");
      part.className = kind;
      return part;
    });
    parts[0].style.width = `${100 * (probability ?? 0)}%`;
    parts[0].hidden = probability === null;
    parts[1].textContent = parts[1].title = name;
    parts[2].textContent = percent(probability, logit);
    row.append(input, ...parts);
    return row;
  }
}
