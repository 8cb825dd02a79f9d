// Keeps the parts of a page as they are on the server: asks again after 2 s when something changed, and ever less often
// while nothing does; never while the tab is hidden, and no more once a run has come to its end.
const root = document.querySelector("[data-live]");
const csrf = document.querySelector("meta[name=csrf]").content;
const [first, most] = "slow" in root.dataset ? [10, 60] : [2, 30];
let tag = `"${root.dataset.tag}"`;
let seconds = first;
let timer = 0;
let over = "over" in root.dataset;

const trouble = (words) => {
  document.getElementById("trouble").textContent = words;
};

// The same thing in the new content, to give it the focus that its old self had.
const again = (part, element) => {
  const alike = (other) => other.tagName === element.tagName && ["href", "value", "name"].every((name) => other.getAttribute(name) === element.getAttribute(name));
  return [...part.querySelectorAll("a, button, input, select, [tabindex]")].find(alike) ?? part.querySelector("a, button");
};

const replace = (part, html) => {
  const focused = part.contains(document.activeElement) && part !== document.activeElement ? document.activeElement : null;
  const atEnd = part.scrollHeight - part.scrollTop - part.clientHeight < 8;
  part.innerHTML = html;
  if (atEnd) part.scrollTop = part.scrollHeight;
  if (focused) again(part, focused)?.focus();
  part.dispatchEvent(new CustomEvent("replaced", { bubbles: true }));
};

const shown = new Map();
const show = (found) => {
  for (const [id, html] of Object.entries(found.parts)) {
    if (shown.get(id) === html) continue;
    shown.set(id, html);
    replace(document.getElementById(id), html);
  }
  if (found.said && document.getElementById("said").textContent !== found.said) document.getElementById("said").textContent = found.said;
  if (found.title) document.title = found.title;
  over = Boolean(found.over);
};

const look = async () => {
  clearTimeout(timer);
  try {
    const response = await fetch(root.dataset.live, { headers: { "if-none-match": tag } });
    if (response.status === 200) {
      tag = response.headers.get("etag");
      show(await response.json());
      seconds = first;
    } else if (response.status === 304) {
      seconds = Math.min(most, seconds * 1.5);
    } else {
      trouble(response.status === 403 ? "The server was started again: open the address that it printed." : await response.text());
      over = true;
      return;
    }
    trouble("");
  } catch {
    trouble("The server does not answer; this page shows what it was told last.");
    seconds = Math.min(most, seconds * 2);
  }
  if (!over && !document.hidden) timer = setTimeout(look, seconds * 1000);
};

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && !over) look();
});

root.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-stop]");
  if (!button) return;
  button.disabled = true;
  try {
    const response = await fetch(`${location.pathname}/stop`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-csrf-token": csrf },
      body: JSON.stringify({ stop: button.dataset.stop === "true" }),
    });
    await look();
    if (!response.ok) trouble(await response.text());
  } catch {
    trouble("The server does not answer: nothing was changed.");
  }
  button.disabled = false;
});

const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
if (!over) timer = setTimeout(look, seconds * 1000);
