/* From boundary probability to grains, by a seeded watershed: microlab/segment/instances.py and the lines between labels
   of microlab/measure/labels.py, pixel for pixel. Images are those of arrays.js.

     const labels = watershedGrains(probability, { valid });          Int32Array image, grains 1..n
     const boundary = closedBoundary(probability, labels, { valid });  Uint8Array image

   A function here has the name of its counterpart in Python; `valid`, a mask or null, is the field of view. */

import {
  counts, distances, gaussianFilter, image, label, largest, localMinima, pixelwise, propagate, reconstructByErosion,
} from "./arrays.js";
import C from "./constants.js";

const DEFAULTS = C.watershed_grains;

/* Grains as basins of the boundary probability, gaps in the boundary closed. The options have the library's names and
   defaults: threshold, neck, faint, open_share, smooth, min_area. */
export function watershedGrains(probability, { valid = null, ...options } = {}) {
  const settings = { ...DEFAULTS, ...options };
  const threshold = Math.fround(settings.threshold);
  // The edge of the field ends a grain as a boundary does.
  const shown = valid ? pixelwise(Float32Array, probability, (p, i) => (valid.data[i] ? p : 1)) : probability;
  const below = (values, limit) => pixelwise(Uint8Array, values, (value) => (value < limit ? 1 : 0));

  const surface = settings.smooth ? gaussianFilter(shown, settings.smooth) : shown;
  const open = below(surface, threshold);
  const depth = open.data.includes(0) ? distances(open) : pixelwise(Float64Array, open, () => 0);
  const interior = label(below(shown, threshold));
  const seeds = seedsOf(deepBasins(pixelwise(Float64Array, depth, (d) => -d), settings.neck), interior, settings.min_area);
  let labels = watershed(shown, seeds, valid);

  const areas = counts(labels.data);
  const small = areas.map((area, n) => (n > 0 && area < settings.min_area ? 1 : 0));
  const kept = areas.some((area, n) => n > 0 && area > 0 && !small[n]);
  if (kept && areas.some((area, n) => area > 0 && small[n])) {
    labels = refilled(shown, labels, pixelwise(Uint8Array, labels, (n) => small[n]).data, valid);
  }
  const faint = Math.fround(Math.min(settings.faint, settings.threshold));
  return relabelled(joinOpen(labels, below(shown, faint), settings.open_share));
}

/* Boundary mask that agrees with the grains: their lines, and the likely boundary connected to them. */
export function closedBoundary(probability, labels, { threshold = C.closed_boundary.threshold, valid = null } = {}) {
  const lines = boundaries(labels, valid), limit = Math.fround(threshold);
  const isLikely = (i) => probability.data[i] >= limit && (!valid || valid.data[i]);
  return propagate(lines, pixelwise(Uint8Array, lines, (line, i) => (line || isLikely(i) ? 1 : 0)));
}

/* Pixels on a boundary between grains: label 0, and those beside another grain; none outside of the field of view. */
export function boundaries({ data, height, width }, valid = null) {
  const field = valid?.data, out = new Uint8Array(data.length);
  const mark = (i, next) => {
    if (data[i] === data[next] || !data[i] || !data[next] || (field && !(field[i] && field[next]))) return;
    out[i] = out[next] = 1;
  };
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!data[i] && (!field || field[i])) out[i] = 1;
      if (x + 1 < width) mark(i, i + 1);
      if (y + 1 < height) mark(i, i + width);
    }
  }
  return image(out, height, width);
}

/* Basins of a surface that are at least `depth` deep: 1..n at their floors, else 0. */
export function deepBasins(surface, depth) {
  const floors = localMinima(reconstructByErosion(pixelwise(Float64Array, surface, (v) => v + depth), surface));
  return label(floors.data.includes(1) ? floors : pixelwise(Uint8Array, floors, () => 1));
}

/* One seed per pair of a deep basin and a region of interior, and per large region that has none. */
function seedsOf(basins, interior, minArea) {
  const n = basins.data.length, reaches = new Uint8Array(basins.count + 1);
  for (let i = 0; i < n; i++) if (interior.data[i]) reaches[basins.data[i]] = 1;
  // Smoothing can let one basin reach over a thin boundary: within the interior it counts once per region.
  const pairs = pixelwise(Float64Array, basins, (basin, i) => {
    const region = interior.data[i];
    return basin && (region || !reaches[basin]) ? basin * (interior.count + 1) + region : 0;
  });
  const numbers = new Map();
  for (let i = 0; i < n; i++) if (pairs.data[i]) numbers.set(pairs.data[i], 0);
  [...numbers.keys()].sort((a, b) => a - b).forEach((pair, rank) => numbers.set(pair, rank + 1));
  const seeds = pixelwise(Int32Array, pairs, (pair) => (pair ? numbers.get(pair) : 0)), { data } = seeds;
  const missed = counts(interior.data).map((area, region) => (region > 0 && area >= minArea ? 1 : 0));
  for (let i = 0; i < n; i++) if (data[i]) missed[interior.data[i]] = 0;
  const most = largest(data);
  for (let i = 0; i < n; i++) if (missed[interior.data[i]]) data[i] = most + interior.data[i];
  return seeds;
}

/* skimage.segmentation.watershed, connectivity 1. Pixels wait in a heap, the lowest first, of equal ones the one that
   came first; behind a pass a pixel counts as high as the pass. Seeds all come at once: of equal ones the heap itself
   decides, so it works as skimage's does.

   A key is the pixel's float32 height as a float64, with its time of arrival in the 29 bits that are free then. */
export function watershed({ data, height, width }, seeds, mask = null) {
  const size = data.length, out = new Int32Array(seeds.data), free = new Uint8Array(size).fill(1);
  const keys = new Float64Array(size), pixels = new Int32Array(size), key = new Float64Array(1);
  const time = new Uint32Array(key.buffer); // its lower half
  let items = 0, now = 1;

  const push = (pixel, level, arrival) => {
    key[0] = level;
    time[0] |= arrival;
    const value = key[0];
    let child = items++;
    while (child > 0) {
      const parent = (child - 1) >> 1;
      if (!(value < keys[parent])) break;
      keys[child] = keys[parent];
      pixels[child] = pixels[parent];
      child = parent;
    }
    keys[child] = value;
    pixels[child] = pixel;
  };
  const pop = () => { // the first one is in place 0
    items--;
    const value = keys[items], pixel = pixels[items];
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= items) break;
      // The right one goes up only if it is lower than the left one and than what moves down.
      if (child + 1 < items && keys[child + 1] < (keys[child] < value ? keys[child] : value)) child++;
      if (!(keys[child] < value)) break;
      keys[place] = keys[child];
      pixels[place] = pixels[child];
      place = child;
    }
    keys[place] = value;
    pixels[place] = pixel;
  };
  const flood = (next, label, level) => {
    free[next] = 0;
    out[next] = label;
    push(next, data[next] < level ? level : data[next], ++now);
  };

  for (let i = 0; i < size; i++) {
    if (mask && !mask.data[i]) out[i] = free[i] = 0;
    if (out[i]) {
      free[i] = 0;
      push(i, data[i], 0);
    }
  }
  while (items) {
    const pixel = pixels[0], level = Math.fround(keys[0]), label = out[pixel], x = pixel % width;
    pop();
    if (pixel >= width && free[pixel - width]) flood(pixel - width, label, level);
    if (x > 0 && free[pixel - 1]) flood(pixel - 1, label, level);
    if (x + 1 < width && free[pixel + 1]) flood(pixel + 1, label, level);
    if (pixel + width < size && free[pixel + width]) flood(pixel + width, label, level);
  }
  return image(out, height, width);
}

/* Labels whose pixels in `small`, a Uint8Array, are flooded from the others. Only `small` and what touches it is flooded,
   unless two seeds of equal probability could meet there. */
function refilled(probability, labels, small, valid) {
  const { data, height, width } = labels, near = new Uint8Array(small);
  const reach = (i, next) => { if (small[i] && (!valid || valid.data[next])) near[next] = 1; };
  for (let i = 0, x = 0; i < data.length; i++, x = x + 1 === width ? 0 : x + 1) {
    if (i >= width) reach(i, i - width);
    if (x > 0) reach(i, i - 1);
    if (x + 1 < width) reach(i, i + 1);
    if (i + width < data.length) reach(i, i + width);
  }
  const part = label(image(near, height, width)).data, heights = probability.data;
  const rim = [];
  for (let i = 0; i < data.length; i++) if (near[i] && !small[i]) rim.push(i);
  rim.sort((a, b) => part[a] - part[b] || heights[a] - heights[b]);
  const tie = rim.some((a, k) => k > 0 && part[a] === part[rim[k - 1]] && heights[a] === heights[rim[k - 1]]);
  const seeds = pixelwise(Int32Array, labels, (n, i) => (small[i] ? 0 : n));
  if (tie) return watershed(probability, seeds, valid);
  const flooded = watershed(probability, seeds, image(near, height, width)).data;
  return pixelwise(Int32Array, labels, (n, i) => (near[i] ? flooded[i] : n));
}

/* Join neighbours while more than `openShare` of the line between two of them is `empty`. */
function joinOpen(labels, empty, openShare) {
  const { data, height, width } = labels, out = new Int32Array(data), n = largest(out) + 1;
  for (;;) {
    const lines = new Map(); // of {length, open}, by the pair of grains
    let key = -1, line = null; // the last one, which often comes again
    const face = (i, next) => {
      const a = out[i], b = out[next];
      if (a === b || !a || !b) return;
      const pair = a < b ? a * n + b : b * n + a;
      if (pair !== key) {
        key = pair;
        line = lines.get(key);
        if (!line) lines.set(key, (line = { length: 0, open: 0 }));
      }
      line.length++;
      if (empty.data[i] && empty.data[next]) line.open++;
    };
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (x + 1 < width) face(i, i + 1);
        if (y + 1 < height) face(i, i + width);
      }
    }
    const parent = Int32Array.from({ length: n }, (_, k) => k); // the smallest number of those joined
    const root = (k) => {
      while (parent[k] !== k) k = parent[k] = parent[parent[k]];
      return k;
    };
    let joined = 0;
    for (const [pair, { length, open }] of lines) {
      if (open / length <= openShare) continue;
      const a = root(Math.floor(pair / n)), b = root(pair % n);
      parent[Math.max(a, b)] = Math.min(a, b);
      joined++;
    }
    if (!joined) return image(out, height, width);
    for (let i = 0; i < out.length; i++) out[i] = root(out[i]);
  }
}

/* Labels numbered 1, 2, ... in their order. */
function relabelled(labels) {
  const numbers = counts(labels.data);
  for (let n = 1, next = 0; n < numbers.length; n++) if (numbers[n]) numbers[n] = ++next;
  numbers[0] = 0;
  return pixelwise(Int32Array, labels, (n) => numbers[n]);
}
