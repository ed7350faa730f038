// Where photos come from: files that are dropped, also in folders, pasted, chosen or just taken; and small pictures of them.

const THUMB = { width: 480, height: 360, most: 1440 }; // px; cards are at most half as large on ordinary screens
const JUNK = /^(\.|Thumbs\.db$|desktop\.ini$)/i;

/** Calls `take` with files whenever some are added; `highlight` with whether some are dragged over the page. */
export function listen({ choose, camera, files, shot, take, highlight }) {
  choose.addEventListener("click", () => files.click());
  camera.addEventListener("click", () => shot.click());
  for (const input of [files, shot]) {
    input.addEventListener("change", () => {
      take([...input.files]);
      input.value = ""; // so that the same photo can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length) take(pasted);
  });
  let depth = 0; // entering a child comes before leaving its parent
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const over = (change) => (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = Math.max(0, depth + change);
    highlight(depth > 0);
  };
  document.addEventListener("dragenter", over(1));
  document.addEventListener("dragover", over(0));
  document.addEventListener("dragleave", over(-1));
  document.addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    highlight(false);
    take(await unfold(event.dataTransfer));
  });
}

/** Returns the files of a drop, those in folders too. */
async function unfold(transfer) {
  const plain = [...transfer.files];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return plain;
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (JUNK.test(entry.name)) return;
  if (entry.isFile) {
    found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // about 100 at a time
    if (!some.length) return;
    for (const child of some) await walk(child, found);
  }
}

let before = Promise.resolve();

/** Returns a small JPEG of a photo, null where the browser can't show it (HEIC and TIFF, mostly). */
export function makeThumb(file) {
  before = before.then(() => draw(file)); // one after the other: hundreds of open photos would take gigabytes
  return before;
}

async function draw(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const cover = Math.max(THUMB.width / bitmap.width, THUMB.height / bitmap.height);
    const scale = Math.min(1, cover, THUMB.most / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.82));
  } catch {
    return null;
  }
}
