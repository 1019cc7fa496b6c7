// One answer in the making: what is picked, and the vote that follows from it.
"use strict";

const MODES = { best: "the better one", choose: "all that fit", rank: "in order" };

class Answer {
  constructor(item, mode, strengths) {
    this.item = item;
    this.mode = mode;
    this.strengths = strengths;
    this.width = item.candidates.length;
    this.edit = null;
    this.clear();
  }

  clear() {
    this.chosen = new Set();
    this.none = false;
    this.best = null;
    this.strength = 1;
    this.ranks = Array(this.width).fill(null);
  }

  // A press on the candidate at a place of the page. Returns what to tell somebody who cannot see it.
  press(place) {
    const name = `candidate ${place + 1}`;
    this.none = false;
    if (this.mode === "choose") {
      const had = this.chosen.delete(place);
      if (!had) this.chosen.add(place);
      return `${name} ${had ? "not picked" : "picked"}`;
    }
    if (this.mode === "best") {
      // The same one again means it more.
      this.strength = this.best === place ? this.strength % this.strengths + 1 : 1;
      this.best = place;
      return `${name} is better${this.strengths > 1 ? `, strength ${this.strength} of ${this.strengths}` : ""}`;
    }
    if (this.ranks[place] !== null) {
      const gone = this.ranks[place];
      this.ranks[place] = null;
      if (!this.ranks.includes(gone)) this.ranks = this.ranks.map((rank) => rank !== null && rank > gone ? rank - 1 : rank);
      return `${name} not ranked`;
    }
    this.ranks[place] = Math.max(0, ...this.ranks.filter((rank) => rank !== null)) + 1;
    return `${name} has rank ${this.ranks[place]}`;
  }

  // The candidate shares the rank of the last one that was ranked.
  pressEqual(place) {
    const last = Math.max(0, ...this.ranks.filter((rank) => rank !== null));
    if (this.mode !== "rank" || last === 0 || this.ranks[place] !== null) return this.press(place);
    this.ranks[place] = last;
    return `candidate ${place + 1} shares rank ${last}`;
  }

  // None of them fits; or, where one is to be picked, none is better.
  pressNone(tie) {
    const had = this.none;
    this.clear();
    this.none = !had;
    if (!this.none) return "taken back";
    return this.mode === "choose" ? "none fits" : tie ? "no difference" : "";
  }

  stronger(step) {
    if (this.best === null) return "";
    this.strength = Math.min(this.strengths, Math.max(1, this.strength + step));
    return `strength ${this.strength} of ${this.strengths}`;
  }

  picked(place) {
    if (this.mode === "choose") return this.chosen.has(place);
    return this.mode === "best" ? this.best === place : this.ranks[place] !== null;
  }

  // What the server takes, or null: there is nothing to send yet.
  vote() {
    const index = (place) => this.item.candidates[place].index;
    const edit = this.edit === null ? {} : { edit: this.edit };
    if (this.mode === "choose" && (this.chosen.size || this.none)) {
      return { kind: "choose", choice: [...this.chosen].map(index).sort((a, b) => a - b), ...edit };
    }
    if (this.mode !== "choose" && this.none) return { kind: "tie", ...edit };
    if (this.mode === "best" && this.best !== null) {
      return { kind: "best", choice: index(this.best), strength: this.strength, ...edit };
    }
    if (this.mode === "rank" && this.ranks.filter((rank) => rank !== null).length > 1) {
      const choice = Array(this.width).fill(null);
      this.ranks.forEach((rank, place) => { choice[index(place)] = rank; });
      return { kind: "rank", choice, ...edit };
    }
    return this.edit === null ? null : { kind: "edit", ...edit };
  }
}

// What was picked, as far as one thing was.
function pickedText(vote, item) {
  const of = { best: vote.choice, choose: vote.choice?.length === 1 ? vote.choice[0] : null, rank: vote.kind === "rank" ? vote.choice.indexOf(1) : null }[vote.kind];
  return item?.candidates.find((one) => one.index === of)?.text ?? "";
}

// An answer in a few words, for the list of the last ones.
function inWords(vote, item) {
  const place = (index) => item ? item.candidates.findIndex((one) => one.index === index) + 1 : "?";
  const said = {
    choose: () => vote.choice.length ? `picked ${vote.choice.map(place).sort().join(", ")}` : "none fits",
    best: () => `${place(vote.choice)} is better${vote.strength > 1 ? ` (${vote.strength})` : ""}`,
    rank: () => `order ${item ? item.candidates.map((one) => vote.choice[one.index] ?? "–").join(" ") : ""}`,
    tie: () => "no difference",
    skip: () => "skipped",
    flag: () => `flagged: ${vote.comment}`,
    edit: () => "wrote a better one",
  }[vote.kind]();
  return vote.edit && vote.kind !== "edit" ? `${said}, wrote a better one` : said;
}
