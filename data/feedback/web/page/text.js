// Texts as people can read them: code and maths set apart, differences marked, and never run as HTML.
"use strict";

const PIECES = new RegExp([
  "(?<fence>^```[^\\n]*\\n[\\s\\S]*?^```[ \\t]*$)",
  "(?<display>\\$\\$[\\s\\S]+?\\$\\$|\\\\\\[[\\s\\S]+?\\\\\\])",
  "(?<code>`[^`\\n]+`)",
  // A price is no formula: "$5 and $6" has a blank before the second sign.
  "(?<inline>\\$(?![\\s\\d.,]+\\$?\\s)(?!\\s)[^$\\n]{1,300}?(?<!\\s)\\$(?!\\d)|\\\\\\([\\s\\S]{1,300}?\\\\\\))",
].join("|"), "gm");

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Puts text[from, to) into the parent, with what lies in `marks` (sorted ranges) in <mark>.
function put(parent, text, from, to, marks) {
  let at = from;
  for (const [start, end] of marks) {
    if (end <= at) continue;
    if (start >= to) break;
    if (start > at) parent.append(text.slice(at, start));
    const stop = Math.min(end, to);
    parent.append(element("mark", { text: text.slice(Math.max(start, at), stop) }));
    at = stop;
  }
  if (at < to) parent.append(text.slice(at, to));
}

function putMaths(parent, source, text, from, to, marks, display) {
  const made = toMathML(source, display);
  const touched = marks.some(([start, end]) => start < to && end > from);
  if (made === null) {
    const code = element("code", { class: display ? "tex display" : "tex", dir: "ltr" });
    put(code, text, from, to, marks);
    parent.append(code);
    return;
  }
  parent.append(touched ? element("mark", {}, made) : made);
}

function render(parent, text, marks = []) {
  parent.replaceChildren();
  parent.setAttribute("dir", "auto");
  let at = 0;
  for (const found of text.matchAll(PIECES)) {
    const from = found.index, to = from + found[0].length;
    put(parent, text, at, from, marks);
    const groups = found.groups;
    if (groups.fence !== undefined) {
      const head = text.indexOf("\n", from) + 1;
      const language = text.slice(from + 3, head - 1).trim();
      const body = Math.max(head, text.lastIndexOf("\n```", to));
      const code = element("code");
      put(code, text, head, body, marks);
      parent.append(element("pre", { dir: "ltr", tabindex: "0", "aria-label": language ? `code, ${language}` : "code" }, code));
      // The block ends its line already.
      at = text[to] === "\n" ? to + 1 : to;
      continue;
    }
    if (groups.code !== undefined) {
      const code = element("code", { dir: "ltr" });
      put(code, text, from + 1, to - 1, marks);
      parent.append(code);
    } else {
      const wide = groups.display !== undefined;
      const edge = text[from] === "$" && !wide ? 1 : 2;
      putMaths(parent, text.slice(from + edge, to - edge), text, from, to, marks, wide);
    }
    at = to;
  }
  put(parent, text, at, text.length, marks);
}

function words(text) {
  const found = [];
  if (typeof Intl.Segmenter === "function") {
    for (const { segment, index } of new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)) {
      if (segment.trim()) found.push([segment, index, index + segment.length]);
    }
    return found;
  }
  for (const one of text.matchAll(/[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu)) {
    found.push([one[0], one.index, one.index + one[0].length]);
  }
  return found;
}

// A table of so many cells is worked out in a few dozen milliseconds.
const MOST_CELLS = 12e6;

// For two texts the ranges of each that the other does not have: all but their longest common row of words.
function differences(one, other) {
  const a = words(one), b = words(other);
  let head = 0;
  while (head < a.length && head < b.length && a[head][0] === b[head][0]) head++;
  let tail = 0;
  while (tail < Math.min(a.length, b.length) - head
    && a[a.length - 1 - tail][0] === b[b.length - 1 - tail][0]) tail++;
  const x = a.slice(head, a.length - tail), y = b.slice(head, b.length - tail);
  const [keptX, keptY] = x.length * y.length > MOST_CELLS ? commonBag(x, y) : commonRow(x, y);
  return [ranges(one, x, keptX), ranges(other, y, keptY)];
}

function commonRow(x, y) {
  const width = y.length + 1;
  const longest = new Uint16Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i--) {
    for (let j = y.length - 1; j >= 0; j--) {
      longest[i * width + j] = x[i][0] === y[j][0]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const keptX = new Set(), keptY = new Set();
  for (let i = 0, j = 0; i < x.length && j < y.length;) {
    if (x[i][0] === y[j][0]) { keptX.add(i++); keptY.add(j++); }
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return [keptX, keptY];
}

// For very long texts: a word counts as common as often as both have it, wherever it stands.
function commonBag(x, y) {
  const left = new Map();
  x.forEach(([word], i) => { if (!left.has(word)) left.set(word, []); left.get(word).push(i); });
  const keptX = new Set(), keptY = new Set();
  y.forEach(([word], j) => {
    const places = left.get(word);
    if (places && places.length) { keptX.add(places.shift()); keptY.add(j); }
  });
  return [keptX, keptY];
}

function ranges(text, tokens, kept) {
  const found = [];
  tokens.forEach(([, start, end], i) => {
    if (kept.has(i)) return;
    const last = found[found.length - 1];
    if (last && !text.slice(last[1], start).trim() && !kept.has(i - 1)) last[1] = end;
    else found.push([start, end]);
  });
  return found;
}
