// What the pages share: requests, the keys of the classes, the search for a class, and words for a decision.

const csrf = document.querySelector("meta[name=csrf]").content;

export async function get(path, options = {}) {
  return answer(await reach(path, { headers: { accept: "application/json" }, ...options }));
}

export async function post(path, body = {}) {
  const headers = { "content-type": "application/json", "x-csrf-token": csrf };
  return answer(await reach(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: start it again. Whatever was shown as saved is on the disk.");
  }
}

async function answer(response) {
  if (response.ok) return response.json();
  const words = (await response.text()).trim();
  throw new Error(response.status === 403 ? `${words} (the server may have been started again)` : words);
}

export const byId = (name) => document.getElementById(name);

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const image = (id, size) => `/image/${id}/${size}`;

export function actionOf(classes, label, item) {
  // The label that the data has needs no other: to choose it is to say that it is right.
  return label === item.label && classes.labelled ? { action: "keep" } : { action: "relabel", new: label };
}

export function decisionWords(item, shown) {
  const found = item.decision;
  if (!found) return "";
  const what = { keep: "right", drop: "dropped", relabel: `now ${shown(found.new)}`, move: `moved to ${found.new}` };
  const when = found.when ? `, ${new Date(found.when).toLocaleString()}` : "";
  return `${what[found.action]} (${found.who || "somebody"}${when})`;
}

// The classes with their keys: buttons, lookup by key, and a search for those without.
export class Classes {
  constructor(element, choose) {
    this.all = JSON.parse(element.dataset.classes);
    this.labelled = element.dataset.labelled === "true";
    this.names = new Map(this.all.map((one) => [one.name, one.shown]));
    this.keys = new Map(this.all.filter((one) => one.key).map((one) => [one.key, one.name]));
    this.choose = choose;
    this.shown = (name) => this.names.get(name) ?? name;
    const place = byId("classes");
    this.buttons = new Map();
    for (const one of this.all.filter((each) => each.key)) {
      const button = make("button", { type: "button", title: one.shown }, make("kbd", { textContent: one.key }), " ", one.shown);
      button.addEventListener("click", () => choose(one.name));
      this.buttons.set(one.name, button);
      place.append(button);
    }
    if (this.all.length > this.keys.size) {
      place.append(make("p", { className: "quiet", textContent: `and ${this.all.length - this.keys.size} more by /` }));
    }
    this.dialog = byId("search");
    this.text = byId("search-text");
    this.list = byId("search-list");
    this.text.addEventListener("input", () => this.fill());
    this.text.addEventListener("keydown", (event) => this.typed(event));
  }

  search() {
    this.text.value = "";
    this.fill();
    this.dialog.showModal();
  }

  fill() {
    const wanted = this.text.value.trim().toLowerCase();
    const score = (one) => (one.shown.toLowerCase().startsWith(wanted) ? 0 : 1);
    const found = this.all.filter((one) => one.shown.toLowerCase().includes(wanted)).sort((a, b) => score(a) - score(b));
    const options = found.slice(0, 12).map((one) => ({ name: one.name, words: one.shown }));
    const typed = this.text.value.trim();
    if (typed && !this.names.has(typed)) options.push({ name: typed, words: `new class: ${typed}` });
    this.list.replaceChildren(
      ...options.map((one, at) => {
        const entry = make("li", { id: `option-${at}`, textContent: one.words });
        entry.setAttribute("role", "option");
        entry.dataset.name = one.name;
        entry.addEventListener("click", () => this.pick(entry));
        return entry;
      }),
    );
    this.select(0);
  }

  select(at) {
    const entries = [...this.list.children];
    if (!entries.length) return;
    this.at = (at + entries.length) % entries.length;
    entries.forEach((entry, number) => entry.setAttribute("aria-selected", String(number === this.at)));
    entries[this.at].scrollIntoView({ block: "nearest" });
    this.text.setAttribute("aria-activedescendant", entries[this.at].id);
  }

  typed(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) this.select(this.at + step);
    else if (event.key === "Enter" && this.list.children.length) this.pick(this.list.children[this.at]);
    else return;
    event.preventDefault();
  }

  pick(entry) {
    this.dialog.close();
    this.choose(entry.dataset.name);
  }
}

// Calls a function for each key that is meant for the page, not for what has the focus.
export function onKeys(handle) {
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey || event.isComposing || document.querySelector("dialog[open]")) return;
    const target = event.target;
    if (target.matches("input, select, textarea")) return;
    if (["Enter", " "].includes(event.key) && target.closest("button, a, summary")) return;
    // Digits in the upper row, also where a keyboard has other characters there.
    const digit = /^Digit([1-9])$/.exec(event.code);
    const key = digit && !event.ctrlKey ? digit[1] : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (handle(key, event)) event.preventDefault();
  });
}

export function onActions(handle) {
  for (const button of document.querySelectorAll("[data-action]")) {
    button.addEventListener("click", () => {
      button.blur();
      handle(button.dataset.action);
    });
  }
}

export const ACTION_KEYS = {
  Enter: "keep", a: "suggested", d: "drop", s: "skip", u: "undo", "/": "search", e: "why", z: "zoom", g: "grid", "?": "help",
};

export function showProgress(decided, number) {
  byId("progress").max = Math.max(number, 1);
  byId("progress").value = decided;
  byId("count").textContent = `${decided.toLocaleString()} of ${number.toLocaleString()} looked at`;
}
