// The lead's page: the stage's figures, fresh every few seconds, and the few things a lead decides.
"use strict";

const $ = (id) => document.getElementById(id);
const EVERY = 3000;
const FAMILIES = { accepted: "fits", preferred: "better" };

let me = null;
let barring = null;
let doing = null;

const number = (value, digits = 0) => value === null || value === undefined ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: digits, minimumFractionDigits: digits });
const percent = (value) => value === null || value === undefined ? "–" : `${number(100 * value)} %`;

async function begin() {
  try { localStorage.getItem("heliograph:theme") && (document.documentElement.dataset.theme = localStorage.getItem("heliograph:theme")); } catch { /* as the system has it */ }
  listen();
  for (let wait = 1; me === null; wait = Math.min(wait * 2, 15)) {
    try { me = await ask("/api/me"); } catch (fault) {
      if (fault instanceof Refused) { fresh("shut", fault.told.what); return; }
      fresh("offline", "no connection");
      await new Promise((done) => setTimeout(done, wait * 1000));
    }
  }
  $("stage").textContent = me.stage.name;
  $("person").textContent = me.name;
  document.title = `${me.stage.name} · lead`;
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((done) => setTimeout(done, EVERY));
  }
}

async function look() {
  try {
    const figures = await ask("/api/lead/progress");
    show(figures);
    fresh("idle", `as of ${new Date(figures.at * 1000).toLocaleTimeString()}`);
  } catch (fault) {
    fresh(fault instanceof Refused && fault.status < 500 ? "shut" : "offline", fault instanceof Refused ? fault.told.what : "no connection; the figures are old");
  }
}

function fresh(state, text) {
  $("fresh").dataset.state = state;
  $("fresh-text").textContent = text;
}

function show(of) {
  const share = of.items ? Math.floor(100 * of.done / of.items) : 0;
  $("meter").setAttribute("aria-valuenow", String(share));
  $("meter").firstElementChild.style.inlineSize = `${share}%`;
  const state = of.stage.state;
  $("state").textContent = of.stage.stopped && state === "open" ? "stopped" : state;
  for (const button of $("states").children) button.hidden = button.dataset.state === state && !of.stage.stopped;
  $("stopped").hidden = !of.stage.stopped;
  $("stopped").textContent = of.stage.stopped ? `Nothing more is given out: ${of.stage.stopped}.` : "";
  const tiles = [
    ["Items done", `${number(of.done)} of ${number(of.items)}`, `${share} %${of.flagged ? `, ${number(of.flagged)} flagged` : ""}`],
    ["Votes", number(of.judged), `${number(of.needed)} to come`],
    ["Last hour", `${number(of.votes_per_hour)} votes`, of.hours_left ? `${number(of.hours_left, 1)} hours left at this pace` : of.needed ? "nobody is voting" : "nothing is left"],
    ...Object.entries(of.agreement).map(([family, one]) => [`Agreement, ${FAMILIES[family]}`, `α ${number(one.value, 2)}`, one.low === null ? "no interval yet" : `95 %: ${number(one.low, 2)} to ${number(one.high, 2)}`]),
    ["Gold", percent(of.gold.value), of.gold_items ? `${number(of.gold_items)} known answers` : "no known answers"],
    ["With people now", number(of.holding), "items held"],
  ];
  $("tiles").replaceChildren(...tiles.map(([name, value, more]) => element("div", {}, element("dt", { text: name }), element("dd", { text: value }, element("small", { text: more })))));
  people(of);
  const bias = Object.entries(of.position_bias);
  $("places").replaceChildren(...(bias.length ? bias.map(([width, test]) => places(width, test)) : [element("p", { text: "No choices yet." })]));
  const names = Object.fromEntries(of.people.map((one) => [one.person_id, one.name]));
  $("flags").replaceChildren(...(of.flags.length ? of.flags.map((one) => element("li", {}, element("strong", { text: one.item }), ` ${names[one.person_id] || ""}: `, element("span", { text: one.comment, dir: "auto" }))) : [element("li", { text: "None." })]));
}

function places(width, test) {
  const bar = element("div", { class: "places", "aria-hidden": "true" });
  test.shares.forEach((share, place) => {
    const part = element("span", { text: share > .08 ? percent(share) : "" });
    part.style.flex = `${Math.max(share, .004)} 0 0`;
    part.title = `place ${place + 1}`;
    bar.append(part);
  });
  const chance = test.p_value < .001 ? "p < 0.001" : `p = ${number(test.p_value, 3)}`;
  return element("div", {}, element("p", { text: `${width} candidates: ${test.chosen.map((count, place) => `place ${place + 1} ${count}×`).join(", ")}` }), bar,
    element("p", { class: test.p_value < .01 ? "warn" : "", text: `${chance} (${test.test})${test.p_value < .01 ? ": the place seems to decide" : ""}` }));
}

function people(of) {
  // A row that is being used is left alone: a button that moves away under a finger is no good.
  if ($("people").contains(document.activeElement) || document.querySelector("dialog[open]")) return;
  $("people").replaceChildren(...of.people.map((one) => {
    const bias = one.first_place ? `${percent(one.first_place.shares[0])}` : "–";
    const biased = one.first_place && one.first_place.p_value < .01;
    const gold = one.gold_answered ? `${percent(one.gold.value)} ` : "–";
    const name = element("td", { dir: "auto" }, one.name, ...(one.barred !== null ? [element("br"), element("small", { class: "warn", text: `barred: ${one.barred}${one.votes_count ? "" : "; votes set aside"}` })] : []));
    return element("tr", {}, name,
      element("td", { text: number(one.votes) }), element("td", { text: number(one.votes_per_hour) }), element("td", { text: number(one.median_seconds, 1) }),
      element("td", {}, gold, ...(one.gold_answered ? [element("small", { text: `of ${one.gold_answered}` })] : [])),
      element("td", { text: number(one.reliability, 2) }), element("td", { class: biased ? "warn" : "", text: bias }),
      element("td", { text: `${one.skips}, ${one.flags}` }), element("td", { text: number(one.holding) }),
      element("td", {},
        element("button", { type: "button", text: "Take items back", "aria-label": `Take items back from ${one.name}`, disabled: one.holding === 0, onclick: () => post("release", { person_id: one.person_id }, (told) => `${told.released} items go to other people.`) }), " ",
        one.barred === null
          ? element("button", { type: "button", text: "Bar", "aria-label": `Bar ${one.name}`, onclick: () => startBar(one) })
          : element("button", { type: "button", text: "Lift the bar", "aria-label": `Lift the bar of ${one.name}`, onclick: () => post("unbar", { person_id: one.person_id }, () => `${one.name} may go on.`) })));
  }));
  if (!of.people.length) $("people").append(element("tr", {}, element("td", { colspan: "10", text: "Nobody has opened the page yet." })));
}

async function post(what, body, told) {
  document.activeElement?.blur();
  try {
    const answer = await ask(`/api/lead/${what}`, body, me.mark);
    notice(told(answer));
  } catch (fault) {
    notice(fault instanceof Refused ? `${fault.told.what}. ${fault.told.way_out || ""}` : "No connection: nothing was changed.");
  }
  await look();
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").querySelector("span").textContent = text;
}

function startBar(one) {
  barring = one;
  $("barring-title").textContent = `Bar ${one.name}`;
  $("reason").value = "";
  $("set-aside").checked = false;
  $("barring").showModal();
}

function sure(title, what, yes, act) {
  $("sure-title").textContent = title;
  $("sure-what").textContent = what;
  $("sure-yes").textContent = yes;
  doing = act;
  $("sure").showModal();
}

function listen() {
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  $("notice").querySelector("button").addEventListener("click", () => notice(""));
  $("bar-now").addEventListener("click", () => {
    const reason = $("reason").value.trim();
    if (!reason) { $("reason").focus(); return; }
    const set_aside = $("set-aside").checked;
    $("barring").close();
    post("bar", { person_id: barring.person_id, reason, votes_count: !set_aside }, () => `${barring.name} is barred.`);
  });
  $("sure-yes").addEventListener("click", () => { $("sure").close(); doing(); });
  $("release-all").addEventListener("click", () => sure("Take all items back?", "Whatever is on people's pages may be given to others; an answer that still arrives counts if there is room for it.", "Take back", () => post("release", {}, (told) => `${told.released} items were taken back.`)));
  for (const button of $("states").children) {
    const state = button.dataset.state;
    const act = () => post("state", { state }, () => ({ open: "The stage is open.", paused: "Nothing new is given out; answers in hand are taken.", closed: "The stage is closed." })[state]);
    button.addEventListener("click", () => state === "closed" ? sure("Close the stage?", "No further answers are taken. The run that waits for it goes on with the votes there are.", "Close it", act) : act());
  }
}

begin();
