// A detector's outputs to the heads in a photo: what catdog/detection/decoding.py does, where the numbers are explained.

import { findKeptBox, roundEven } from "./pixels.js";

const FLOOR = 0.01;
const CANDIDATES = 400;
const SAME_HEAD = 0.5;
const VOTING_OVERLAP = 0.65;
const MAX_OBJECTS = 100;
const DECIMALS = 1e6;
const BOX_DECIMALS = 10;

/**
 * Returns {width, height, objects: [{label, confidence, box: [xmin, ymin, xmax, ymax]}], error}, the surest first.
 * `boxes`: four numbers a place, px of the model's input; `scores`: one a class and place; `photo`: [width, height].
 */
export function findObjects(boxes, scores, photo, contract) {
  const [width, height] = photo;
  const names = contract.class_names;
  if (![...boxes, ...scores].every(Number.isFinite)) throw new Error("it answers with numbers that are no boxes");
  const [left, top, right, bottom] = findKeptBox(width, height, contract);
  const places = Array.from({ length: scores.length / names.length }, (_, place) => {
    const own = scores.subarray(place * names.length, (place + 1) * names.length);
    const sureness = Math.max(...own);
    return { place, sureness, label: names[own.indexOf(sureness)] };
  });
  const candidates = places
    .filter(({ sureness }) => sureness >= FLOOR)
    .sort((a, b) => b.sureness - a.sureness)
    .slice(0, CANDIDATES)
    .map(({ place, sureness, label }) => {
      const move = (i, from, to, side) =>
        Math.min(side, Math.max(0, (boxes[4 * place + i] * (to - from)) / contract.input_size + from));
      const box = [move(0, left, right, width), move(1, top, bottom, height), move(2, left, right, width), move(3, top, bottom, height)];
      return { sureness, label, box };
    })
    .filter(({ box }) => isSolid(box));
  const objects = suppress(candidates.filter(({ sureness }) => sureness >= contract.threshold))
    .map(({ label, sureness, box }) => {
      const voters = candidates.filter((one) => one.label === label && measureOverlap(box, one.box) >= VOTING_OVERLAP);
      return { label, confidence: roundEven(sureness * DECIMALS) / DECIMALS, box: average(voters) };
    })
    .filter(({ box }) => isSolid(box));
  return { width, height, objects, error: null };
}

const isSolid = (box) => box[2] > box[0] && box[3] > box[1];

/** Returns those that overlap no surer one; greedy, whichever class they are of, since a head is one pet. */
function suppress(sorted) {
  const kept = [];
  for (const one of sorted) {
    if (kept.length === MAX_OBJECTS) break;
    if (kept.every((surer) => measureOverlap(surer.box, one.box) <= SAME_HEAD)) kept.push(one);
  }
  return kept;
}

/** Returns the mean box, weighted by sureness. */
function average(voters) {
  const total = voters.reduce((sum, { sureness }) => sum + sureness, 0);
  return [0, 1, 2, 3].map((i) => {
    const sum = voters.reduce((part, { sureness, box }) => part + sureness * box[i], 0);
    return roundEven((sum / total) * BOX_DECIMALS) / BOX_DECIMALS;
  });
}

/** Returns the intersection over union of two solid boxes. */
function measureOverlap(some, other) {
  const width = Math.min(some[2], other[2]) - Math.max(some[0], other[0]);
  const height = Math.min(some[3], other[3]) - Math.max(some[1], other[1]);
  const common = Math.max(0, width) * Math.max(0, height);
  return common / (measureArea(some) + measureArea(other) - common);
}

const measureArea = ([xmin, ymin, xmax, ymax]) => (xmax - xmin) * (ymax - ymin);
