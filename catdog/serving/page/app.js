// The page: photos in, cards out. Photos come from photos.js, answers from answer.js, and history.js keeps them.

import { answer, AT_ONCE, NOTE, PRIVACY, Unreachable } from "./answer.js";
import * as cards from "./cards.js";
import * as csv from "./csv.js";
import { listLabels, NO_PET } from "./heads.js";
import * as history from "./history.js";
import { listen, makeThumb } from "./photos.js";

const at = (id) => document.getElementById(id);
const rows = new Map(); // by id, the newest has the largest: {id, time, name, card, file, thumb}, then also the answer
const queue = []; // ids of photos that wait
let working = 0;
let done = 0; // of those since the queue was last empty
let cut = ""; // why nothing can be answered now
let stopping = new AbortController();
let only = null; // the label that is shown alone
let lastId = Date.now();

at("note").textContent = NOTE;
at("privacy").textContent = PRIVACY;

function add(files) {
  if (!files.length) return;
  lastId += files.length;
  const fresh = files.map((file, index) => {
    const row = { id: lastId - index, time: Date.now(), name: file.name || "pasted photo", file };
    row.card = cards.make(row.name, () => remove(row.id));
    row.thumb = makeThumb(file);
    row.thumb.then((blob) => rows.has(row.id) && cards.showPicture(row.card, blob));
    rows.set(row.id, row);
    queue.push(row.id);
    return row;
  });
  at("now").prepend(...fresh.map((row) => row.card));
  only = null;
  update();
  work();
}

async function work() {
  while (working < AT_ONCE && queue.length && !cut) {
    const row = rows.get(queue.shift());
    if (!row) continue;
    working++;
    settle(row, stopping.signal).finally(() => {
      working--;
      update();
      work();
    });
  }
}

/** Gets the answer to a photo, shows it and keeps it. */
async function settle(row, signal) {
  cards.showWaiting(row.card);
  let result;
  try {
    result = await answer(row.file, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Unreachable) {
      cut = error.message;
      queue.unshift(row.id);
      return;
    }
    throw error;
  }
  if (!rows.has(row.id)) return;
  Object.assign(row, result, { time: Date.now(), file: null });
  done++;
  cards.showAnswer(row.card, row);
  tell(row);
  const { card, file, ...kept } = row;
  const thumb = await row.thumb;
  if (rows.has(row.id)) history.keep({ ...kept, thumb });
}

/** Lets a screen reader say the answer, of many photos only that all are answered. */
function tell(row) {
  const left = queue.length + working - 1;
  if (done + left <= 3) say(`${row.name}: ${row.error ?? cards.describe(row).filter(Boolean).join(", ")}`);
  else if (!left) say(`All ${done} photos are answered.`);
}

function remove(id) {
  const { card } = rows.get(id);
  const next = card.nextElementSibling ?? card.previousElementSibling;
  rows.delete(id);
  cards.discard(card);
  history.forget(id);
  update();
  (next?.querySelector(".remove") ?? at("choose")).focus();
}

function clear() {
  if (rows.size > 1 && !confirm(`Remove all ${rows.size} answers from this browser?`)) return;
  stop();
  for (const row of rows.values()) cards.discard(row.card);
  rows.clear();
  history.clear();
  only = null;
  update();
  at("choose").focus();
}

/** Gives up what is not answered yet. */
function stop() {
  stopping.abort();
  stopping = new AbortController();
  queue.length = 0;
  cut = "";
  for (const [id, row] of rows) {
    if (row.file && !isAnswered(row)) {
      rows.delete(id);
      cards.discard(row.card);
    }
  }
  update();
}

function tryAgain() {
  cut = "";
  update();
  work();
}

/** Brings everything around the cards up to date. */
function update() {
  const open = queue.length + working;
  if (!open) done = 0;
  at("progress").hidden = !open || cut || open + done < 2;
  at("progress-text").textContent = `${done} of ${open + done} answered`;
  at("progress-bar").max = Math.max(1, open + done);
  at("progress-bar").value = done;
  at("banner").hidden = !cut;
  if (cut) {
    const photos = queue.length === 1 ? "1 photo waits" : `${queue.length} photos wait`;
    const text = `${cut} ${photos} here and can be tried again.`;
    if (at("banner-text").textContent !== text) say(text);
    at("banner-text").textContent = text;
  } else {
    at("banner-text").textContent = "";
  }
  at("results").hidden = !rows.size;
  at("heat").hidden = ![...rows.values()].some((row) => row.heat && cards.hasPicture(row.card));
  document.body.classList.toggle("has-answers", rows.size > 0);
  at("earlier-part").hidden = !at("earlier").childElementCount;
  filter();
}

/** Writes a button for each label with its number of photos, and shows the cards of the one that is pressed. */
function filter() {
  const counts = new Map();
  const nameAll = (row) => (row.error ? ["no answer"] : row.objects ? listLabels(row.objects) : [row.label]);
  const answered = [...rows.values()].filter(isAnswered);
  for (const label of answered.flatMap(nameAll)) counts.set(label, (counts.get(label) ?? 0) + 1);
  if (!counts.has(only)) only = null;
  for (const row of rows.values()) row.card.hidden = only !== null && !(isAnswered(row) && nameAll(row).includes(only));
  const order = [[null, answered.length], ...[...counts].sort(([a], [b]) => rank(a) - rank(b) || a.localeCompare(b))];
  const focused = at("filters").contains(document.activeElement) ? document.activeElement.dataset.label : undefined;
  at("filters").replaceChildren(
    ...(counts.size < 2 ? [] : order).map(([label, count]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "chip";
      button.dataset.label = label ?? "";
      button.textContent = `${label ?? "All"} ${count}`;
      button.setAttribute("aria-pressed", String(label === only));
      button.addEventListener("click", () => { only = label; filter(); });
      return button;
    }),
  );
  if (focused !== undefined) at("filters").querySelector(`[data-label="${CSS.escape(focused)}"]`)?.focus();
}

const isAnswered = (row) => row.error !== undefined; // null where all is well

const rank = (label) => ({ neither: 1, [NO_PET]: 1, unsure: 2, "no answer": 3 })[label] ?? 0;

/** Turns the spotlights on or off, and remembers it where the browser lets it. */
function showHeat(on) {
  document.body.classList.toggle("shows-heat", on);
  at("heat").setAttribute("aria-pressed", String(on));
  try { localStorage.setItem("heat", String(on)); } catch { /* cookies are blocked */ }
}

function wantsHeat() {
  try { return localStorage.getItem("heat") === "true"; } catch { return false; }
}

function say(text) {
  at("status").textContent = text;
}

listen({
  choose: at("choose"), camera: at("camera"), files: at("files"), shot: at("shot"), take: add,
  highlight: (isOver) => at("drop").classList.toggle("over", isOver),
});
at("again").addEventListener("click", tryAgain);
at("stop").addEventListener("click", stop);
at("clear").addEventListener("click", clear);
at("heat").addEventListener("click", () => showHeat(at("heat").getAttribute("aria-pressed") !== "true"));
showHeat(wantsHeat());
at("csv").addEventListener("click", () => {
  const answered = [...rows.values()].filter(isAnswered).sort((a, b) => b.id - a.id);
  csv.download(csv.write(answered), "catdog.csv");
});
window.addEventListener("online", () => cut && tryAgain());

for (const kept of (await history.load()).reverse()) {
  const row = { ...kept, card: cards.make(kept.name, () => remove(kept.id)) };
  cards.showPicture(row.card, kept.thumb);
  cards.showAnswer(row.card, row);
  rows.set(row.id, row);
  at("earlier").prepend(row.card);
}
update();
