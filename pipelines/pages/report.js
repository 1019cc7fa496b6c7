"use strict";

// The page is whole without this. Here: values under the pointer, zoom, lines to hide, light and dark, where one is.

const root = document.documentElement;
root.classList.add("script");
const SVG = "http://www.w3.org/2000/svg";

const numbers = (text) => text.split(" ").map(Number);

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-4 || size >= 1e7 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.append(...children);
  return made;
}

function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}

function ticks(low, high) {
  const rough = (high - low) / 5;
  const scale = 10 ** Math.floor(Math.log10(rough));
  const step = scale * [1, 2, 5, 10].find((i) => i * scale >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) {
    found.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  }
  return found;
}

class Chart {
  constructor(svg) {
    this.svg = svg;
    this.figure = svg.closest("figure");
    [this.left, this.top, this.right, this.bottom] = numbers(svg.dataset.box);
    this.x = this.wholeX = numbers(svg.dataset.x);
    this.y = this.wholeY = numbers(svg.dataset.y);
    this.curves = [...svg.querySelectorAll(".curve")].map((group) => ({
      group,
      label: group.dataset.label,
      style: [...group.classList].find((name) => /^s\d$/.test(name)),
      points: group.dataset.points.split(" ").map((pair) => pair.split(",").map(Number)),
    }));
    this.flags = [...svg.querySelectorAll(".flag")].map((group) => ({
      group, step: Number(group.dataset.step), text: group.querySelector("title").textContent,
    }));
    this.level = svg.querySelector(".level");
    if (this.level) this.levelAt = this.valueAt(Number(this.level.querySelector("line").getAttribute("y1")));
    this.cross = drawn("line", { class: "cross", y1: this.top, y2: this.bottom, visibility: "hidden" });
    svg.append(this.cross);
    this.place = null;
    svg.tabIndex = 0;
    svg.addEventListener("pointermove", (event) => this.moved(event));
    svg.addEventListener("pointerdown", (event) => this.pressed(event));
    svg.addEventListener("pointerup", (event) => this.released(event));
    svg.addEventListener("pointerleave", () => this.left_());
    svg.addEventListener("dblclick", () => this.zoom(this.wholeX));
    svg.addEventListener("keydown", (event) => this.key(event));
    svg.addEventListener("blur", () => this.hide());
    this.buttons();
  }

  px(x) { return this.left + ((x - this.x[0]) / (this.x[1] - this.x[0])) * (this.right - this.left); }
  py(y) { return this.bottom - ((y - this.y[0]) / (this.y[1] - this.y[0])) * (this.bottom - this.top); }
  valueAt(py) { return this.y[0] + ((this.bottom - py) / (this.bottom - this.top)) * (this.y[1] - this.y[0]); }

  /** Where the pointer is, in steps. */
  at(event) {
    const box = this.svg.getBoundingClientRect();
    const inside = ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
    const share = Math.min(1, Math.max(0, (inside - this.left) / (this.right - this.left)));
    return this.x[0] + share * (this.x[1] - this.x[0]);
  }

  shown() { return this.curves.filter((curve) => !curve.group.classList.contains("off")); }

  steps() {
    const all = this.shown().flatMap((curve) => curve.points.map((point) => point[0]));
    return [...new Set(all)].filter((x) => x >= this.x[0] && x <= this.x[1]).sort((a, b) => a - b);
  }

  moved(event) {
    if (this.from !== undefined) return this.brush(this.at(event));
    this.read(this.at(event));
  }

  read(wanted) {
    const steps = this.steps();
    if (!steps.length) return this.hide();
    this.place = steps.reduce((best, x) => (Math.abs(x - wanted) < Math.abs(best - wanted) ? x : best));
    const px = this.px(this.place);
    this.cross.setAttribute("x1", px);
    this.cross.setAttribute("x2", px);
    this.cross.setAttribute("visibility", "visible");
    const lines = this.shown().flatMap((curve) => {
      const point = curve.points.find((one) => one[0] === this.place);
      if (!point) return [];
      const name = element("span", {}, element("i", { class: curve.style }), curve.label);
      return [element("div", {}, name, element("b", {}, short(point[1])))];
    });
    const reach = (this.x[1] - this.x[0]) / 40;
    const flags = this.flags.filter((flag) => Math.abs(flag.step - this.place) <= reach)
      .map((flag) => element("p", {}, flag.text));
    if (!this.tip) {
      this.tip = element("div", { class: "tip", "aria-live": "polite" });
      this.figure.append(this.tip);
    }
    this.tip.replaceChildren(element("div", {}, `${this.svg.dataset.unit} ${short(this.place)}`), ...lines, ...flags);
    const box = this.svg.getBoundingClientRect();
    const outer = this.figure.getBoundingClientRect();
    const scale = box.width / this.svg.viewBox.baseVal.width;
    const middle = box.left - outer.left + px * scale;
    const wide = this.tip.offsetWidth;
    const beside = middle + 14 + wide > outer.width ? middle - 14 - wide : middle + 14;
    this.tip.style.left = `${Math.max(0, beside)}px`;
    this.tip.style.top = `${box.top - outer.top + this.top * scale + 4}px`;
  }

  hide() {
    this.cross.setAttribute("visibility", "hidden");
    this.tip?.remove();
    this.tip = undefined;
  }

  left_() {
    this.hide();
    this.stopBrush();
  }

  pressed(event) {
    if (event.pointerType !== "mouse") return this.read(this.at(event));
    if (event.button === 0) this.from = this.at(event);
  }

  brush(to) {
    if (Math.abs(this.px(to) - this.px(this.from)) < 8) return;
    this.hide();
    if (!this.area) {
      this.area = drawn("rect", { class: "brush", y: this.top, height: this.bottom - this.top });
      this.svg.append(this.area);
    }
    const [a, b] = [this.px(this.from), this.px(to)].sort((one, other) => one - other);
    this.area.setAttribute("x", a);
    this.area.setAttribute("width", b - a);
  }

  stopBrush() {
    this.area?.remove();
    this.area = this.from = undefined;
  }

  released(event) {
    if (this.from === undefined) return;
    const [a, b] = [this.from, this.at(event)].sort((one, other) => one - other);
    const dragged = Boolean(this.area);
    this.stopBrush();
    if (dragged && b > a) this.zoom([a, b]);
  }

  key(event) {
    const steps = this.steps();
    const here = steps.indexOf(this.place);
    const moves = { ArrowRight: here + 1, ArrowLeft: here < 0 ? steps.length - 1 : here - 1, Home: 0, End: steps.length - 1 };
    if (event.key in moves) {
      event.preventDefault();
      this.read(steps[Math.min(steps.length - 1, Math.max(0, moves[event.key]))]);
    } else if (event.key === "Escape") {
      this.hide();
      this.zoom(this.wholeX);
    }
  }

  zoom(range) {
    const whole = range === this.wholeX;
    this.x = range;
    this.y = this.wholeY;
    if (!whole) {
      const inside = this.shown().flatMap((curve) => curve.points).filter((p) => p[0] >= range[0] && p[0] <= range[1])
        .map((p) => p[1]);
      if (inside.length) {
        const low = Math.min(...inside);
        const high = Math.max(...inside);
        const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.5;
        this.y = [low - room, high + room];
      }
    }
    if (!whole && !this.button) {
      this.button = element("button", { type: "button", class: "reset" }, "show all");
      this.button.addEventListener("click", () => this.zoom(this.wholeX));
      this.figure.append(this.button);
    } else if (whole) {
      this.button?.remove();
      this.button = undefined;
    }
    this.draw();
  }

  draw() {
    const clip = `clip${[...document.querySelectorAll("svg")].indexOf(this.svg)}`;
    if (!this.svg.querySelector("clipPath")) {
      const path = drawn("clipPath", { id: clip });
      path.append(drawn("rect", { x: this.left, y: this.top - 6, width: this.right - this.left, height: this.bottom - this.top + 12 }));
      this.svg.prepend(path);
      [...this.svg.querySelectorAll(".curve, .flag")].forEach((group) => group.setAttribute("clip-path", `url(#${clip})`));
    }
    for (const { group, points } of this.curves) {
      const places = points.map(([x, y]) => `${this.px(x).toFixed(1)} ${this.py(y).toFixed(1)}`);
      group.querySelector("path").setAttribute("d", `M${places.join("L")}`);
      const [cx, cy] = places[places.length - 1].split(" ");
      group.querySelector("circle").setAttribute("cx", cx);
      group.querySelector("circle").setAttribute("cy", cy);
    }
    for (const { group, step } of this.flags) {
      const at = this.px(step).toFixed(1);
      group.querySelector("line").setAttribute("x1", at);
      group.querySelector("line").setAttribute("x2", at);
      group.querySelector("path").setAttribute("d", `M${at} ${this.top}l9 5l-9 5z`);
    }
    if (this.level) {
      const inside = this.levelAt >= this.y[0] && this.levelAt <= this.y[1];
      this.level.setAttribute("visibility", inside ? "visible" : "hidden");
      const at = this.py(this.levelAt);
      this.level.querySelector("line").setAttribute("y1", at);
      this.level.querySelector("line").setAttribute("y2", at);
      this.level.querySelector("text").setAttribute("y", at > this.top + 18 ? at - 5 : at + 14);
    }
    this.grid();
  }

  grid() {
    const grid = this.svg.querySelector(".grid");
    const name = grid.querySelector(".axis");
    grid.replaceChildren();
    for (const value of ticks(...this.y)) {
      const y = this.py(value).toFixed(1);
      grid.append(drawn("line", { x1: this.left, x2: this.right, y1: y, y2: y }));
      const text = drawn("text", { class: "y", x: this.left - 7, y: Number(y) + 4 });
      text.textContent = short(value);
      grid.append(text);
    }
    for (const value of ticks(...this.x)) {
      const text = drawn("text", { x: this.px(value).toFixed(1), y: this.bottom + 17 });
      text.textContent = short(value);
      grid.append(text);
    }
    grid.append(name);
  }

  buttons() {
    const items = [...this.figure.querySelectorAll(".legend li")];
    if (items.length !== this.curves.length) return;
    items.forEach((item, i) => {
      const button = element("button", { type: "button", "aria-pressed": "true" });
      button.append(...item.childNodes);
      item.append(button);
      button.addEventListener("click", () => {
        const off = this.curves[i].group.classList.toggle("off");
        button.setAttribute("aria-pressed", String(!off));
        this.hide();
        if (this.x !== this.wholeX) this.zoom(this.x);
      });
    });
  }
}

document.querySelectorAll("svg[data-x]").forEach((svg) => new Chart(svg));

const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// The part that is being read, in the list at the side.
const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
const seen = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target.id);
  const first = [...links.keys()].find((id) => seen.has(id));
  links.forEach((a, id) => (id === first ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current")));
}, { rootMargin: "-12% 0px -60% 0px" });
document.querySelectorAll("main > section").forEach((part) => watcher.observe(part));

// What is folded is printed too.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
