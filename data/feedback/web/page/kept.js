// Texts that somebody wrote: kept in the browser while they are drafts, and when an answer could not be taken.
"use strict";

const MOST_REFUSED = 20;

class Texts {
  constructor(prefix) {
    this.prefix = prefix;
    this.memory = new Map();
  }

  read(name) {
    if (this.memory.has(name)) return this.memory.get(name);
    try { return JSON.parse(localStorage.getItem(this.prefix + name)); } catch { return null; }
  }

  write(name, value) {
    try {
      if (value === null) localStorage.removeItem(this.prefix + name);
      else localStorage.setItem(this.prefix + name, JSON.stringify(value));
      this.memory.delete(name);
    } catch {
      // A full or private store: it lives as long as the page.
      if (value === null) this.memory.delete(name); else this.memory.set(name, value);
    }
  }

  draft(item, kind) { return this.read(`draft:${item}:${kind}`); }

  // Null: there is nothing to keep any more.
  keepDraft(item, kind, value) { this.write(`draft:${item}:${kind}`, value); }

  forget(item) { for (const kind of ["edit", "flag"]) this.keepDraft(item, kind, null); }

  get refused() { return this.read("refused") || []; }

  // The words of an answer that the server did not take, with the reason. True if there were any.
  refuse(body, item, why) {
    const words = [body.edit?.text, body.comment].filter(Boolean).join("\n\n");
    if (!words) return false;
    const prompt = item ? plainPrompt(item.prompt) : "";
    this.write("refused", [{ key: body.key, words, why, prompt: prompt.slice(0, 160) }, ...this.refused].slice(0, MOST_REFUSED));
    return true;
  }

  dropRefused(key) { this.write("refused", this.refused.filter((one) => one.key !== key)); }
}

function plainPrompt(prompt) {
  if (typeof prompt === "string") return prompt;
  return prompt.map((one) => typeof one.content === "string" ? one.content : "").join(" ").trim();
}
