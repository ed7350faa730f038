// Rows to CSV with the columns of `catdog predict --format csv`, and when each was answered.

/** Returns the text of a CSV file. */
export function write(rows) {
  const classes = [...new Set(rows.flatMap((row) => Object.keys(row.probabilities ?? {})))];
  const lines = [["source", "label", "confidence", ...classes, "error", "answered"]];
  for (const row of rows) {
    const shares = classes.map((name) => row.probabilities?.[name]);
    lines.push([row.name, row.label, row.confidence, ...shares, row.error, new Date(row.time).toISOString()]);
  }
  return lines.map((line) => line.map(quote).join(",") + "\n").join("");
}

function quote(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // a spreadsheet would run it
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Offers the text as a file. */
export function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
