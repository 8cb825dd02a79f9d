// Many images at once: select some, and one key decides on all of them.

import { ACTION_KEYS, Classes, actionOf, byId, decisionWords, get, image, make, onActions, onKeys, post, showProgress } from "./common.js";

const PAGE = 60; // images on a page
const root = byId("grid");
const tiles = byId("tiles");
const query = location.search;
const classes = new Classes(root, (name) => decide((one) => actionOf(classes, name, one)));

let ids = [];
let begin = 0;
let decided = 0;
let focus = 0;
let anchor = 0;
let busy = false;
let shown = []; // items on the page
const selected = new Set();
const done = []; // what this page decided: lists of {id, back, seen}

function say(words, kind = "") {
  byId("state").textContent = words;
  byId("state").className = kind;
}

async function turn(place) {
  begin = Math.max(0, Math.min(place, Math.max(0, ids.length - 1)));
  const wanted = ids.slice(begin, begin + PAGE);
  shown = wanted.length ? (await get(`/api/items?ids=${wanted.join(",")}`)).items : [];
  selected.clear();
  focus = anchor = 0;
  fill();
  tiles.focus({ preventScroll: true });
}

function fill() {
  tiles.replaceChildren(
    ...shown.map((one, at) => {
      const label = classes.labelled || one.decision ? classes.shown(one.current) : "";
      const words = make("span", {}, make("b", { textContent: label }));
      if (one.suggested !== null && one.suggested !== one.current) words.append(` → ${classes.shown(one.suggested)}?`);
      const tile = make("li", { id: `tile-${at}`, title: [one.path, ...one.reasons].join("\n") }, make("img", { src: image(one.id, "small"), alt: one.path, loading: "lazy" }), words);
      const decision = decisionWords(one, classes.shown);
      if (decision) tile.append(make("small", { textContent: decision.replace(/ \(.*/s, "") }));
      tile.className = one.decision ? `decided ${one.decision.action}` : "";
      tile.setAttribute("role", "option");
      tile.dataset.id = one.id;
      tile.addEventListener("click", (event) => {
        focus = at;
        if (event.shiftKey) range();
        else toggle(at);
        mark();
      });
      tile.addEventListener("dblclick", () => toggle(at));
      return tile;
    }),
  );
  if (!shown.length) tiles.append(make("li", { className: "none", textContent: "No image is in this list." }));
  const last = Math.min(begin + PAGE, ids.length);
  byId("part").textContent = ids.length ? `${(begin + 1).toLocaleString()} to ${last.toLocaleString()} of ${ids.length.toLocaleString()}` : "";
  document.querySelector("[data-action=previous]").disabled = begin === 0;
  document.querySelector("[data-action=next]").disabled = last >= ids.length;
  showProgress(decided, ids.length);
  mark();
}

function mark() {
  [...tiles.querySelectorAll("[role=option]")].forEach((tile, at) => {
    tile.setAttribute("aria-selected", String(selected.has(shown[at].id)));
    tile.classList.toggle("focus", at === focus);
  });
  if (shown.length) tiles.setAttribute("aria-activedescendant", `tile-${focus}`);
  byId("selected").textContent = `${selected.size} selected`;
}

function toggle(at) {
  const { id } = shown[at];
  if (selected.has(id)) selected.delete(id);
  else selected.add(id);
  anchor = at;
}

function range() {
  const [first, last] = [Math.min(anchor, focus), Math.max(anchor, focus)];
  for (const one of shown.slice(first, last + 1)) selected.add(one.id);
}

const columns = () => {
  const all = [...tiles.children];
  return Math.max(1, all.filter((tile) => tile.offsetTop === all[0].offsetTop).length);
};

function step(by, event) {
  focus = Math.max(0, Math.min(shown.length - 1, focus + by));
  if (event.shiftKey) range();
  mark();
  tiles.children[focus]?.scrollIntoView({ block: "nearest" });
}

async function send(decisions) {
  const found = await post("/api/decide", { decisions });
  const now = new Map(found.items.map((one) => [one.id, one]));
  shown = shown.map((one) => {
    const new_ = now.get(one.id);
    if (new_) decided += Number(Boolean(new_.decision)) - Number(Boolean(one.decision));
    return new_ ?? one;
  });
  return { now, stale: new Set(found.stale) };
}

async function decide(choose) {
  const wanted = shown.filter((one) => selected.has(one.id));
  if (busy) return;
  if (!wanted.length) {
    say("Select images first: click, or arrows and Space.", "bad");
    return;
  }
  busy = true;
  try {
    const asked = wanted.map((one) => ({ id: one.id, seen: one.number, ...choose(one) })).filter((one) => one.action);
    if (!asked.length) {
      say("Nothing is suggested for these images.", "bad");
      return;
    }
    const { now, stale } = await send(asked);
    const written = asked.filter((one) => !stale.has(one.id));
    if (written.length) done.push(written.map((one) => ({ id: one.id, back: one.seen, seen: now.get(one.id).number })));
    selected.clear();
    for (const id of stale) selected.add(id);
    say(stale.size ? `saved: ${written.length}; ${stale.size} were already decided by others and stay selected: decide again to overrule` : `saved: ${written.length}`, stale.size ? "bad" : "good");
    fill();
  } catch (error) {
    say(error.message, "bad");
  } finally {
    busy = false;
  }
}

async function undo() {
  const last = done.pop();
  if (busy || !last) {
    if (!busy) say("This page has decided nothing that could be taken back.", "bad");
    return;
  }
  busy = true;
  try {
    const { stale } = await send(last.map((one) => ({ ...one, action: "undo" })));
    say(stale.size ? `${stale.size} not taken back: others decided since` : `taken back: ${last.length}`, stale.size ? "bad" : "good");
    fill();
  } catch (error) {
    done.push(last);
    say(error.message, "bad");
  } finally {
    busy = false;
  }
}

const page = (by) => !busy && turn(begin + by).catch((error) => say(error.message, "bad"));

const actions = {
  keep: () => decide(() => ({ action: "keep" })),
  suggested: () => decide((one) => (one.suggested === null ? {} : actionOf(classes, one.suggested, one))),
  drop: () => decide(() => ({ action: "drop" })),
  undo,
  search: () => (selected.size ? classes.search() : say("Select images first: click, or arrows and Space.", "bad")),
  help: () => byId("help").showModal(),
  grid: () => byId("other").click(),
  all: () => {
    for (const one of shown) selected.add(one.id);
    mark();
  },
  previous: () => begin > 0 && page(-PAGE),
  next: () => begin + PAGE < ids.length && page(PAGE),
};

onActions((name) => actions[name]());
onKeys((key, event) => {
  const isFocused = event.target === tiles || event.target === document.body;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() };
  if (event.ctrlKey) {
    if (key !== "a") return false;
    actions.all();
  } else if (key in steps && isFocused) step(steps[key], event);
  else if (key === "PageDown" || key === "PageUp") actions[key === "PageDown" ? "next" : "previous"]();
  else if (key === " " && shown.length) {
    toggle(focus);
    mark();
  } else if (key === "Escape") {
    selected.clear();
    mark();
  } else if (!event.repeat && ACTION_KEYS[key] in actions) actions[ACTION_KEYS[key]]();
  else if (!event.repeat && classes.keys.has(key)) decide((one) => actionOf(classes, classes.keys.get(key), one));
  else return false;
  return true;
});

byId("other").href = `/look${query}`;
if (!classes.labelled) document.querySelector("[data-action=keep]").hidden = true;
try {
  const found = await get(`/api/list${query}`);
  ids = found.ids;
  decided = found.decided;
  await turn(found.first - (found.first % PAGE));
} catch (error) {
  say(error.message, "bad");
}
