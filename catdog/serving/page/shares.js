// How shares and classes look, wherever they stand.

export const percent = (share) => {
  const value = 100 * share;
  if (value > 99.9 || value < 0.1) return value > 50 ? ">\u00a099.9%" : "<\u00a00.1%"; // a model is never certain
  return `${value.toFixed(value > 99 || value < 1 ? 1 : 0)}%`;
};

/** Returns a class's colour by its number. */
export function colourOf(index) {
  return index < 0 ? "var(--muted)" : `var(--class-${index % 5})`;
}

export function makeBar([name, share], index) {
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
