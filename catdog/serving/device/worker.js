// Decodes photos and runs the model, away from the page's own thread.

import * as ort from "./ort.js";
import { decide } from "./decide.js";
import { findObjects } from "./detect.js";
import { loadSizedPixels } from "./pixels.js";

ort.env.wasm.numThreads = 1; // more need headers that many hosts don't send, and hang on iOS
ort.env.wasm.wasmPaths = { wasm: new URL("ort.wasm", import.meta.url).href };

const loading = load();
loading.catch(() => {}); // each photo asks for it

async function load() {
  const contract = await (await get("contract.json")).json();
  const model = await (await get("model.onnx")).arrayBuffer();
  // "wasm" alone: WebGPU answers int8 models wrongly, WebGL can't run them.
  const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  return { contract, session };
}

async function get(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return response;
}

async function answer(file) {
  const { contract, session } = await loading;
  let pixels, photo;
  try {
    ({ pixels, photo } = await loadSizedPixels(file, contract));
  } catch {
    return failure("This browser can't read it as a photo. JPEG, PNG and WebP always work.");
  }
  const size = contract.input_size;
  const image = new ort.Tensor("uint8", pixels, [1, size, size, 3]);
  if (contract.task === "detect") {
    const { boxes, scores } = await session.run({ image }, ["boxes", "scores"]);
    return findObjects(boxes.data, scores.data, photo, contract);
  }
  const { probabilities } = await session.run({ image }, ["probabilities"]);
  return decide(Array.from(probabilities.data), contract);
}

function failure(error) {
  return { error };
}

self.addEventListener("message", async ({ data: { id, file } }) => {
  try {
    await loading;
  } catch {
    self.postMessage({ id, unreachable: "The model can't be loaded." });
    return;
  }
  let row;
  try {
    row = await answer(file);
  } catch (error) {
    row = failure(`The model failed (${error.message}).`); // out of memory, say
  }
  self.postMessage({ id, row });
});
