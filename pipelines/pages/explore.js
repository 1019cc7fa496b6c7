"use strict";

// The numbers: the same expansion of a loss that training folds over tensors, folded over values with slopes.

const PAGE = JSON.parse(document.getElementById("data").textContent);
const LN2 = Math.log(2);

const log1mexp = (x) => (x > -LN2 ? Math.log(-Math.expm1(x)) : Math.log1p(-Math.exp(x)));

/** Value and slopes by the log-probability of each atom; x holds the log-probabilities in the order of PAGE.atoms. */
function fold(node, x) {
  const [kind, ...rest] = node;
  const slope = [0, 0, 0, 0];
  if (kind === "p") {
    slope[rest[0]] = 1;
    return { value: x[rest[0]], slope };
  }
  if (kind === "q") {
    const at = Math.min(x[rest[0]], -PAGE.floor);
    slope[rest[0]] = Math.exp(at) / Math.expm1(at);
    return { value: log1mexp(at), slope };
  }
  const parts = rest.map((part) => fold(part, x));
  if (kind === "sum") {
    let value = 0;
    for (const part of parts) {
      value += part.value;
      part.slope.forEach((s, i) => { slope[i] += s; });
    }
    return { value, slope };
  }
  const [left, right] = parts;
  const value = Math.max(left.value, right.value) + Math.log1p(Math.exp(-Math.abs(left.value - right.value)));
  for (const part of parts) {
    const share = Math.exp(part.value - value);
    part.slope.forEach((s, i) => { slope[i] += share * s; });
  }
  return { value, slope };
}

function linkValue(link, rho, beta) {
  switch (link) {
    case "logistic": return Math.max(-beta * rho, 0) + Math.log1p(Math.exp(-Math.abs(beta * rho)));
    case "squared": return (rho - 1 / (2 * beta)) ** 2;
    case "hinge": return Math.max(0, beta - rho);
    case "margin": return Math.max(0, -rho);
  }
  throw new Error(`no link is called ${link}`);
}

function linkSlope(link, rho, beta) {
  switch (link) {
    case "logistic": {
      const z = beta * rho;
      return -beta * (z > 0 ? Math.exp(-z) / (1 + Math.exp(-z)) : 1 / (1 + Math.exp(z)));
    }
    case "squared": return 2 * (rho - 1 / (2 * beta));
    case "hinge": return rho < beta ? -1 : 0;
    case "margin": return rho < 0 ? -1 : 0;
  }
  throw new Error(`no link is called ${link}`);
}

function measure(loss, x, link, beta) {
  const top = fold(loss.top, x);
  const bottom = fold(loss.bottom, x);
  const rho = top.value - bottom.value;
  const outer = linkSlope(link, rho, beta);
  const grad = top.slope.map((s, i) => outer * (s - bottom.slope[i]) + 0);
  return { rho, loss: linkValue(link, rho, beta), grad };
}

// What is shown.

const state = {
  form: "plain", chosen: "CPO", other: "", link: "logistic", beta: 1,
  place: [...PAGE.example, ...PAGE.example],
};
const RANGE = [-5, -0.02];
const CELLS = 96;
const byId = (id) => document.getElementById(id);
const lossOf = (name) => PAGE.forms[state.form].losses[name];
const nodes = () => [...document.querySelectorAll(`#lattice .node.${state.form}`)];
const text = (x) => (Math.abs(x) < 5e-7 ? "0" : x.toPrecision(6)).replace("-", "−");

const short = (x) => String(Number(x.toPrecision(3))).replace("-", "−");

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.append(...children);
  return made;
}

/** From the address: the loss's own name, in either form. */
function fromAddress() {
  const wanted = decodeURIComponent(location.hash.slice(1)).replace(/^loss-/, "");
  const panel = byId(`loss-${wanted}`);
  if (!panel) return;
  state.form = panel.classList.contains("ref") ? "ref" : "plain";
  state.chosen = panel.dataset.loss;
}

function choose(name) {
  state.chosen = name;
  remember();
  show();
}

function remember() {
  // No element has this id, so that the page does not jump.
  const address = `#${lossOf(state.chosen).name}`;
  if (location.hash !== address) history.pushState(null, "", address);
}

function show() {
  document.body.dataset.form = state.form;
  byId("reference").checked = state.form === "ref";
  const loss = lossOf(state.chosen);
  document.querySelectorAll(".panel").forEach((p) => p.classList.toggle("selected", p.id === `loss-${loss.name}`));
  document.querySelectorAll("#lattice .node").forEach((node) => {
    if (node.dataset.loss === state.chosen) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  });
  document.querySelectorAll("#lattice .edge").forEach((edge) => {
    edge.classList.toggle("near", [edge.dataset.a, edge.dataset.b].includes(state.chosen));
  });
  const shown = byId("said");
  if (shown.textContent !== `${loss.name} is shown`) shown.textContent = `${loss.name} is shown`;
  byId("defaults").firstElementChild.textContent = loss.name;
  showOthers();
  showRelation();
  showCurves();
  showMaps();
}

function showOthers() {
  const select = byId("other");
  const options = Object.entries(PAGE.forms[state.form].losses).map(([name, loss]) => new Option(loss.name, name));
  select.replaceChildren(new Option("nothing", ""), ...options);
  select.value = state.other;
}

const MARKS = { check: "for", cross: "against", both: "on both sides", neither: "not at all" };
const SHORT = { "Winner": "w", "Loser": "l", "Ref.Winner": "rw", "Ref.Loser": "rl" };

function showRelation() {
  const target = byId("relation");
  if (!state.other) return target.replaceChildren();
  const [kind, ...rows] = PAGE.forms[state.form].relations[state.chosen][state.other];
  const [a, b] = [lossOf(state.chosen).name, lossOf(state.other).name];
  const sentence = element("p", { "data-relation": kind });
  sentence.textContent = PAGE.relations[kind].replace("{a}", a).replace("{b}", b);
  const witnesses = rows.map((w) => {
    const row = Object.entries(w.row).map(([name, value]) => `${SHORT[name]} ${value ? "true" : "false"}`).join(", ");
    const line = element("p", { class: "hint witness" });
    line.textContent = `Witness, the case ${row}: counts ${MARKS[w.a]} in ${a}, ${MARKS[w.b]} in ${b}.`;
    return line;
  });
  return target.replaceChildren(sentence, ...witnesses);
}

// Curves.

function showCurves() {
  const { width, height, margin: [top, right, bottom, left], rho: [low, high], points } = PAGE.curves;
  const x = (rho) => left + ((rho - low) / (high - low)) * (width - left - right);
  const here = measure(lossOf(state.chosen), state.place, state.link, state.beta).rho;
  for (const quantity of ["loss", "slope"]) {
    const [floor, ceiling] = PAGE.curves[quantity];
    const y = (v) => top + ((ceiling - Math.min(Math.max(v, floor - 10), ceiling + 10)) / (ceiling - floor)) * (height - top - bottom);
    const of = quantity === "loss" ? linkValue : linkSlope;
    const svg = byId(`curve-${quantity}`);
    svg.querySelectorAll(".link").forEach((path) => {
      const steps = [];
      for (let i = 0; i <= points; i++) {
        const rho = low + ((high - low) * i) / points;
        steps.push(`${x(rho).toFixed(2)} ${y(of(path.dataset.link, rho, state.beta)).toFixed(2)}`);
      }
      path.setAttribute("d", `M${steps.join("L")}`);
      path.classList.toggle("picked", path.dataset.link === state.link);
    });
    const line = svg.querySelector(".here");
    line.setAttribute("x1", x(here));
    line.setAttribute("x2", x(here));
  }
}

// Surfaces.

const RAMP = [[38, 30, 84], [42, 85, 137], [41, 142, 140], [112, 191, 108], [244, 226, 92]];

function colour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const i = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[i].map((c, k) => Math.round(c + (RAMP[i + 1][k] - c) * (at - i)));
}

const atCell = (i) => RANGE[0] + ((RANGE[1] - RANGE[0]) * i) / CELLS;

/** The loss on the corners of the cells: row by row of log l, along log w. */
function gridOf(loss) {
  const values = new Float64Array((CELLS + 1) ** 2);
  const x = [...state.place];
  for (let j = 0; j <= CELLS; j++) {
    x[1] = atCell(j);
    for (let i = 0; i <= CELLS; i++) {
      x[0] = atCell(i);
      values[j * (CELLS + 1) + i] = measure(loss, x, state.link, state.beta).loss;
    }
  }
  return values;
}

function niceStep(span, about) {
  const rough = span / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= rough);
}

let scale = { low: 0, high: 1, levels: [] };
const drawn = {};

function showMaps() {
  const sides = { chosen: state.chosen, other: state.other };
  byId("maps").classList.toggle("two", Boolean(state.other));
  const grids = {};
  for (const [side, name] of Object.entries(sides)) if (name) grids[side] = gridOf(lossOf(name));
  const all = Object.values(grids).flatMap((g) => [...g]).sort((a, b) => a - b);
  // One steep corner would leave one colour for all the rest.
  const [low, high] = [all[0], all[Math.floor(0.985 * (all.length - 1))]];
  const span = Math.max(high - low, 1e-9);
  const step = niceStep(span, 12);
  const levels = [];
  for (let k = Math.ceil(low / step); k * step < low + span; k++) levels.push(k * step);
  scale = { low, high: low + span, levels };
  for (const [side, name] of Object.entries(sides)) {
    const figure = document.querySelector(`figure[data-side="${side}"]`);
    if (!name) { delete drawn[side]; continue; }
    const loss = lossOf(name);
    figure.querySelector("figcaption").textContent = loss.name;
    const math = byId(`loss-${loss.name}`).querySelector("math").cloneNode(true);
    figure.querySelector(".closed").replaceChildren(math);
    const canvas = figure.querySelector("canvas");
    canvas.setAttribute("aria-label", `${loss.name}: loss over log w and log l, from ${text(all[0])} to ${text(all.at(-1))}`);
    drawn[side] = { canvas, loss, picture: paint(canvas, loss, grids[side]) };
  }
  const bar = byId("scale");
  bar.children[0].textContent = `loss ${short(low)}`;
  bar.children[1].style.background = `linear-gradient(90deg, ${RAMP.map((c) => `rgb(${c})`).join(", ")})`;
  bar.children[2].textContent = `${short(scale.high)}${all.at(-1) > scale.high ? " and more" : ""}; lines every ${Number(step.toPrecision(2))}`;
  showPlace(state.place);
}

/** Where things are on the canvas, in CSS pixels. */
function frame(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const [left, right, top, bottom] = [46, 10, 8, 40];
  const [w, h] = [width - left - right, height - top - bottom];
  const share = (v) => (v - RANGE[0]) / (RANGE[1] - RANGE[0]);
  return {
    width, height, left, top, w, h,
    x: (v) => left + share(v) * w,
    y: (v) => top + (1 - share(v)) * h,
    back: (px, py) => [
      RANGE[0] + ((px - left) / w) * (RANGE[1] - RANGE[0]),
      RANGE[0] + (1 - (py - top) / h) * (RANGE[1] - RANGE[0]),
    ],
  };
}

function paint(canvas, loss, grid) {
  const at = frame(canvas);
  const ratio = window.devicePixelRatio || 1;
  const picture = document.createElement("canvas");
  [picture.width, picture.height] = [canvas.width, canvas.height] = [at.width * ratio, at.height * ratio].map(Math.round);
  const pen = picture.getContext("2d");
  pen.scale(ratio, ratio);
  paintHeat(pen, at, grid);
  pen.save();
  pen.beginPath();
  pen.rect(at.left, at.top, at.w, at.h);
  pen.clip();
  paintLevels(pen, at, grid);
  paintArrows(pen, at, loss);
  pen.restore();
  paintAxes(pen, at, getComputedStyle(canvas).color);
  return picture;
}

function paintHeat(pen, at, grid) {
  const size = CELLS + 1;
  const small = document.createElement("canvas");
  small.width = small.height = size;
  const image = new ImageData(size, size);
  for (let j = 0; j < size; j++) {
    for (let i = 0; i < size; i++) {
      const share = (grid[j * size + i] - scale.low) / (scale.high - scale.low);
      image.data.set([...colour(share), 255], 4 * ((size - 1 - j) * size + i));
    }
  }
  small.getContext("2d").putImageData(image, 0, 0);
  // The values stand at the corners of the cells, so half a pixel falls off on each side.
  pen.drawImage(small, 0.5, 0.5, CELLS, CELLS, at.left, at.top, at.w, at.h);
}

/** Marching squares: in each cell, straight lines between the edges that the level crosses. */
function levelLines(grid, level) {
  const size = CELLS + 1;
  const lines = [];
  for (let j = 0; j < CELLS; j++) {
    for (let i = 0; i < CELLS; i++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const values = corners.map(([a, b]) => grid[b * size + a] - level);
      const crossed = [];
      for (let k = 0; k < 4; k++) {
        const [p, q] = [values[k], values[(k + 1) % 4]];
        if ((p < 0) === (q < 0)) continue;
        const share = p / (p - q);
        const [from, to] = [corners[k], corners[(k + 1) % 4]];
        crossed.push([from[0] + share * (to[0] - from[0]), from[1] + share * (to[1] - from[1])]);
      }
      for (let k = 0; k + 1 < crossed.length; k += 2) lines.push([crossed[k], crossed[k + 1]]);
    }
  }
  return lines;
}

function paintLevels(pen, at, grid) {
  pen.beginPath();
  for (const level of scale.levels) {
    for (const [p, q] of levelLines(grid, level)) {
      pen.moveTo(at.x(atCell(p[0])), at.y(atCell(p[1])));
      pen.lineTo(at.x(atCell(q[0])), at.y(atCell(q[1])));
    }
  }
  pen.lineWidth = 1;
  pen.strokeStyle = "rgba(255,255,255,.5)";
  pen.stroke();
}

function paintArrows(pen, at, loss) {
  const n = at.w < 380 ? 9 : 13;
  const arrows = [];
  for (let j = 0; j < n; j++) {
    for (let i = 0; i < n; i++) {
      const [w, l] = [i, j].map((k) => RANGE[0] + ((k + 0.5) / n) * (RANGE[1] - RANGE[0]));
      const { grad } = measure(loss, [w, l, state.place[2], state.place[3]], state.link, state.beta);
      arrows.push([w, l, -grad[0], -grad[1]]);
    }
  }
  const sizes = arrows.map((a) => Math.hypot(a[2], a[3]));
  // The square root keeps small gradients visible beside large ones; a high quantile keeps one corner from ruling.
  const largest = [...sizes].sort((a, b) => a - b)[Math.floor(0.95 * (sizes.length - 1))] || Math.max(...sizes);
  pen.beginPath();
  arrows.forEach(([w, l, dw, dl], k) => {
    if (!(sizes[k] > 1e-12)) return;
    const length = (at.w / n) * 0.82 * Math.min(Math.sqrt(sizes[k] / largest), 1);
    const [ux, uy] = [dw / sizes[k], -dl / sizes[k]];
    const [x, y] = [at.x(w) + (ux * length) / 2, at.y(l) + (uy * length) / 2];
    const head = Math.min(6, length * 0.45);
    pen.moveTo(x - ux * length, y - uy * length);
    pen.lineTo(x, y);
    pen.moveTo(x - head * (ux + 0.6 * uy), y - head * (uy - 0.6 * ux));
    pen.lineTo(x, y);
    pen.lineTo(x - head * (ux - 0.6 * uy), y - head * (uy + 0.6 * ux));
  });
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = 3.4;
  pen.strokeStyle = "rgba(0,0,0,.5)";
  pen.stroke();
  pen.lineWidth = 1.5;
  pen.strokeStyle = "#fff";
  pen.stroke();
}

function paintAxes(pen, at, ink) {
  pen.fillStyle = pen.strokeStyle = ink;
  pen.font = "12px system-ui, sans-serif";
  pen.lineWidth = 1;
  pen.strokeRect(at.left + 0.5, at.top + 0.5, at.w - 1, at.h - 1);
  pen.textAlign = "center";
  for (let v = Math.ceil(RANGE[0]); v < RANGE[1]; v++) {
    pen.fillText(`−${-v}`, Math.max(at.x(v), at.left + 6), at.top + at.h + 16);
  }
  pen.fillText("log w, chosen", at.left + at.w / 2, at.top + at.h + 33);
  pen.textAlign = "right";
  for (let v = Math.ceil(RANGE[0]); v < RANGE[1]; v++) pen.fillText(`−${-v}`, at.left - 6, at.y(v) + 4);
  pen.save();
  pen.translate(13, at.top + at.h / 2);
  pen.rotate(-Math.PI / 2);
  pen.textAlign = "center";
  pen.fillText("log l, rejected", 0, 0);
  pen.restore();
}

/** Cross-hairs and values at a place, which is the kept one or the one pointed to. */
function showPlace(place) {
  for (const { canvas, loss, picture } of Object.values(drawn)) {
    const at = frame(canvas);
    const ratio = window.devicePixelRatio || 1;
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const inside = (v) => Math.min(Math.max(v, RANGE[0]), RANGE[1]);
    const [x, y] = [at.x(inside(place[0])), at.y(inside(place[1]))];
    for (const [width, ink] of [[5, "rgba(0,0,0,.7)"], [2.2, "#fff"]]) {
      pen.beginPath();
      pen.arc(x, y, 7, 0, 2 * Math.PI);
      pen.lineWidth = width;
      pen.strokeStyle = ink;
      pen.stroke();
    }
    const found = measure(loss, place, state.link, state.beta);
    const rows = [
      ["log w, log l", place[0], place[1]], ["w, l", Math.exp(place[0]), Math.exp(place[1])],
      ["ρ", found.rho], ["loss", found.loss],
      ["∂ loss / ∂ log w", found.grad[0]], ["∂ loss / ∂ log l", found.grad[1]],
    ];
    const keys = ["logs", "probabilities", "rho", "loss", "dw", "dl"];
    canvas.parentElement.querySelector("tbody").replaceChildren(...rows.map(([title, ...values], i) => {
      const cells = values.flatMap((v) => [", ", element("data", { value: String(v) }, text(v))]).slice(1);
      return element("tr", { "data-key": keys[i] }, element("th", { scope: "row" }, title), element("td", {}, ...cells));
    }));
  }
  const inputs = { w: 0, l: 1, rw: 2, rl: 3 };
  for (const [id, i] of Object.entries(inputs)) {
    const input = byId(id);
    if (input !== document.activeElement) input.value = String(Number(place[i].toFixed(4)));
  }
}

// What a person does.

function setBeta(beta) {
  if (!(beta > 0 && Number.isFinite(beta))) return;
  state.beta = beta;
  byId("beta-slider").value = String(Math.log10(beta));
  if (byId("beta") !== document.activeElement) byId("beta").value = String(Number(beta.toPrecision(4)));
  redraw();
}

function redraw() {
  showCurves();
  showMaps();
}

function walk(event) {
  const here = event.target.closest(".node");
  const steps = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  const step = steps[event.key];
  if (!here || !step) return;
  event.preventDefault();
  const centre = (node) => {
    const { e, f } = node.transform.baseVal.consolidate().matrix;
    return [e, f];
  };
  const [x, y] = centre(here);
  const joined = new Set(PAGE.covers.filter((pair) => pair.includes(here.dataset.loss)).flat());
  const ahead = nodes().filter((node) => {
    const [nx, ny] = centre(node);
    if (step[0]) return Math.abs(ny - y) < 1 && (nx - x) * step[0] > 1;
    return joined.has(node.dataset.loss) && (ny - y) * step[1] > 1;
  });
  const away = (node) => Math.abs(centre(node)[0] - x);
  const next = ahead.sort((a, b) => away(a) - away(b))[0];
  if (!next) return;
  next.focus();
  choose(next.dataset.loss);
}

function point(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const [w, l] = frame(canvas).back(event.clientX - box.left, event.clientY - box.top);
  if (w < RANGE[0] || w > RANGE[1] || l < RANGE[0] || l > RANGE[1]) return null;
  return [w, l, state.place[2], state.place[3]];
}

function listen() {
  const narrow = matchMedia("(max-width: 900px)");
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#loss-"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    choose(byId(link.getAttribute("href").slice(1)).dataset.loss);
    if (narrow.matches) byId("panels").scrollIntoView();
  });
  byId("lattice").addEventListener("keydown", walk);
  addEventListener("popstate", () => { fromAddress(); show(); });
  byId("reference").addEventListener("change", (event) => {
    state.form = event.target.checked ? "ref" : "plain";
    remember();
    show();
  });
  byId("theme").addEventListener("click", () => { setTheme(isDark() ? "light" : "dark"); redraw(); });
  byId("beta-slider").addEventListener("input", (event) => setBeta(10 ** Number(event.target.value)));
  byId("beta").addEventListener("input", (event) => setBeta(Number(event.target.value)));
  byId("link").addEventListener("change", (event) => { state.link = event.target.value; redraw(); });
  byId("defaults").addEventListener("click", () => {
    const loss = lossOf(state.chosen);
    state.link = byId("link").value = loss.link;
    setBeta(loss.beta);
  });
  byId("other").addEventListener("change", (event) => { state.other = event.target.value; show(); });
  ["w", "l", "rw", "rl"].forEach((id, i) => {
    byId(id).addEventListener("input", (event) => {
      const value = event.target.valueAsNumber;
      if (!(value <= 0)) return;
      state.place[i] = value;
      redraw();
    });
  });
  document.querySelectorAll("canvas").forEach((canvas) => {
    canvas.addEventListener("pointermove", (event) => showPlace(point(canvas, event) ?? state.place));
    canvas.addEventListener("pointerleave", () => showPlace(state.place));
    canvas.addEventListener("click", (event) => {
      state.place = point(canvas, event) ?? state.place;
      showPlace(state.place);
      showCurves();
    });
  });
  // Paper is white, and the ink of the pictures is not the style sheet's to change.
  let onScreen = "";
  addEventListener("beforeprint", () => {
    onScreen = document.documentElement.dataset.theme ?? "";
    setTheme("light");
    showMaps();
  });
  addEventListener("afterprint", () => { setTheme(onScreen); showMaps(); });
  let width = innerWidth;
  addEventListener("resize", () => {
    // Phones fire this when their address bar hides: only another width needs another picture.
    if (innerWidth !== width) showMaps();
    width = innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { setTheme(""); redraw(); });
}

const isDark = () => {
  const set = document.documentElement.dataset.theme;
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  byId("theme").lastElementChild.textContent = isDark() ? "light" : "dark";
}

document.documentElement.classList.add("script");
byId("link").replaceChildren(...Object.keys(PAGE.links).map((name) => new Option(name, name)));
setTheme("");
fromAddress();
listen();
show();
