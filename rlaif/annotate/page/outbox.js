// What was answered and is not yet known to be saved. It lies in the browser's own storage until the server says that it
// is on disk, so neither a dead server nor a dead browser loses an answer. Sending twice does no harm: ids are made here.

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 5000;

// Into the browser's storage. Where that is full or forbidden, this tab still holds it as long as it is open.
export function keep(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch {
    // The outbox says that it is not saved; a draft is only a draft.
  }
}

export class Outbox {
  // `send(event)` resolves with the server's reply and rejects where it was not kept; `heard(reply, event)` and
  // `changed()` tell the page.
  constructor(key, send, heard, changed) {
    this.prefix = `${key}:out:`;
    this.send = send;
    this.heard = heard;
    this.changed = changed;
    this.failing = false;
    this.running = false;
    this.refused = null;
    this.events = new Map();
    const left = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix)).sort();
    for (const name of left) this.events.set(name, JSON.parse(localStorage.getItem(name)));
    this.count = 0;
    window.addEventListener("online", () => this.flush());
  }

  pending() {
    return [...this.events.values()];
  }

  add(event) {
    this.count += 1;
    const when = `${String(Date.now()).padStart(15, "0")}-${String(this.count).padStart(6, "0")}`;
    const name = `${this.prefix}${when}-${event.id}`;
    this.events.set(name, event);
    keep(name, JSON.stringify(event));
    this.changed();
    this.flush();
  }

  // What the server will never take must not hold up the rest. It stays in the browser's storage, for somebody to look at.
  setAside(name, error) {
    keep(name.replace(":out:", ":refused:"), JSON.stringify(this.events.get(name)));
    this.events.delete(name);
    localStorage.removeItem(name);
    this.refused = error.message;
  }

  async flush() {
    if (this.running) return;
    this.running = true;
    clearTimeout(this.timer);
    let wait = FIRST_RETRY_MS;
    while (this.events.size) {
      const [name, event] = this.events.entries().next().value;
      try {
        const reply = await this.send(event);
        this.events.delete(name);
        localStorage.removeItem(name);
        this.failing = false;
        wait = FIRST_RETRY_MS;
        this.heard(reply, event);
      } catch (error) {
        if (error.status === 422) {
          this.setAside(name, error);
          continue;
        }
        this.failing = true;
        this.changed();
        await new Promise((go) => { this.timer = setTimeout(go, wait); });
        wait = Math.min(wait * 2, LAST_RETRY_MS);
      }
    }
    this.running = false;
    this.changed();
  }
}
