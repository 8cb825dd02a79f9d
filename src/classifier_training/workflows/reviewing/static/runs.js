// The list of runs: its filter, and the choice of runs to compare, which outlives a change of the table.
const form = document.getElementById("filter");
const button = document.getElementById("compare");
const words = document.getElementById("chosen");
const rows = document.getElementById("rows");
const chosen = new Set();
const most = 8;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  location.search = new URLSearchParams(new FormData(form));
});
for (const select of form.querySelectorAll("select")) select.addEventListener("change", () => form.requestSubmit());

const tell = () => {
  button.disabled = chosen.size < 2 || chosen.size > most;
  words.textContent = chosen.size ? `${chosen.size} chosen${chosen.size > most ? `; ${most} at most` : chosen.size < 2 ? "; one more" : ""}` : `Choose from 2 to ${most} runs.`;
};
const mark = () => {
  for (const box of rows.querySelectorAll("input[name=run]")) box.checked = chosen.has(box.value);
};

rows.addEventListener("change", (event) => {
  if (event.target.name !== "run") return;
  if (event.target.checked) chosen.add(event.target.value);
  else chosen.delete(event.target.value);
  tell();
});
rows.addEventListener("replaced", mark);
button.addEventListener("click", () => {
  location.href = `/runs/compare?${new URLSearchParams([...chosen].map((run) => ["run", run]))}`;
});
// After the way back from a comparison, browsers keep what was checked.
for (const box of rows.querySelectorAll("input[name=run]:checked")) chosen.add(box.value);
tell();
