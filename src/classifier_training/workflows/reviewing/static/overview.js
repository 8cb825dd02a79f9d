// The first page: starts a training with the corrections and shows how far it is.

import { byId, get, make, post } from "./common.js";

const buttons = document.querySelectorAll("[data-retrain]");
const STATES = { ready: "", running: "training", done: "done", failed: "failed: see the log" };

function show(found) {
  byId("retrain-state").textContent = STATES[found.state];
  for (const button of buttons) button.disabled = found.state === "running";
  byId("retrain-log").hidden = !found.log;
  const log = byId("retrain-log").querySelector("code");
  const isNew = log.textContent !== (found.log ?? "");
  log.textContent = found.log ?? "";
  if (isNew) log.parentElement.scrollTop = log.parentElement.scrollHeight;
  if (found.state === "failed") byId("retrain-log").open = true;
  if (found.metrics) {
    const rows = found.metrics.map((one) => {
      const change = one.after - one.before;
      const signed = (value) => `${value < 0 ? "" : "+"}${value.toFixed(4)}`;
      const known = one.difference && one.difference.low !== null && one.difference.low !== undefined;
      const interval = known ? ` [${signed(one.difference.low)}, ${signed(one.difference.high)}]` : "";
      const cells = [one.before.toFixed(4), one.after.toFixed(4), `${signed(change)}${interval}`];
      return make("tr", {}, make("th", { scope: "row", textContent: one.name }), ...cells.map((text) => make("td", { className: "number", textContent: text })));
    });
    const heads = ["metric", "before", "after", "change"].map((text) => make("th", { scope: "col", textContent: text }));
    byId("retrain-result").replaceChildren(
      make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)),
      ...found.words.map((words) => make("p", { textContent: words })),
      make("p", { className: "quiet", textContent: `run: ${found.run}` }),
    );
  }
  if (found.state === "running") setTimeout(follow, 1000);
}

async function follow() {
  try {
    show(await get("/api/retrain"));
  } catch (error) {
    byId("retrain-state").textContent = error.message;
  }
}

for (const button of buttons) {
  button.addEventListener("click", async () => {
    for (const one of buttons) one.disabled = true;
    byId("retrain-result").replaceChildren();
    try {
      show(await post(`/api/retrain/${button.dataset.retrain}`));
    } catch (error) {
      byId("retrain-state").textContent = error.message;
      for (const one of buttons) one.disabled = false;
    }
  });
}
if (buttons.length) follow();
