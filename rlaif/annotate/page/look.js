// One pair on the screen: for how long it was seen, and what was typed so far, which survives a reload and an undo.

import { keep } from "./outbox.js";

const EMPTY = { reason: "", principles: {}, edited: {}, seconds: 0 };

export class Look {
  constructor(item, name) {
    this.item = item;
    this.name = name;
    this.edit = null; // or "which", "first", "second"
    this.since = null;
    this.draft = structuredClone(EMPTY);
    try {
      Object.assign(this.draft, JSON.parse(localStorage.getItem(name) ?? "{}"));
    } catch {
      // What cannot be read is no draft.
    }
    this.count();
  }

  // Only time during which the page can be seen counts.
  count() {
    const now = performance.now();
    if (this.since !== null) this.draft.seconds += (now - this.since) / 1000;
    this.since = document.visibilityState === "visible" ? now : null;
  }

  keepDraft() {
    this.count();
    keep(this.name, JSON.stringify(this.draft));
  }

  // Which response ("a" or "b") stands there; "tie" and "skip" stay what they are.
  sideOf(place) {
    const first = this.item.shown_first;
    return { first, second: first === "a" ? "b" : "a" }[place] ?? place;
  }

  textAt(place) {
    return this.item[this.sideOf(place)];
  }

  // The answer as the server takes it.
  answer(choice, edited, clean) {
    const decided = Object.entries(this.draft.principles).filter(([id]) => id in this.item.principles);
    return {
      id: crypto.randomUUID(),
      pair_id: this.item.pair_id,
      choice: this.sideOf(choice),
      shown_first: this.item.shown_first,
      seconds: Math.round(this.draft.seconds * 1000) / 1000,
      reason: clean(this.draft.reason.trim()),
      principles: Object.fromEntries(decided.map(([id, place]) => [id, this.sideOf(place)])),
      edited: edited === null ? null : clean(edited),
    };
  }
}
