// One image at a time: a key decides, and the next image is shown once the decision is on the disk.

import { ACTION_KEYS, Classes, actionOf, byId, decisionWords, get, image, make, onActions, onKeys, post, showProgress } from "./common.js";

const AHEAD = 4; // images that are fetched before they are shown
const root = byId("look");
const picture = byId("image");
const query = location.search;
const classes = new Classes(root, (name) => decide(() => actionOf(classes, name, item())));

let ids = [];
let at = 0;
let decided = 0;
let busy = false;
let beside = null; // aborts the request for the images beside
const items = new Map();
const pictures = new Map();
const done = []; // what this page decided: {id, back}

const item = () => items.get(ids[at]);

function say(words, kind = "") {
  const state = byId("state");
  state.textContent = words;
  state.className = kind;
}

async function prepare(begin, count) {
  const wanted = ids.slice(begin, begin + count).filter((id) => !items.has(id));
  if (wanted.length) {
    for (const one of (await get(`/api/items?ids=${wanted.join(",")}`)).items) items.set(one.id, one);
  }
  for (const id of ids.slice(begin, begin + count)) {
    if (pictures.has(id)) continue;
    const ready = new Image();
    ready.src = image(id, "large");
    pictures.set(id, ready);
    if (pictures.size > 4 * AHEAD) pictures.delete(pictures.keys().next().value);
  }
}

async function show(place) {
  at = Math.max(0, Math.min(place, ids.length));
  const isEnd = at >= ids.length;
  byId("figure").hidden = isEnd;
  byId("end").hidden = !isEnd;
  showProgress(decided, ids.length);
  if (isEnd) {
    root.classList.add("ended");
    byId("end").replaceChildren(ids.length ? "This was the last image of the list. " : "No image is in this list. ", make("a", { href: "/", textContent: "All lists" }));
    return;
  }
  root.classList.remove("ended");
  await prepare(at, 1);
  fill();
  byId("why").hidden = true;
  prepare(at + 1, AHEAD).catch((error) => say(error.message, "bad"));
  fetchBeside();
}

function fill() {
  const one = item();
  const source = image(one.id, "large");
  if (picture.getAttribute("src") !== source) picture.src = source;
  picture.alt = `${one.path}, labelled ${classes.shown(one.current)}`;
  picture.dataset.id = one.id;
  byId("path").textContent = one.path;
  const words = decisionWords(one, classes.shown);
  const facts = [["image", `${(at + 1).toLocaleString()} of ${ids.length.toLocaleString()}`]];
  if (classes.labelled) facts.push(["label in the data", classes.shown(one.label)]);
  if (one.split) facts.push(["split", one.split]);
  facts.push(["decided", words || "not yet"]);
  byId("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  byId("facts").classList.toggle("done", Boolean(words));
  byId("reasons").replaceChildren(...one.reasons.map((reason) => make("li", { textContent: reason })));
  byId("top-title").hidden = !one.top.length;
  byId("top").replaceChildren(
    ...one.top.map((guess) => {
      const bar = make("meter", { min: 0, max: 1, value: guess.probability });
      bar.setAttribute("aria-hidden", "true");
      return make("li", {}, make("span", { textContent: classes.shown(guess.label) }), bar, make("b", { textContent: `${(100 * guess.probability).toFixed(0)} %` }));
    }),
  );
  for (const [name, button] of classes.buttons) {
    button.classList.toggle("current", (classes.labelled || Boolean(one.decision)) && name === one.current);
    button.classList.toggle("suggested", name === one.suggested && name !== one.current);
  }
  picture.dispatchEvent(new CustomEvent("shown", { bubbles: true }));
}

function fetchBeside() {
  beside?.abort();
  beside = new AbortController();
  const { signal } = beside;
  const place = byId("beside");
  const id = ids[at];
  place.classList.add("waiting");
  // Whoever decides faster than this does not look at it.
  setTimeout(async () => {
    if (signal.aborted) return;
    try {
      fillBeside(await get(`/api/beside/${id}`, { signal }));
      place.classList.remove("waiting");
    } catch (error) {
      if (error.name !== "AbortError") say(error.message, "bad");
    }
  }, 250);
}

function fillBeside(found) {
  const groups = found.groups.map((group) => {
    const name = classes.shown(group.label);
    const near = group.images.some((one) => one.similarity !== null);
    const figures = group.images.map((one) => {
      const words = one.similarity === null ? "" : ` ${one.similarity.toFixed(2)}`;
      return make("li", {}, make("img", { src: image(one.id, "small"), alt: one.path, title: one.path, loading: "lazy" }), make("small", { textContent: words }));
    });
    const empty = group.images.length ? [] : [make("p", { className: "quiet", textContent: "no training image" })];
    return make("div", {}, make("h2", { textContent: `${near ? "Nearest" : "Training images of"} ${name}` }), ...empty, make("ul", {}, ...figures));
  });
  byId("beside").replaceChildren(...groups);
  if (found.state === "absent" && !found.words) byId("beside").append(finder(fetchBeside));
  else if (found.words) byId("beside").append(make("p", { className: "quiet", textContent: found.words }));
  if (found.state === "computing") setTimeout(fetchBeside, 2000);
}

async function decide(choose) {
  const one = item();
  if (busy || !one) return;
  busy = true;
  try {
    const found = await post("/api/decide", { decisions: [{ id: one.id, seen: one.number, ...choose() }] });
    const [now] = found.items;
    items.set(now.id, now);
    if (found.stale.length) {
      fill();
      say(`Already decided: ${decisionWords(now, classes.shown) || "taken back"}. Press the key again to decide otherwise.`, "bad");
      return;
    }
    done.push({ id: one.id, back: one.number });
    decided += Number(Boolean(now.decision)) - Number(Boolean(one.decision));
    say(`saved: ${one.path}: ${decisionWords(now, classes.shown).replace(/ \(.*/s, "")}`, "good");
    await show(at + 1);
  } catch (error) {
    say(error.message, "bad");
  } finally {
    busy = false;
  }
}

async function undo() {
  const last = done.at(-1);
  if (busy) return;
  if (!last) {
    say("This page has decided nothing that could be taken back.", "bad");
    return;
  }
  busy = true;
  try {
    const one = items.get(last.id);
    const found = await post("/api/decide", { decisions: [{ id: last.id, seen: one.number, action: "undo", back: last.back }] });
    const [now] = found.items;
    items.set(now.id, now);
    done.pop();
    decided += Number(Boolean(now.decision)) - Number(Boolean(one.decision));
    say(found.stale.length ? `Not taken back, others decided since: ${decisionWords(now, classes.shown)}` : `taken back: ${now.path}`, found.stale.length ? "bad" : "good");
    await show(ids.indexOf(last.id));
  } catch (error) {
    say(error.message, "bad");
  } finally {
    busy = false;
  }
}

async function why() {
  if (!item()) return;
  const place = byId("why");
  place.hidden = !place.hidden;
  if (place.hidden) return;
  const { id } = item();
  place.replaceChildren(make("p", { className: "quiet", textContent: "Looking at the training images …" }));
  try {
    const found = await get(`/api/why/${id}`);
    if (id !== ids[at]) return;
    const parts = found.findings.flatMap((one) => [make("p", { textContent: one.words }), make("ul", {}, ...one.images.map(tile))]);
    if (found.words) parts.push(make("p", { textContent: found.words }));
    if (found.state === "absent" && !found.words) parts.push(finder(why));
    place.replaceChildren(make("h2", { textContent: "Why" }), ...parts);
    if (found.state === "computing") setTimeout(() => !place.hidden && id === ids[at] && (place.hidden = true) && why(), 2000);
    place.scrollIntoView({ block: "nearest" });
  } catch (error) {
    say(error.message, "bad");
  }
}

function tile(one) {
  const picture_ = make("img", { src: image(one.id, "small"), alt: one.path, title: one.path, loading: "lazy" });
  return make("li", {}, picture_, make("small", { textContent: one.label === undefined ? "" : classes.shown(one.label) }));
}

function finder(then) {
  const button = make("button", { type: "button", textContent: "compare with the training images" });
  button.addEventListener("click", async () => {
    try {
      await post("/api/features");
      byId("why").hidden = true;
      then();
    } catch (error) {
      say(error.message, "bad");
    }
  });
  return make("p", { className: "quiet" }, "This needs the features of the run's images, which are computed once: ", button);
}

const zoomed = byId("zoomed");

function zoom() {
  if (!item()) return;
  zoomed.querySelector("img").src = image(item().id, "whole");
  zoomed.querySelector("img").alt = item().path;
  zoomed.showModal();
}

zoomed.addEventListener("keydown", (event) => {
  if (event.key === "z") zoomed.close();
});

const move = (step) => !busy && show(at + step).catch((error) => say(error.message, "bad"));

const actions = {
  keep: () => decide(() => ({ action: "keep" })),
  suggested: () => {
    if (item()?.suggested === undefined || item()?.suggested === null) say("Nothing is suggested for this image.", "bad");
    else decide(() => actionOf(classes, item().suggested, item()));
  },
  drop: () => decide(() => ({ action: "drop" })),
  skip: () => move(1),
  undo,
  search: () => item() && classes.search(),
  why,
  zoom,
  grid: () => byId("other").click(),
  help: () => byId("help").showModal(),
};

onActions((name) => actions[name]());
onKeys((key, event) => {
  if (event.ctrlKey) return false;
  if (key === "ArrowLeft" || key === "ArrowRight") {
    move(key === "ArrowRight" ? 1 : -1);
    return true;
  }
  const action = ACTION_KEYS[key === " " ? "Enter" : key];
  const name = classes.keys.get(key);
  if (action === undefined && name === undefined) return false;
  if (!event.repeat) {
    if (action) actions[action]();
    else decide(() => actionOf(classes, name, item()));
  }
  return true;
});

byId("other").href = `/grid${query}`;
if (!classes.labelled) document.querySelector("[data-action=keep]").hidden = true;
try {
  const found = await get(`/api/list${query}`);
  ids = found.ids;
  decided = found.decided;
  await show(found.first);
} catch (error) {
  say(error.message, "bad");
}
