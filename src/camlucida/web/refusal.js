/** A message for the reader: what was wrong, and what to do. Other errors are mistakes of the page. */
export class Refusal extends Error {}
