// Answers on their way: kept in the browser until the server has them, sent in order, and never counted twice.
"use strict";

const WAITS = [1, 2, 4, 8, 15];
const SEND_SECONDS = 20;

class Refused extends Error {
  constructor(status, told) {
    super(told.what || `status ${status}`);
    this.status = status;
    this.told = told;
  }
}

async function ask(path, body, mark) {
  const options = { credentials: "same-origin", signal: AbortSignal.timeout(SEND_SECONDS * 1000) };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "content-type": "application/json", "x-heliograph": mark };
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const told = await response.json();
  if (!response.ok) throw new Refused(response.status, told);
  return told;
}

function randomKey() {
  // crypto.randomUUID is only there under HTTPS and on this machine.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// One entry: {key, path: "vote" | "undo", body, of}; an undo of a vote that has no number yet names its key in `of`.
class Outbox {
  constructor(prefix, { send, sent, refused, changed }) {
    this.prefix = prefix;
    this.send = send;
    this.sent = sent;
    this.refused = refused;
    this.changed = changed;
    this.state = "idle";
    this.failures = 0;
    this.memory = new Map();
    this.kept = true;
    this.count = 0;
    this.numbers = new Map();
    addEventListener("online", () => this.drain(true));
  }

  entries() {
    const names = new Set(this.memory.keys());
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const name = localStorage.key(i);
        if (name.startsWith(this.prefix)) names.add(name);
      }
    } catch { this.kept = false; }
    return [...names].sort().map((name) => {
      const text = this.memory.get(name) ?? localStorage.getItem(name);
      return text === null ? null : { name, ...JSON.parse(text) };
    }).filter((one) => one !== null);
  }

  write(name, entry) {
    const text = JSON.stringify(entry);
    try {
      localStorage.setItem(name, text);
      this.memory.delete(name);
    } catch {
      // Private windows and full disks: it lives as long as the page, and the page says so.
      this.memory.set(name, text);
      this.kept = false;
    }
  }

  remove(name) {
    this.memory.delete(name);
    try { localStorage.removeItem(name); } catch { this.kept = false; }
  }

  add(entry) {
    const order = `${String(Date.now()).padStart(15, "0")}-${String(this.count++).padStart(6, "0")}`;
    this.write(`${this.prefix}${order}-${entry.key}`, entry);
    this.changed();
    this.drain();
  }

  get waiting() { return this.entries().length; }

  async drain(now = false) {
    if (now) { clearTimeout(this.timer); this.timer = null; }
    if (this.busy || this.timer || this.state === "shut") return;
    this.busy = true;
    try {
      for (let first = this.entries()[0]; first; first = this.entries()[0]) {
        if (!await this.one(first)) break;
      }
    } finally {
      this.busy = false;
      this.changed();
    }
  }

  // True: it is settled. False: it stays, and is tried again later.
  async one(entry) {
    this.state = "sending";
    this.changed();
    const body = { ...entry.body };
    if (entry.path === "undo" && entry.of) {
      const number = this.numbers.get(entry.of);
      if (number === undefined) { this.remove(entry.name); return true; }
      body.vote_id = number;
    }
    try {
      const answer = await this.send(entry.path, body);
      if (entry.path === "vote") {
        this.numbers.set(entry.key, answer.receipt.vote_id);
        this.number(entry.key, answer.receipt.vote_id);
      }
      this.remove(entry.name);
      this.failures = 0;
      this.state = "idle";
      this.sent(entry, answer);
      return true;
    } catch (fault) {
      if (fault instanceof Refused && ![408, 429].includes(fault.status) && fault.status < 500) {
        if (fault.status === 401 || (fault.status === 403 && fault.told.error === "forged")) {
          this.state = "shut";
          return false;
        }
        this.remove(entry.name);
        this.state = "idle";
        this.refused(entry, fault);
        return true;
      }
      this.state = "offline";
      const wait = WAITS[Math.min(this.failures++, WAITS.length - 1)];
      this.timer = setTimeout(() => { this.timer = null; this.drain(); }, wait * 1000);
      return false;
    }
  }

  // The page may be closed between a vote and its undo: the number is then in the entry.
  number(key, vote_id) {
    for (const entry of this.entries()) {
      if (entry.path === "undo" && entry.of === key) {
        const { name, of, ...rest } = entry;
        this.write(name, { ...rest, body: { ...entry.body, vote_id } });
      }
    }
  }
}
