// Sends each image that is chosen, dropped or pasted to /classify, and shows its answer.

const drop = document.querySelector("#drop");
const input = document.querySelector("#file");
const answers = document.querySelector("#answers");

const REASONS = { low_confidence: "rejected: low confidence", unlike_training: "rejected: unlike the training data" };

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function share({ label, probability }) {
  const row = element("div", undefined, "share");
  const meter = element("meter");
  meter.value = probability;
  meter.title = `${label}: ${probability}`;
  row.append(element("span", label || "(empty)"), meter, element("span", `${(100 * probability).toFixed(1)} %`));
  return row;
}

async function classify(file) {
  const place = element("div", undefined, "answer");
  const image = element("img");
  image.alt = file.name;
  image.src = URL.createObjectURL(file);
  image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
  const words = element("div");
  words.append(element("h2", "…"), element("p", file.name));
  place.append(image, words);
  answers.prepend(place);
  try {
    const response = await fetch(`/classify?path=${encodeURIComponent(file.name)}`, {
      method: "POST", body: file, headers: { "content-type": "application/octet-stream" },
    });
    const row = await response.json();
    if (!response.ok) throw new Error(row.error);
    words.replaceChildren(element("h2", row.label || "(empty)"), ...row.top_k.map(share), element("p", file.name));
    if (row.rejected) words.append(element("p", REASONS[row.reject_reason] ?? "rejected", "note"));
  } catch (error) {
    words.replaceChildren(element("h2", "no answer"), element("p", error.message, "note"), element("p", file.name));
  }
}

async function send(files) {
  // One after the other: a folder of images must not fill the server's queue.
  for (const file of files) await classify(file);
}

input.addEventListener("change", () => { send([...input.files]); input.value = ""; });
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") send([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => send([...event.clipboardData.files]));
