// Answers on this device: a worker decodes photos and runs the model. Nothing is sent anywhere.

export const AT_ONCE = 2; // one is decoded while the worker still has another
export const NOTE = "Add a photo, and a small neural network says which one it shows, right here on your device.";
export const PRIVACY = "Photos never leave this device. Once the page has been opened, it works without a network.";

/** The model could not be fetched; the photo is all right and may be tried again. */
export class Unreachable extends Error {}

let worker = null;
let lastId = 0;
const waiting = new Map();

function start() {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", ({ data }) => settle(data));
  worker.addEventListener("error", () => giveUp());
}

function settle({ id, row, unreachable }) {
  const asked = waiting.get(id);
  waiting.delete(id);
  if (unreachable) {
    asked?.reject(new Unreachable(unreachable));
    giveUp(); // so that the next try begins anew
  } else {
    asked?.resolve(row);
  }
}

function giveUp() {
  worker?.terminate();
  worker = null;
  for (const { reject } of waiting.values()) reject(new Unreachable("The model can't be loaded."));
  waiting.clear();
}

/** Returns the answer to one photo: {label, confidence, probabilities, error}, a detector's {width, height, objects, error},
 * or {error} alone. */
export function answer(file, signal) {
  if (!worker) start();
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    signal.addEventListener("abort", () => { waiting.delete(id); reject(signal.reason); }, { once: true });
    worker.postMessage({ id, file });
  });
}

navigator.serviceWorker?.register(new URL("sw.js", import.meta.url));
