// Rows to CSV with the columns of `catdog predict` or `catdog detect --format csv`, and when each was answered.

const PLACES = ["head", "xmin", "ymin", "xmax", "ymax"];

/** Returns the text of a CSV file: a line a photo, or where a detector answered a line a head. */
export function write(rows) {
  const classes = [...new Set(rows.flatMap((row) => Object.keys(row.probabilities ?? {})))];
  const findsHeads = rows.some((row) => row.objects !== undefined);
  const size = findsHeads ? ["width", "height"] : [];
  const places = findsHeads ? PLACES : [];
  const lines = [["source", ...size, "label", "confidence", ...classes, ...places, "error", "answered"]];
  for (const row of rows) {
    for (const [i, { label, confidence, box }] of (row.objects?.length ? row.objects : [row]).entries()) {
      const shares = classes.map((name) => row.probabilities?.[name]);
      const place = box ? [i + 1, ...box] : places.map(() => undefined);
      const time = new Date(row.time).toISOString();
      lines.push([row.name, ...size.map((side) => row[side]), label, confidence, ...shares, ...place, row.error, time]);
    }
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
