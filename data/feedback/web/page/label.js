// The label page: shows an item, takes an answer by key, mouse or finger, and goes on at once.
"use strict";

const $ = (id) => document.getElementById(id);
// A second press so soon after the first is a double press, and no second answer.
const PAUSE = 300;
const ASK_AGAIN = 10000;
const REMEMBERED = 40;
const HOLD_SECONDS = 60;

let me = null;        // who, and how the stage asks
let outbox = null;
let texts = null;
let queue = [];       // the item on the page, and those loaded ahead
let answer = null;
let past = [];        // the last answers, newest first: {key, vote_id, item, body, saved}
let ended = null;     // why there is no further item
let mode = null;
let comparing = false;
let fetching = false;
let shown = 0;        // when the item came up
let seen = 0;         // seconds for which it was before somebody's eyes
let seenSince = null;
let active = 0;       // when somebody last did something here

async function begin() {
  for (let wait = 1; me === null; wait = Math.min(wait * 2, 15)) {
    try {
      me = await ask("/api/me");
    } catch (fault) {
      if (fault instanceof Refused) { stop("shut", "This page cannot be opened", `${fault.told.what}. ${fault.told.way_out || ""}`); return; }
      saved("offline", "no connection");
      await new Promise((done) => setTimeout(done, wait * 1000));
    }
  }
  const { stage } = me;
  document.title = `${stage.name} · label`;
  $("stage").textContent = stage.name;
  $("person").textContent = me.name;
  $("question").textContent = stage.question;
  $("lead-link").hidden = me.role !== "lead";
  $("show-guidelines").hidden = !stage.guidelines;
  if (stage.guidelines) render($("guidelines").querySelector(".text"), stage.guidelines);
  const modes = stage.kinds.filter((kind) => kind in MODES);
  let remembered = null;
  try { remembered = localStorage.getItem(`heliograph:mode:${stage.mark}`); } catch { remembered = null; }
  mode = modes.includes(remembered) ? remembered : modes[0] || "best";
  segments($("modes"), modes.map((one) => [one, MODES[one]]), (one) => setMode(one));
  $("modes").hidden = modes.length < 2;
  for (const kind of ["skip", "flag", "edit"]) $(kind).hidden = !stage.kinds.includes(kind);
  fillStrength();
  fillKeys(modes);
  outbox = new Outbox(`heliograph:out:${stage.mark}:${me.id}:`, {
    send: (path, body) => ask(`/api/${path}`, path === "vote" ? { ...body, holding: holding(body.item_id) } : body, me.mark),
    sent, refused, changed: showSaved,
  });
  texts = new Texts(`heliograph:text:${stage.mark}:${me.id}:`);
  // What a closed tab or a lost connection has left goes first: it decides what comes next.
  await outbox.drain();
  await readHistory();
  await ensure();
  show();
  setInterval(hold, 1000 * Math.min(HOLD_SECONDS, stage.lease_seconds / 3));
}

// ---- items

// Whoever still looks at an item keeps it; a page that is left alone gives its items to others in the end.
async function hold() {
  const away = performance.now() - active > 1000 * Math.max(HOLD_SECONDS, me.stage.lease_seconds);
  if (document.hidden || away || !queue.length || outbox.state !== "idle") return;
  let lost = [];
  try {
    lost = (await ask("/api/hold", { holding: queue.map((item) => item.id).slice(0, 20) }, me.mark)).lost;
  } catch { return; /* without a connection nothing is lost yet: the answer is kept, and sent */ }
  if (!lost.length) return;
  const first = queue[0] && lost.includes(queue[0].id) ? queue[0] : null;
  queue = queue.filter((item) => !lost.includes(item.id));
  if (first) {
    const kept = texts.refuse({ key: randomKey(), edit: answer?.edit ?? texts.draft(first.id, "edit"), comment: texts.draft(first.id, "flag")?.text }, first, "others had judged the item by then");
    texts.forget(first.id);
    for (const open of document.querySelectorAll("#editing[open], #flagging[open]")) open.close();
    answer = null;
    notice(`While you were away, other people judged the item that was here.${kept ? " What you wrote is kept under Last answers." : ""}`);
  }
  ensure().then(show);
}

function holding(except) {
  const waiting = outbox.entries().filter((one) => one.path === "vote").map((one) => one.body.item_id);
  return [...new Set([...queue.map((item) => item.id), ...waiting])].filter((id) => id !== except).slice(0, 20);
}

async function ensure() {
  // What an answer on its way brings with it needs no asking for.
  if (fetching || outbox.waiting || outbox.state === "shut") return;
  fetching = true;
  try {
    while (queue.length < me.stage.ahead) {
      const found = await ask("/api/next", { holding: holding() }, me.mark);
      if (!take(found)) break;
    }
  } catch (fault) {
    if (fault instanceof Refused && [401, 403].includes(fault.status)) {
      queue = [];
      ended = { reason: "shut", why: fault.message };
    } else {
      setTimeout(() => ensure().then(show), 3000);
    }
  } finally {
    fetching = false;
  }
}

// True if an item came.
function take(found) {
  ended = found.item ? null : found.reason === "enough_held" ? ended : found;
  if (!found.item || queue.some((item) => item.id === found.item.id)) return false;
  if (outbox.entries().some((one) => one.path === "vote" && one.body.item_id === found.item.id
    && !outbox.entries().some((two) => two.path === "undo" && two.of === one.key))) return false;
  queue.push(found.item);
  if (found.item.image) new Image().src = `/image/${found.item.id}`;
  if (queue.length === 1) show();
  return true;
}

function show() {
  const item = queue[0];
  $("item").hidden = $("bar").hidden = !item;
  $("over").hidden = Boolean(item);
  if (!item) { over(); return; }
  if (answer && answer.item === item) return;
  answer = new Answer(item, mode, me.stage.strength_max);
  shown = performance.now();
  seen = 0;
  seenSince = document.hidden ? null : shown;
  const picture = $("picture");
  picture.hidden = !item.image;
  for (const image of [picture.querySelector("img"), $("large").querySelector("img")]) {
    if (item.image) image.src = `/image/${item.id}`; else image.removeAttribute("src");
  }
  putPrompt(item.prompt);
  putCandidates(item);
  paint();
  scrollTo(0, 0);
  $("question").focus({ preventScroll: true });
}

function putPrompt(prompt) {
  const place = $("prompt");
  const messages = typeof prompt === "string" ? [{ role: "user", content: prompt }] : prompt;
  place.replaceChildren(...messages.map((message) => {
    const content = typeof message.content === "string" ? message.content
      : message.content.map((part) => typeof part === "string" ? part : part.text || (part.type === "image" ? "" : JSON.stringify(part))).join("\n").trim();
    const body = element("div", { class: "text" });
    render(body, content);
    return element("div", { class: "message" }, ...(messages.length > 1 ? [element("h2", { text: message.role })] : []), body);
  }));
}

function putCandidates(item) {
  const count = item.candidates.length;
  $("candidates").style.setProperty("--columns", count === 4 ? 2 : Math.min(count, 3));
  $("candidates").replaceChildren(...item.candidates.map((candidate, place) => {
    const body = element("div", { class: "text", id: `text-${place}` });
    const pick = element("button", {
      type: "button", class: "pick", "aria-pressed": "false", "aria-describedby": `text-${place}`,
      "aria-keyshortcuts": place < 9 ? String(place + 1) : null,
    }, element("kbd", { text: String(place + 1) }), element("span", { class: "verdict" }));
    const card = element("li", { class: "card" }, pick, body);
    card.addEventListener("click", (event) => {
      // Marking words to copy is no answer, and neither is a second press of a double click.
      if (!getSelection().isCollapsed || event.target.closest("pre, a") || event.detail > 1 && !event.target.closest(".pick")) return;
      press(place);
    });
    return card;
  }));
  putTexts();
}

function putTexts() {
  const item = queue[0];
  const bodies = [...$("candidates").querySelectorAll(".text")];
  const marks = bodies.map(() => []);
  if (comparing && bodies.length > 1) {
    item.candidates.forEach((candidate, place) => {
      if (place === 0) return;
      const [first, here] = differences(item.candidates[0].text, candidate.text);
      marks[place] = here;
      // Among several, the first one is what the others are compared with.
      if (bodies.length === 2) marks[0] = first;
    });
  }
  bodies.forEach((body, place) => render(body, item.candidates[place].text, marks[place]));
  $("candidates").classList.toggle("comparing", comparing);
}

// ---- an answer

function press(place) {
  tools(false);
  if (!answer || place >= answer.width) return;
  hear(answer.press(place));
  paint();
}

function paint() {
  const cards = [...$("candidates").children];
  cards.forEach((card, place) => {
    const picked = answer.picked(place);
    card.classList.toggle("picked", picked);
    card.classList.toggle("passed", !picked && (answer.mode === "best" && answer.best !== null));
    const button = card.querySelector(".pick");
    button.setAttribute("aria-pressed", String(picked));
    const verdict = { choose: picked ? "fits" : "", best: picked ? "better" : "", rank: picked ? `rank ${answer.ranks[place]}` : "" }[answer.mode];
    card.querySelector(".verdict").textContent = verdict;
    button.setAttribute("aria-label", `Candidate ${place + 1}${verdict ? `, ${verdict}` : ""}`);
  });
  for (const input of $("modes").querySelectorAll("input")) input.checked = input.value === answer.mode;
  const strong = answer.mode === "best" && me.stage.strength_max > 1;
  $("strength").hidden = !strong;
  $("strength").disabled = answer.best === null;
  for (const input of $("strength").querySelectorAll("input")) input.checked = answer.best !== null && Number(input.value) === answer.strength;
  const none = $("none");
  none.hidden = answer.mode !== "choose" && !me.stage.kinds.includes("tie");
  none.querySelector("span").textContent = answer.mode === "choose" ? "None fits" : "No difference";
  none.setAttribute("aria-pressed", String(answer.none));
  const draft = texts.draft(answer.item.id, "edit");
  $("edited").hidden = answer.edit === null && draft === null;
  $("edited").textContent = answer.edit ? "your text is kept ✎" : "an unfinished text ✎";
  $("confirm").setAttribute("aria-disabled", String(answer.vote() === null));
  $("undo").disabled = past.every((one) => one.undone);
  $("compare").hidden = answer.width < 2;
  $("compare").setAttribute("aria-pressed", String(comparing));
  $("doing").textContent = answer.vote() === null ? { choose: "Pick all that fit.", best: "Which one is better?", rank: "Press them in order, the best first." }[answer.mode] : strong && answer.best !== null ? "How much better?" : "";
}

function seconds() {
  const now = performance.now();
  return Math.round((seen + (seenSince === null ? 0 : now - seenSince)) / 10) / 100;
}

function confirm() {
  const vote = answer && answer.vote();
  if (!vote) { hear("nothing is picked yet"); $("doing").classList.remove("asks"); void $("doing").offsetWidth; $("doing").classList.add("asks"); return; }
  give(vote);
}

function give(vote) {
  if (!answer || performance.now() - shown < PAUSE) return;
  tools(false);
  const item = queue.shift();
  const key = randomKey();
  const body = { item_id: item.id, key, ...vote, seconds: seconds() };
  past.unshift({ key, vote_id: null, item, body, saved: false });
  past.length = Math.min(past.length, REMEMBERED);
  answer = null;
  me.answered += 1;
  texts.forget(item.id);
  outbox.add({ key, path: "vote", body });
  hear(`${inWords(body, item)}${queue.length ? "; next item" : ""}`);
  show();
  showSaved();
}

function sent(entry, told) {
  const record = past.find((one) => one.key === entry.key);
  if (entry.path === "vote") {
    if (record) { record.saved = true; record.vote_id = told.receipt.vote_id; }
    if (told.progress) me.progress = told.progress;
    if ("item" in told) take(told);
    if (!outbox.waiting) ensure().then(show);
  }
  show();
}

// The server will never take this one: say so, and go on.
function refused(entry, fault) {
  const { told } = fault;
  if (entry.path === "vote") {
    const record = past.find((one) => one.key === entry.key);
    past = past.filter((one) => one !== record);
    me.answered -= 1;
    const gone = told.error === "lease_lost" ? "One answer came too late: others had judged the item by then."
      : told.error === "conflict" ? "You had answered that item already, in another tab or on another machine. The first answer counts."
      : `One answer was not taken: ${told.what}. ${told.way_out || ""}`;
    const kept = texts.refuse(entry.body, record?.item, gone);
    notice(`${gone}${kept ? " What you wrote is kept under Last answers." : ""}`);
  } else {
    queue = queue.filter((item) => item.id !== entry.item_id);
    notice(`It could not be taken back: ${told.what}. ${told.way_out || ""}`);
    readHistory();
  }
  if (told.error === "not_allowed") { queue = []; ended = { reason: "shut", why: told.what }; }
  ensure().then(show);
}

function undo(record = past.find((one) => !one.undone)) {
  if (!record) { hear("there is nothing to take back"); return; }
  if (!record.item) { notice("This one is too long ago to be taken back here."); return; }
  record.undone = true;
  past = past.filter((one) => one !== record);
  me.answered -= 1;
  queue = [record.item, ...queue.filter((item) => item.id !== record.item.id)];
  ended = null;
  answer = null;
  const body = record.vote_id === null ? { key: randomKey() } : { key: randomKey(), vote_id: record.vote_id };
  outbox.add({ key: body.key, path: "undo", body, item_id: record.item.id, ...(record.vote_id === null ? { of: record.key } : {}) });
  show();
  restore(record.body);
  hear(`taken back: ${inWords(record.body, record.item)}`);
}

// Puts an answer that was taken back in front of the person again.
function restore(body) {
  const place = (index) => answer.item.candidates.findIndex((one) => one.index === index);
  if (body.kind in MODES && me.stage.kinds.includes(body.kind)) answer.mode = mode = body.kind;
  if (body.kind === "choose") { body.choice.forEach((index) => answer.chosen.add(place(index))); answer.none = !body.choice.length; }
  if (body.kind === "best") { answer.best = place(body.choice); answer.strength = body.strength; }
  if (body.kind === "rank") answer.ranks = answer.item.candidates.map((one) => body.choice[one.index]);
  if (body.kind === "tie") answer.none = true;
  if (body.edit) answer.edit = body.edit;
  paint();
}

async function readHistory() {
  try {
    const { votes } = await ask("/api/history");
    const known = new Set(past.map((one) => one.key));
    for (const vote of votes) {
      if (known.has(vote.key)) continue;
      past.push({ key: vote.key, vote_id: vote.id, item: vote.item, body: vote, saved: true });
    }
    past.length = Math.min(past.length, REMEMBERED);
  } catch { /* the list is a comfort: without a connection it holds what this tab did */ }
}

function setMode(one) {
  mode = one;
  try { localStorage.setItem(`heliograph:mode:${me.stage.mark}`, one); } catch { outbox.kept = false; }
  if (answer) { const { edit } = answer; answer.mode = one; answer.clear(); answer.edit = edit; paint(); }
}

// ---- what the page says

function hear(text) { $("heard").textContent = text; }

function notice(text) {
  $("notice").hidden = false;
  $("notice").querySelector("span").textContent = text;
}

function saved(state, text) {
  $("saved").dataset.state = state;
  if ($("saved-text").textContent !== text) $("saved-text").textContent = text;
}

function showSaved() {
  const waiting = outbox.waiting;
  const answers = waiting === 1 ? "1 answer" : `${waiting} answers`;
  const where = outbox.kept ? "kept in this browser" : "kept in this tab only: leave it open";
  if (outbox.state === "shut") saved("shut", `your link does not work any more${waiting ? `; ${answers} ${where}` : ""}`);
  else if (waiting && outbox.state === "offline") saved("offline", `no connection; ${answers} ${where}`);
  else if (waiting) saved("sending", `saving ${answers}`);
  else saved("idle", me.answered ? "all answers saved" : "ready");
  $("count").textContent = `${me.answered} answered`;
  const { done, items } = me.progress || me.stage;
  const share = items ? Math.floor(100 * done / items) : 0;
  $("meter").setAttribute("aria-valuenow", String(share));
  $("meter").firstElementChild.style.inlineSize = `${share}%`;
  $("meter").title = `${done} of ${items} items are done`;
}

function over() {
  if (!ended) { stop("wait", outbox.waiting || outbox.state === "offline" ? "Waiting for the connection" : "One moment", outbox.waiting ? "Your answers are kept in this browser, and sent as soon as it is back." : ""); return; }
  const titles = { paused: "A pause", closed: "This stage is closed", stopped: "Done, thank you", budget: "Done, thank you", nothing_left: "Done, thank you", all_taken: "Nothing for the moment", shut: "This page is closed for you" };
  const kind = ["stopped", "budget", "nothing_left"].includes(ended.reason) ? "done" : ended.reason === "shut" ? "shut" : "wait";
  stop(kind, titles[ended.reason] || "Nothing for the moment", `${ended.why[0].toUpperCase()}${ended.why.slice(1)}.`);
}

const OVER_SIGNS = { done: "✓", wait: "⋯", shut: "✕" };
function stop(kind, title, why) {
  $("over").hidden = false;
  $("over").dataset.kind = kind;
  $("over-sign").textContent = OVER_SIGNS[kind];
  $("item").hidden = $("bar").hidden = true;
  if ($("over-title").textContent !== title) { $("over-title").textContent = title; $("over-title").focus(); }
  $("over-why").textContent = why;
}

function segments(place, choices, chosen) {
  const group = `${place.id}-group`;
  for (const old of place.querySelectorAll("label")) old.remove();
  for (const [value, text] of choices) {
    place.append(element("label", {}, element("input", { type: "radio", name: group, value, onchange: () => chosen(value) }), element("span", { text })));
  }
}

function fillKeys(modes) {
  const kinds = me.stage.kinds;
  const keys = [["1 – 9", modes.length === 1 && mode === "choose" ? "pick a candidate, or not" : "pick a candidate; again: stronger, or not"]];
  if (modes.includes("rank")) keys.push(["Shift 1 – 9", "the same rank as the last one"]);
  if (modes.includes("best")) keys.push(["← →", "weaker, stronger"]);
  keys.push(["Space", "pick the candidate that has the focus (Tab moves it)"], ["Enter", "confirm, and go on"]);
  if (modes.includes("choose") || kinds.includes("tie")) keys.push(["0", modes.includes("choose") ? "none fits, or no difference" : "no difference"]);
  if (modes.length > 1) keys.push(["m", "the other way to answer"]);
  keys.push(["d", "mark the differences"]);
  if (kinds.includes("edit")) keys.push(["e", "write a better one"]);
  if (kinds.includes("skip")) keys.push(["s", "skip"]);
  if (kinds.includes("flag")) keys.push(["f", "flag with a comment"]);
  keys.push(["u", "take the last answer back"], ["h", "your last answers"], ["?", "this help"]);
  $("keys").replaceChildren(...keys.flatMap(([key, text]) => [element("dt", {}, element("kbd", { text: key })), element("dd", { text })]));
}

// ---- dialogs

function openDialog(id) { $(id).showModal(); }

function showHistory() {
  const list = $("history").querySelector("ol");
  list.replaceChildren(...past.filter((one) => !one.undone).map((record) => {
    const text = record.item ? plainPrompt(record.item.prompt) : "";
    return element("li", {},
      element("span", { class: "said", dir: "auto", text: [inWords(record.body, record.item), pickedText(record.body, record.item).slice(0, 60)].filter(Boolean).join(": ") }),
      element("span", { class: "about", dir: "auto", text: text.slice(0, 160) }),
      element("span", { class: "state", text: record.saved ? "saved" : "on its way" }),
      element("button", { type: "button", text: "Take back", "aria-label": `Take back: ${inWords(record.body, record.item)}`, onclick: () => { $("history").close(); undo(record); } }));
  }));
  if (!list.children.length) list.append(element("li", { class: "none", text: "None yet." }));
  showRefused();
  if (!$("history").open) openDialog("history");
}

function showRefused() {
  const { refused } = texts;
  $("refused").hidden = !refused.length;
  $("refused").querySelector("ul").replaceChildren(...refused.map((one) => element("li", {},
    element("span", { class: "about", dir: "auto", text: one.prompt }),
    element("textarea", { readonly: true, rows: "3", dir: "auto", "aria-label": `What you wrote: ${one.why}` }, one.words),
    element("span", { class: "state", text: one.why }),
    element("button", { type: "button", text: "Let it go", onclick: () => { texts.dropRefused(one.key); showRefused(); } }))));
}

function startFlag() {
  if (!answer || $("flag").hidden) return;
  $("comment").value = texts.draft(answer.item.id, "flag")?.text ?? "";
  openDialog("flagging");
}

function sendFlag() {
  const comment = $("comment").value.trim();
  if (!comment) { $("comment").focus(); return; }
  $("flagging").close();
  give({ kind: "flag", comment });
}

function startEdit() {
  if (!answer || $("edit").hidden) return;
  const focused = [...$("candidates").children].indexOf(document.activeElement.closest(".card"));
  const picked = [...Array(answer.width).keys()].find((place) => answer.picked(place));
  const begun = answer.edit ?? texts.draft(answer.item.id, "edit");
  const base = begun ? answer.item.candidates.findIndex((one) => one.index === begun.candidate) : focused >= 0 ? focused : picked ?? 0;
  const choices = answer.item.candidates.map((_, place) => [String(place), String(place + 1)]);
  segments($("bases"), [...choices, ["-1", "nothing"]], (value) => {
    const texts = answer.item.candidates.map((one) => one.text);
    const current = $("better").value;
    // What somebody has written is not thrown away for another start.
    if (!current.trim() || texts.includes(current)) $("better").value = texts[Number(value)] ?? "";
  });
  $("bases").querySelector(`input[value="${base}"]`).checked = true;
  $("better").value = begun ? begun.text : answer.item.candidates[base].text;
  openDialog("editing");
  $("better").focus();
}

// What is in the box, and the candidate that it started from; null: nothing was changed.
function written() {
  const text = $("better").value;
  const original = answer.item.candidates[Number($("bases").querySelector("input:checked").value)] ?? null;
  return !text.trim() || (original && original.text === text) ? null : { text, candidate: original ? original.index : null };
}

function keepEdit() {
  answer.edit = written();
  if (!answer.edit) texts.keepDraft(answer.item.id, "edit", null);
  $("editing").close();
  hear(answer.edit ? "your text is kept with the answer" : "nothing was changed");
  paint();
}

// ---- keys, presses, other tabs

function onKey(event) {
  const open = document.querySelector("dialog[open]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    if (open?.id === "flagging") sendFlag();
    if (open?.id === "editing") keepEdit();
    return;
  }
  if (open || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !me) return;
  if (event.target.closest("textarea, input:not([type=radio]), select")) return;
  const digit = event.code.match(/^(?:Digit|Numpad)([0-9])$/)?.[1] ?? (/^[0-9]$/.test(event.key) ? event.key : null);
  const button = event.target.closest("button, a");
  if (digit !== null && answer && !event.repeat) {
    if (digit === "0") { if (!$("none").hidden) { hear(answer.pressNone(true)); paint(); } }
    else if (Number(digit) <= answer.width) {
      if (event.shiftKey) { hear(answer.pressEqual(Number(digit) - 1)); paint(); } else press(Number(digit) - 1);
    }
  } else if (event.key === "Enter") {
    // On a button of the page Enter presses that button; on a candidate it confirms.
    if (button && !button.classList.contains("pick") && button.id !== "confirm") return;
    if (!event.repeat && !$("item").hidden) confirm();
  } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    if (!answer || answer.mode !== "best" || answer.best === null || event.target.closest("pre, #prompt, #modes")) return;
    hear(answer.stronger(event.key === "ArrowRight" ? 1 : -1));
    paint();
  } else if (event.key === "?") openDialog("help");
  else if (event.shiftKey || event.repeat) return;
  else if (event.key === "u") undo();
  else if (event.key === "h") showHistory();
  else if (!answer) return;
  else if (event.key === "s") { if (!$("skip").hidden) give({ kind: "skip" }); }
  else if (event.key === "f") startFlag();
  else if (event.key === "e") startEdit();
  else if (event.key === "d") compare();
  else if (event.key === "m") { const all = me.stage.kinds.filter((kind) => kind in MODES); setMode(all[(all.indexOf(mode) + 1) % all.length]); }
  else return;
  event.preventDefault();
}

// On a phone the lesser buttons are behind one.
function tools(open) {
  $("bar").classList.toggle("more", open);
  $("more").setAttribute("aria-expanded", String(open));
}

function compare() { comparing = !comparing; putTexts(); paint(); }

const THEMES = { "": "as the system has them", light: "light", dark: "dark" };
function theme(next) {
  let kept = "";
  try { kept = localStorage.getItem("heliograph:theme") || ""; } catch { kept = ""; }
  if (next) {
    const names = Object.keys(THEMES);
    kept = names[(names.indexOf(kept) + 1) % names.length];
    try { localStorage.setItem("heliograph:theme", kept); } catch { /* then it is for this view only */ }
  }
  if (kept) document.documentElement.dataset.theme = kept; else delete document.documentElement.dataset.theme;
  $("theme").textContent = `Colours: ${THEMES[kept] || THEMES[""]}`;
}

function listen() {
  theme(false);
  document.addEventListener("keydown", onKey);
  const pressed = {
    confirm, undo: () => undo(), compare, edit: startEdit, edited: startEdit, flag: startFlag,
    skip: () => give({ kind: "skip" }), none: () => { hear(answer.pressNone(true)); paint(); },
    "show-help": () => openDialog("help"), "show-history": showHistory, "show-guidelines": () => openDialog("guidelines"),
    more: () => tools(!$("bar").classList.contains("more")), "send-flag": sendFlag, "keep-edit": keepEdit, picture: () => openDialog("large"), theme: () => theme(true),
  };
  for (const [id, act] of Object.entries(pressed)) {
    $(id).addEventListener("click", (event) => { if (event.detail < 2 || !["confirm", "skip", "undo"].includes(id)) act(); });
  }
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  $("editing").addEventListener("close", () => { if (answer) paint(); });
  // A box that was closed by mistake opens again with what was in it, also after a reload.
  $("better").addEventListener("input", () => texts.keepDraft(answer.item.id, "edit", written()));
  $("comment").addEventListener("input", () => texts.keepDraft(answer.item.id, "flag", $("comment").value.trim() ? { text: $("comment").value } : null));
  for (const name of ["pointerdown", "pointermove", "keydown", "scroll", "touchstart"]) addEventListener(name, () => { active = performance.now(); }, { passive: true });
  $("notice").querySelector("button").addEventListener("click", () => { $("notice").hidden = true; });
  document.addEventListener("visibilitychange", () => {
    const now = performance.now();
    if (document.hidden && seenSince !== null) { seen += now - seenSince; seenSince = null; }
    else if (!document.hidden) { seenSince = now; active = now; if (me && outbox) { outbox.drain(true); if (queue.length) hold(); else ensure().then(show); } }
  });
  addEventListener("storage", (event) => {
    if (!outbox || !event.key?.startsWith(outbox.prefix) || !event.newValue) { if (outbox) showSaved(); return; }
    const entry = JSON.parse(event.newValue);
    const had = queue.length;
    if (entry.path === "vote") queue = queue.filter((item) => item.id !== entry.body.item_id);
    if (queue.length < had) { notice("You answered an item in another tab; this one goes on with the next."); readHistory(); }
    setTimeout(() => ensure().then(show), 500);
    show();
  });
  // A page that the browser took out of its memory may be long past.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  setInterval(() => { if (me && outbox && !queue.length && !document.hidden) ensure().then(show); }, ASK_AGAIN);
}

function fillStrength() {
  const most = me.stage.strength_max;
  const names = most === 3 ? ["slightly", "clearly", "much"] : [...Array(most).keys()].map((n) => String(n + 1));
  segments($("strength"), names.map((name, n) => [String(n + 1), name]), (value) => {
    if (answer) { answer.strength = Number(value); paint(); }
  });
}

listen();
begin();
