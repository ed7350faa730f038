// A detector's answer on a card: a box around each head in the photo, and the same in words.

import { colourOf, percent } from "./shares.js";

const CLASSES = ["cat", "dog"]; // in the order of their colours, which are those of catdog/drawing.py
const TAG = 0.1; // of the picture's height: what stands over a box needs about as much
const ROWS = ["upper", "middle", "lower"];
const COLUMNS = ["left", "middle", "right"];

export const NO_PET = "no pet"; // as catdog detect says it

/** Returns the labels, each once, in the order of their surest heads. */
export const listLabels = (objects) => (objects.length ? [...new Set(objects.map((head) => head.label))] : [NO_PET]);

/** Returns what the heads are in a few words, "cat" or "2 cats, 1 dog". */
export function summarise(objects) {
  const labels = listLabels(objects);
  if (objects.length < 2) return labels[0];
  const counts = labels.map((label) => objects.filter((head) => head.label === label).length);
  return labels.map((label, i) => `${counts[i]} ${label}${counts[i] > 1 ? "s" : ""}`).join(", ");
}

/** Draws the heads of an answer {width, height, objects} over the card's picture, and lists them below it. */
export function show(card, { width, height, objects }) {
  card.classList.toggle("has-heads", objects.length > 0);
  card.style.setProperty("--aspect", width / height);
  const labels = listLabels(objects);
  card.style.setProperty("--colour", labels.length === 1 ? findColour(labels[0]) : "var(--ink)");
  const boxes = objects.map((head) => makeBox(head, width, height));
  card.querySelector(".boxes").replaceChildren(...boxes.reverse()); // so that the surest lies on top
  const list = card.querySelector(".heads");
  list.replaceChildren(...objects.map((head) => makeLine(head, width, height)));
  list.classList.toggle("hidden", objects.length === 1); // for the eye the words above say it already
}

function makeBox({ label, confidence, box: [xmin, ymin, xmax, ymax] }, width, height) {
  const box = document.createElement("div");
  const tag = document.createElement("span");
  box.className = "box";
  box.classList.toggle("at-top", ymin < TAG * height); // no room over it
  box.classList.toggle("at-right", xmin + xmax > width); // where its tag grows to the left
  box.style.left = `${(100 * xmin) / width}%`;
  box.style.top = `${(100 * ymin) / height}%`;
  box.style.width = `${(100 * (xmax - xmin)) / width}%`;
  box.style.height = `${(100 * (ymax - ymin)) / height}%`;
  box.style.setProperty("--colour", findColour(label));
  tag.textContent = `${label} ${percent(confidence)}`;
  box.append(tag);
  return box;
}

/** Returns "cat 97%", and for who doesn't see the box where in the photo it is. */
function makeLine({ label, confidence, box: [xmin, ymin, xmax, ymax] }, width, height) {
  const line = document.createElement("li");
  const place = document.createElement("span");
  const row = ROWS[Math.min(2, Math.floor((1.5 * (ymin + ymax)) / height))];
  const column = COLUMNS[Math.min(2, Math.floor((1.5 * (xmin + xmax)) / width))];
  line.style.setProperty("--colour", findColour(label));
  place.className = "hidden";
  place.textContent = `, ${row === column ? row : `${row} ${column}`}`;
  line.append(`${label} ${percent(confidence)}`, place);
  return line;
}

const findColour = (label) => colourOf(CLASSES.indexOf(label));
