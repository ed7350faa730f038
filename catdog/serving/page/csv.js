// Rows to CSV with the columns of `catdog predict` or `catdog detect --format csv`, and when each was answered.

const CORNERS = ["xmin", "ymin", "xmax", "ymax"];

/** Returns the text of a CSV file: a line a photo, or where a detector answered a line a head. */
export function write(rows) {
  const classes = [...new Set(rows.flatMap((row) => Object.keys(row.probabilities ?? {})))];
  const findsHeads = rows.some((row) => row.objects !== undefined);
  const size = findsHeads ? ["width", "height"] : [];
  const corners = findsHeads ? CORNERS : [];
  const lines = [["source", ...size, "label", "confidence", ...classes, ...corners, "error", "answered"]];
  for (const row of rows) {
    for (const { label, confidence, box } of row.objects?.length ? row.objects : [row]) {
      const shares = classes.map((name) => row.probabilities?.[name]);
      const places = corners.map((_, i) => box?.[i]);
      const time = new Date(row.time).toISOString();
      lines.push([row.name, ...size.map((side) => row[side]), label, confidence, ...shares, ...places, row.error, time]);
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
