// Asks the server that this page came from. On a page without a server another file of this name stands here.

const AGAIN = 6; // tries while the server is busy, starting or ending
const LARGEST = 256 * 2 ** 20; // bytes; a larger file is no photo, and the server would refuse less

export const AT_ONCE = 4; // requests
export const NOTE = "Add a photo, and a small neural network says which one it shows.";
export const PRIVACY = "Photos go to the server that this page came from, which keeps none of them.";

/** The server can't be reached; the photo is all right and may be sent again. */
export class Unreachable extends Error {}

const CANT_EXPLAIN = "explain: this server's model can't"; // how its message begins, catdog/serving/endpoint.py

let query = "?explain=1"; // until the server says that its model can't

/** Returns the answer to one photo: {label, confidence, probabilities, error, heat?, seen?}, a detector's {width, height,
 * objects, error}, or {error} alone. */
export async function answer(file, signal) {
  if (file.size > LARGEST) return failure("It is too large to be a photo.");
  for (let attempt = 1; ; attempt++) {
    const form = new FormData();
    form.append("images", file, file.name || "photo");
    const asked = query;
    let response;
    try {
      response = await fetch(`predict${asked}`, { method: "POST", body: form, headers: { Accept: "application/json" }, signal });
    } catch (error) {
      if (signal.aborted) throw error;
      throw new Unreachable("The server can't be reached.");
    }
    const given = await response.json().catch(() => ({}));
    if (response.ok && !given[0]) throw new Unreachable("The answer broke off.");
    if (response.ok) return given[0].error ? failure(given[0].error, given[0].source) : given[0];
    if (response.status === 400 && asked && given.error?.startsWith(CANT_EXPLAIN)) {
      query = "";
      continue;
    }
    const isBusy = response.status === 429 || (response.status === 503 && response.headers.has("Retry-After"));
    if (!isBusy || attempt === AGAIN) return failure(given.error ?? `The server answered ${response.status}.`, file.name);
    await pause(1000 * (Number(response.headers.get("Retry-After")) || 1) * (0.75 + Math.random() / 2), signal);
  }
}

function failure(message, name) {
  const start = `${name}: `; // which the card says already
  const text = message.startsWith(start) ? message.slice(start.length) : message;
  return { error: text.charAt(0).toUpperCase() + text.slice(1) };
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
