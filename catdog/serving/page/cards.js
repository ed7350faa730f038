// A card for each photo: its small picture, and below it the answer, or why there is none.

const template = document.getElementById("card");
const pictures = new Map(); // cards to the addresses of their pictures

export const percent = (share) => {
  const value = 100 * share;
  if (value > 99.9 || value < 0.1) return value > 50 ? ">\u00a099.9%" : "<\u00a00.1%"; // a model is never certain
  return `${value.toFixed(value > 99 || value < 1 ? 1 : 0)}%`;
};

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

export function showAnswer(card, row) {
  card.dataset.state = row.error ? "error" : row.label in row.probabilities ? "sure" : "unsure";
  card.querySelector(".label").textContent = row.error ? "No answer" : row.label;
  card.querySelector(".confidence").textContent = card.dataset.state === "sure" ? percent(row.confidence) : "";
  const why = card.querySelector(".why");
  why.hidden = !row.error;
  why.textContent = row.error ?? "";
  const shares = Object.entries(row.probabilities ?? {});
  card.style.setProperty("--colour", colourOf(shares.findIndex(([name]) => name === row.label)));
  card.querySelector(".bars").replaceChildren(...shares.map(makeBar));
}

export function discard(card) {
  URL.revokeObjectURL(pictures.get(card));
  pictures.delete(card);
  card.remove();
}

function makeBar([name, share], index) {
  const row = document.createElement("div");
  row.className = "share";
  row.style.setProperty("--share", share);
  row.style.setProperty("--colour", colourOf(index));
  const term = document.createElement("dt");
  const value = document.createElement("dd");
  term.textContent = name;
  value.textContent = percent(share);
  row.append(term, value);
  return row;
}

function colourOf(index) {
  return index < 0 ? "var(--muted)" : `var(--class-${index % 5})`;
}
