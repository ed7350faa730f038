// A card for each photo: its small picture, and below it the answer, or why there is none.

import * as heads from "./heads.js";
import { colourOf, makeBar, percent } from "./shares.js";

const template = document.getElementById("card");
const pictures = new Map(); // cards to the addresses of their pictures
const SPOT = { orange: [213, 94, 0], tint: 0.3, dimmed: 0.4, side: 96 }; // drawn as catdog/explain.py does; px

/** Returns a card that waits for its answer. */
export function make(name, remove) {
  const card = template.content.firstElementChild.cloneNode(true);
  card.querySelector(".name").textContent = name;
  card.querySelector(".name").title = name;
  card.querySelector(".photo-kind").textContent = (/\.([a-z0-9]{2,5})$/i.exec(name)?.[1] ?? "photo").toUpperCase();
  const button = card.querySelector(".remove");
  button.setAttribute("aria-label", `Remove ${name}`);
  button.addEventListener("click", remove);
  showWaiting(card);
  return card;
}

export function showWaiting(card) {
  card.dataset.state = "waiting";
  card.querySelector(".label").textContent = "Looking …";
  card.querySelector(".confidence").textContent = "";
  card.querySelector(".why").hidden = true;
}

/** Shows the picture; the name below it says what a description could. */
export function showPicture(card, blob) {
  if (!blob) return;
  const image = card.querySelector("img");
  image.src = URL.createObjectURL(blob);
  image.hidden = false;
  pictures.set(card, image.src);
}

export const hasPicture = (card) => pictures.has(card);

/** Returns the answer in words, [label, confidence]; the confidence is "" where the label has none. */
export function describe({ label, confidence, probabilities, objects }) {
  if (objects) return [heads.summarise(objects), objects.length === 1 ? percent(objects[0].confidence) : ""];
  return [label, label in probabilities ? percent(confidence) : ""];
}

export function showAnswer(card, row) {
  const [label, confidence] = row.error ? ["No answer", ""] : describe(row);
  card.dataset.state = row.error ? "error" : confidence || row.objects?.length ? "sure" : "unsure";
  card.querySelector(".label").textContent = label;
  card.querySelector(".confidence").textContent = confidence;
  const why = card.querySelector(".why");
  why.hidden = !row.error;
  why.textContent = row.error ?? "";
  const shares = Object.entries(row.probabilities ?? {});
  card.style.setProperty("--colour", colourOf(shares.findIndex(([name]) => name === row.label)));
  card.querySelector(".bars").replaceChildren(...shares.map(makeBar));
  if (row.objects) heads.show(card, row);
  const image = card.querySelector("img");
  const draw = () => drawHeat(card.querySelector("canvas"), row, image.naturalWidth / image.naturalHeight);
  if (row.heat && image.naturalWidth) draw();
  else if (row.heat) image.addEventListener("load", draw, { once: true });
}

export function discard(card) {
  URL.revokeObjectURL(pictures.get(card));
  pictures.delete(card);
  card.remove();
}

/** Draws what lies over a picture so that it is bright and slightly orange where the heat is, and dim elsewhere. */
function drawHeat(canvas, { heat, seen }, aspect) {
  canvas.width = Math.ceil(SPOT.side * Math.min(1, aspect));
  canvas.height = Math.ceil(SPOT.side / Math.max(1, aspect));
  const small = document.createElement("canvas");
  small.width = heat[0].length;
  small.height = heat.length;
  const colours = heat.flat().flatMap((value) => {
    const tint = SPOT.tint * value;
    const cover = tint + (1 - SPOT.dimmed) * (1 - value);
    return [...SPOT.orange.map((level) => (level * tint) / cover), 255 * cover];
  });
  small.getContext("2d").putImageData(new ImageData(Uint8ClampedArray.from(colours), small.width), 0, 0);
  const context = canvas.getContext("2d");
  const kept = findKeptBox(canvas, seen);
  context.fillStyle = `rgb(0 0 0 / ${1 - SPOT.dimmed})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(...kept);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, ...kept);
}

/** Returns the part of a picture that the model saw: left, top, width and height. */
function findKeptBox({ width, height }, { resize, crop } = { resize: "stretch", crop: 1 }) {
  const sides = resize === "stretch" ? [width, height] : Array(2).fill(Math.min(width, height));
  const [keptWidth, keptHeight] = sides.map((side) => Math.round(side * crop));
  return [Math.round((width - keptWidth) / 2), Math.round((height - keptHeight) / 2), keptWidth, keptHeight];
}
