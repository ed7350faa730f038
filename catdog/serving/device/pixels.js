// A photo's file to the pixels that the model wants: what catdog/image.py does, in a browser. A test holds the two equal.

const STRIP = 256; // rows or columns that are read at once, since canvases are limited on phones
const BITS = 22; // of the fixed-point weights (Pillow, Resample.c: 32 - 8 - 2)
const HALF = 1 << (BITS - 1);

const FILTERS = { // Pillow, Resample.c: support in pixels of the output, and weight by distance
  bilinear: [1, (x) => (Math.abs(x) < 1 ? 1 - Math.abs(x) : 0)],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x) { // Keys, with a = -0.5
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/** Returns {pixels: uint8 (size, size, 3), photo: [width, height] in px}; raises where the browser can't decode the blob. */
export async function loadSizedPixels(blob, contract) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "premultiply",
  });
  try {
    const photo = [bitmap.width, bitmap.height];
    return { pixels: resize(...photo, (...part) => readPart(bitmap, ...part), contract), photo };
  } finally {
    bitmap.close();
  }
}

/** Returns a part of a picture as RGBA, over white where it is transparent. */
function readPart(bitmap, left, top, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, -left, -top);
  return context.getImageData(0, 0, width, height).data;
}

/** Returns uint8 (size, size, 3) by the contract's rule; `read(left, top, width, height)` gives RGBA. */
export function resize(width, height, read, contract) {
  const size = contract.input_size;
  const { resize: rule, interpolation } = contract;
  if (rule !== "letterbox") {
    const kept = findKeptBox(width, height, contract).map(Math.fround); // Pillow's box is of C's float
    return squeezeBoth(width, height, read, kept, [size, size], interpolation);
  }
  const inside = fitInside(width, height, size);
  const small = squeezeBoth(width, height, read, [0, 0, width, height], inside, interpolation);
  const [left, top] = findCorner(inside, size);
  const mean = contract.mean.map((level) => roundEven(255 * level));
  const out = Uint8Array.from({ length: size * size * 3 }, (_, i) => mean[i % 3]);
  for (let y = 0; y < inside[1]; y++) {
    out.set(small.subarray(3 * inside[0] * y, 3 * inside[0] * (y + 1)), 3 * ((top + y) * size + left));
  }
  return out;
}

/** Returns uint8 (rows, columns, 3): what is in the box [left, upper, right, lower], px, at another size. */
function squeezeBoth(width, height, read, [left, upper, right, lower], [columns, rows], interpolation) {
  const across = findWeights(width, left, right, columns, interpolation);
  const down = findWeights(height, upper, lower, rows, interpolation);
  const out = new Uint8ClampedArray(columns * rows * 3); // it clamps to 0..255, as Pillow's clip8
  // Pillow 13 begins with the height where that shrinks by more than twice as many pixels as the width. Each pass
  // rounds, so the order shows.
  if (height > rows && height - rows > 2 * (width - columns)) {
    const flat = new Uint8ClampedArray(width * rows * 3);
    for (let x = 0; x < width; x += STRIP) {
      const some = Math.min(STRIP, width - x);
      squeeze(read(x, 0, some, height), 4 * some, 4, some, down, rows, flat.subarray(3 * x), 3 * width, 3);
    }
    squeeze(flat, 3, 3 * width, rows, across, columns, out, 3, 3 * columns);
  } else {
    const narrow = new Uint8ClampedArray(columns * height * 3);
    for (let y = 0; y < height; y += STRIP) {
      const some = Math.min(STRIP, height - y);
      squeeze(read(0, y, width, some), 4, 4 * width, some, across, columns, narrow.subarray(3 * columns * y), 3, 3 * columns);
    }
    squeeze(narrow, 3 * columns, 3, columns, down, rows, out, 3 * columns, 3);
  }
  return new Uint8Array(out.buffer);
}

/** Returns the part of a photo that the model sees: [left, top, right, bottom]; `catdog.image.find_kept_box`. */
export function findKeptBox(width, height, contract) {
  const size = contract.input_size;
  if (contract.resize === "letterbox") {
    const inside = fitInside(width, height, size);
    const corner = findCorner(inside, size);
    const left = (-corner[0] * width) / inside[0];
    const top = (-corner[1] * height) / inside[1];
    return [left, top, left + (size * width) / inside[0], top + (size * height) / inside[1]];
  }
  const share = size / Math.round(size / contract.crop);
  const short = Math.min(width, height);
  const [keptWidth, keptHeight] = contract.resize === "stretch" ? [share, share] : [(share * short) / width, (share * short) / height];
  const left = (width * (1 - keptWidth)) / 2;
  const top = (height * (1 - keptHeight)) / 2;
  return [left, top, width - left, height - top];
}

/** Returns the size that a photo gets so that its longer side is `size`, px. */
function fitInside(width, height, size) {
  return [width, height].map((side) => Math.max(1, roundEven((side * size) / Math.max(width, height))));
}

/** Returns where the photo begins, so that it lies in the middle of the square, px. */
function findCorner(inside, size) {
  return inside.map((side) => Math.floor((size - side) / 2));
}

/** Rounds as Python and NumPy do: a half to the even neighbour. */
export function roundEven(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/** Returns where each output pixel's weights begin, how many there are, and the weights (Pillow's precompute_coeffs). */
function findWeights(length, from, to, size, interpolation) {
  const [reach, filter] = FILTERS[interpolation];
  const scale = Math.fround(to - from) / size;
  const stretch = Math.max(scale, 1); // enlarging, the filter stays as it is
  const support = reach * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(size);
  const counts = new Int32Array(size);
  const weights = new Int32Array(size * most);
  for (let i = 0; i < size; i++) {
    const centre = from + (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(length, Math.trunc(centre + support + 0.5)) - start;
    const shares = Array.from({ length: count }, (_, x) => filter((x + start - centre + 0.5) * (1 / stretch)));
    const sum = shares.reduce((a, b) => a + b, 0);
    shares.forEach((share, x) => {
      const value = (sum === 0 ? share : share / sum) * 2 ** BITS;
      weights[i * most + x] = Math.trunc(value < 0 ? value - 0.5 : value + 0.5);
    });
    starts[i] = start;
    counts[i] = count;
  }
  return { starts, counts, weights, most };
}

/**
 * Resizes each line of `from` to `size` pixels. A line's pixels are `step` apart, the lines `apart`; likewise in `to`,
 * which has three values a pixel.
 */
function squeeze(from, step, apart, lines, { starts, counts, weights, most }, size, to, toStep, toApart) {
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < size; i++) {
      let red = HALF, green = HALF, blue = HALF;
      let at = line * apart + starts[i] * step;
      const end = i * most + counts[i];
      for (let k = i * most; k < end; k++, at += step) {
        const weight = weights[k];
        red += from[at] * weight;
        green += from[at + 1] * weight;
        blue += from[at + 2] * weight;
      }
      const out = line * toApart + i * toStep;
      to[out] = red >> BITS;
      to[out + 1] = green >> BITS;
      to[out + 2] = blue >> BITS;
    }
  }
}
