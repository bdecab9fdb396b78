/* Sizes and shapes of grains: microlab/measure/grains.py and grain_size.py, the table as a file (data/tables.py) and the
   summary as text (pipelines/image_results.py). Images are those of arrays.js.

     const rows = grainTable(labels, 0.25, valid);                   0.25 um a pixel; null where it is not known
     const text = grainsCsv(rows);                                   as the library writes grains.csv
     const pairs = summaryRows({ labels, valid, rows, pixelSize: 0.25, pixelSizeSource: "given" });

   A function here has the name of its counterpart in Python; columns have the names of the library's table. */

import { largest, pixelwise, quantile } from "./arrays.js";
import C from "./constants.js";
import { Grains, nearestGrain } from "./edits.js";
import { fixed, significant } from "./text.js";

/* One row per grain, as `grain_table`: sizes in pixels and, with a pixel size, in micrometres (else NaN). */
export function grainTable(labels, pixelSize = null, valid = null) {
  const grains = new Grains(labels.data, labels.width, valid?.data); // closes boundaries, weighs by the edge
  const um = pixelSize ?? NaN, sums = momentsOf(labels), perimeters = perimetersOf(labels);
  const sides = sidesOf(grains, C.grain_table.min_contact);
  return [...grains.grains.keys()].sort((a, b) => a - b).map((label) => {
    const { area, y, x, major, minor, orientation } = sums(label), perimeter = perimeters[label];
    const diameter = 2 * Math.sqrt(area / Math.PI), { cut, weight } = grains.grains.get(label);
    return {
      label,
      area_px: area,
      area_um2: area * um ** 2,
      diameter_px: diameter,
      diameter_um: diameter * um,
      perimeter_px: perimeter,
      perimeter_um: perimeter * um,
      circularity: (4 * Math.PI * area) / perimeter ** 2,
      aspect_ratio: major / minor,
      orientation_deg: ((orientation * 180) / Math.PI + 90) % 180,
      sides: sides[label],
      touches_edge: cut,
      edge_weight: weight,
      centroid_y_px: y,
      centroid_x_px: x,
    };
  });
}

/* Labels in which boundary pixels belong to the nearest grain within reach; -1 outside of the field of view. */
function closed(labels, valid) {
  const { data, height, width } = labels, at = { labels: data, height, width };
  return pixelwise(Int32Array, labels, (label, i) => {
    if (valid && !valid.data[i]) return C.grains.OUTSIDE;
    return label || nearestGrain(at, Math.floor(i / width), i % width);
  }).data;
}

/* A function of a label: its area, centroid, axes (a pixel counts as a unit square) and orientation in radians. */
function momentsOf({ data, width }) {
  const n = largest(data) + 1, first = new Int32Array(n).fill(-1);
  const [area, sy, sx, syy, sxx, sxy] = Array.from({ length: 6 }, () => new Float64Array(n));
  for (let i = 0, y = 0, x = 0; i < data.length; i++) {
    const label = data[i];
    if (label) {
      if (first[label] < 0) first[label] = i;
      const dy = y - Math.floor(first[label] / width), dx = x - (first[label] % width);
      area[label] += 1;
      sy[label] += dy;
      sx[label] += dx;
      syy[label] += dy * dy;
      sxx[label] += dx * dx;
      sxy[label] += dx * dy;
    }
    if (++x === width) { x = 0; y += 1; }
  }
  return (k) => {
    const m = area[k], my = sy[k] / m, mx = sx[k] / m;
    const yy = (m * syy[k] - sy[k] ** 2) / m ** 2, xx = (m * sxx[k] - sx[k] ** 2) / m ** 2;
    const xy = (m * sxy[k] - sx[k] * sy[k]) / m ** 2;
    const half = (yy + xx) / 2, spread = Math.hypot((yy - xx) / 2, xy);
    // Points become unit squares: 1/12 more in each moment, so 16/12 in a squared axis.
    const axis = (moment) => Math.sqrt(16 * Math.max(moment, 0) + 4 / 3);
    return {
      area: m, y: Math.floor(first[k] / width) + my, x: (first[k] % width) + mx,
      major: axis(half + spread), minor: axis(half - spread),
      orientation: yy === xx ? (Math.PI / 4) * (xy > 0 ? 1 : -1) : 0.5 * Math.atan2(2 * xy, yy - xx),
    };
  };
}

/* Perimeters by Crofton's formula in four directions: from the windows of 2 x 2 pixels, by which of them a grain
   holds. */
function perimetersOf({ data, height, width }) {
  const out = new Float64Array(largest(data) + 1), { CROFTON } = C.grains;
  const at = (y, x) => (y < 0 || x < 0 || y >= height || x >= width ? 0 : data[y * width + x]);
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      const a = at(y - 1, x - 1), b = at(y - 1, x), c = at(y, x - 1), d = at(y, x);
      if (a === b && b === c && c === d) continue;
      const add = (label) => {
        out[label] += CROFTON[(a === label ? 8 : 0) + (b === label ? 2 : 0) + (c === label ? 4 : 0) + (d === label ? 1 : 0)];
      };
      if (a) add(a);
      if (b && b !== a) add(b);
      if (c && c !== a && c !== b) add(c);
      if (d && d !== a && d !== b && d !== c) add(d);
    }
  }
  return out;
}

/* Number of neighbours of every label, that share at least `minContact` pixel edges in the closed image. */
function sidesOf({ closed: labels, width, largest: most }, minContact) {
  const contacts = new Map(), n = most + 1, sides = new Int32Array(n);
  const face = (a, b) => {
    if (a === b || a <= 0 || b <= 0) return;
    const pair = a < b ? a * n + b : b * n + a;
    contacts.set(pair, (contacts.get(pair) ?? 0) + 1);
  };
  for (let i = 0, x = 0; i < labels.length; i++) {
    if (x + 1 < width) face(labels[i], labels[i + 1]);
    if (i + width < labels.length) face(labels[i], labels[i + width]);
    if (++x === width) x = 0;
  }
  for (const [pair, length] of contacts) {
    if (length < minContact) continue;
    sides[Math.floor(pair / n)] += 1;
    sides[pair % n] += 1;
  }
  return sides;
}

/* ---- Distributions ---- */

/* Summary of some columns of a table over whole grains, weighted by their chance of being whole, as `summarise` with a
   bootstrap interval of the mean: {column: {count, mean, mean_low, mean_high, std, p10, ..., area_weighted_mean}}. */
export function summarise(rows, columns) {
  const whole = rows.filter((row) => !row.touches_edge);
  return Object.fromEntries(columns.map((column) => {
    const used = whole.filter((row) => !Number.isNaN(row[column]));
    const [x, w, area] = [column, "edge_weight", "area_px"].map((name) => Float64Array.from(used, (row) => row[name]));
    return [column, summaryOf(x, w, area)];
  }));
}

function summaryOf(x, w, area) {
  const names = ["mean", "mean_low", "mean_high", "std", "p10", "p25", "median", "p75", "p90", "area_weighted_mean"];
  const row = { count: x.length, ...Object.fromEntries(names.map((name) => [name, NaN])) };
  if (!x.length) return row;
  row.mean = average(x, w);
  row.area_weighted_mean = average(x, w.map((weight, k) => weight * area[k]));
  const shares = { p10: 0.1, p25: 0.25, median: 0.5, p75: 0.75, p90: 0.9 };
  for (const [name, share] of Object.entries(shares)) row[name] = weightedQuantile(x, w, share);
  if (x.length === 1) return row;
  const effective = total(w) ** 2 / total(w.map((weight) => weight ** 2));
  row.std = Math.sqrt((average(x.map((value) => (value - row.mean) ** 2), w) * effective) / (effective - 1));
  const means = resampledMeans(x, w), { confidence } = C.summarise;
  row.mean_low = quantile(means, (1 - confidence) / 2);
  row.mean_high = quantile(means, (1 + confidence) / 2);
  return row;
}

function total(values) { return values.reduce((a, b) => a + b, 0); }

function average(x, w) { return total(x.map((value, k) => value * w[k])) / total(w); }

/* A quantile; interpolated only where all weights are equal, as numpy does it. */
function weightedQuantile(x, w, share) {
  if (w.every((weight) => weight === w[0])) return quantile(x, share);
  const order = Array.from(x.keys()).sort((a, b) => x[a] - x[b]), sum = order.reduce((a, k) => a + w[k], 0);
  let below = 0;
  return x[order.find((k) => (below += w[k]) / sum >= share) ?? order[order.length - 1]];
}

/* Weighted means of bootstrap samples of `x`. The draws are not numpy's, so they agree with the library's to the error
   of any such sampling; the same `x` gives the same means. */
function resampledMeans(x, w) {
  const random = generator(C.summarise.seed), n = x.length, weighted = x.map((value, k) => value * w[k]);
  return new Float64Array(C.summarise.resamples).map(() => {
    let sum = 0, weights = 0;
    for (let k = 0; k < n; k++) {
      const pick = Math.floor(random() * n);
      sum += weighted[pick];
      weights += w[pick];
    }
    return sum / weights;
  });
}

/* Random numbers in [0, 1) from a seed: a counter whose bits are mixed (mulberry32). */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

/* ---- ASTM E112 (grain_size.py) ---- */

/* ASTM grain size number of one image by "planimetric" counts or by "intercept" lines, with its interval from the spread
   between fields. */
export function astmGrainSize(labels, pixelSize, method, {
  valid = null, fields = C.astm_grain_size.fields, confidence = C.astm_grain_size.confidence,
} = {}) {
  const { width } = labels, data = closed(labels, valid), planar = method === "planimetric";
  const counts = [], extents = [];
  for (const [top, bottom] of split(labels.height, fields[0])) {
    for (const [left, right] of split(width, fields[1])) {
      const field = { data, width, top, bottom, left, right };
      const [count, extent] = planar ? rectangle(field) : lines(field);
      if (extent > 0) { // the field of view may leave nothing of a field
        counts.push(count);
        extents.push(extent * (planar ? (pixelSize / 1000) ** 2 : pixelSize / 1000));
      }
    }
  }
  const count = total(counts), extent = total(extents), density = count > 0 && extent > 0 ? count / extent : NaN;
  const n = counts.length, densities = counts.map((one, k) => one / extents[k]), mean = total(densities) / n;
  const deviation = Math.sqrt(total(densities.map((one) => (one - mean) ** 2)) / (n - 1));
  const half = n > 1 ? (studentQuantile(n - 1, (1 + confidence) / 2) * deviation) / Math.sqrt(n) : NaN;
  const [a, b] = planar ? C.grain_size.PLANIMETRIC : C.grain_size.INTERCEPT;
  const number = (one) => (one > 0 ? a * Math.log10(one) - b : Number.isNaN(one) ? NaN : -Infinity);
  return {
    method,
    number: number(density),
    number_low: number(density - half),
    number_high: number(density + half),
    relative_accuracy: half / density,
    density,
    mean_area_um2: planar ? 1e6 / density : NaN,
    mean_intercept_um: planar ? NaN : 1e3 / density,
    count,
    extent,
    fields: n,
  };
}

/* Bounds of `parts` parts of n pixels, the first ones longer by one where n is no multiple (numpy.array_split). */
function split(n, parts) {
  const ends = Array.from({ length: parts + 1 }, (_, k) => k * Math.floor(n / parts) + Math.min(k, n % parts));
  return ends.slice(1).map((end, k) => [ends[k], end]);
}

/* Equivalent whole grains in a field, and its area in px^2: grains less half of those that its edge cuts, less one. Where
   the field of view has holes or falls into parts, that one is Euler's number. */
function rectangle({ data, width, top, bottom, left, right }) {
  const grains = new Set(), cut = new Set();
  let euler = 0, squares = 0, last = 0;
  const shown = (y, x) => y >= top && y < bottom && x >= left && x < right && data[y * width + x] >= 0;
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const label = data[y * width + x];
      if (label < 0) continue;
      if (label > 0 && label !== last) grains.add((last = label));
      const next = shown(y, x + 1), below = shown(y + 1, x), square = next && below && shown(y + 1, x + 1);
      squares += square;
      euler += 1 - next - below + square; // pixels, less pairs, and squares
      if (!square || !(shown(y - 1, x - 1) && shown(y - 1, x) && shown(y - 1, x + 1) && shown(y, x - 1) && shown(y + 1, x - 1))) {
        if (label > 0) cut.add(label);
      }
    }
  }
  return [grains.size - cut.size / 2 - euler, squares];
}

/* Intersections and length in px of all rows, columns and diagonals of a field, the four directions weighing the same. */
function lines({ data, width, top, bottom, left, right }) {
  const height = bottom - top, across = right - left, runs = { grain: [], length: [] };
  const starts = { // of the lines of a direction: [row, column, pixels]
    right: Array.from({ length: height }, (_, y) => [y, 0, across]),
    down: Array.from({ length: across }, (_, x) => [0, x, height]),
    falling: [], rising: [],
  };
  for (let k = 1 - height; k < across; k++) { // column minus row of a diagonal
    const y = Math.max(-k, 0), x = Math.max(k, 0), n = Math.min(height - y, across - x);
    starts.falling.push([y, x, n]);
    starts.rising.push([y, across - 1 - x, n]);
  }
  const steps = { right: [1, 1], down: [width, 1], falling: [width + 1, Math.SQRT2], rising: [width - 1, Math.SQRT2] };
  let crossings = 0, length = 0;
  for (const [direction, [stride, step]] of Object.entries(steps)) {
    let count = 0, pairs = 0;
    for (const [y, x, n] of starts[direction]) {
      const [more, within] = crossingsOf(data, (top + y) * width + left + x, stride, n, step, runs);
      count += more;
      pairs += within;
    }
    if (!pairs) continue;
    const scale = (height * across) / (pairs * step); // to equal lengths for the four directions
    crossings += count * scale;
    length += pairs * step * scale;
  }
  return [crossings, length];
}

/* Changes of grain along a line of n pixels, and pairs of neighbours that both are grain. A return to the same grain
   within FLICKER px is no crossing. */
function crossingsOf(data, start, stride, n, step, { grain, length }) {
  let runs = 0, pairs = 0;
  for (let k = 0, i = start; k < n; k++, i += stride) {
    if (k && data[i] > 0 && data[i - stride] > 0) pairs++;
    if (k && data[i] === grain[runs - 1]) length[runs - 1] += 1;
    else {
      grain[runs] = data[i];
      length[runs++] = 1;
    }
  }
  let count = 0, before = 0; // the last grain that is no flicker
  for (let r = 0; r < runs; r++) {
    const between = r > 0 && r + 1 < runs && grain[r - 1] === grain[r + 1] && grain[r + 1] > 0;
    if (between && grain[r] > 0 && length[r] * step < C.grain_size.FLICKER) continue;
    if (grain[r] > 0 && before > 0 && grain[r] !== before) count++;
    before = grain[r];
  }
  return [count, pairs];
}

/* Quantile of Student's t with n degrees of freedom, p above 1/2, by bisection of its distribution (Abramowitz and
   Stegun 26.7.3, 26.7.4). */
function studentQuantile(n, p) {
  const within = (t) => { // probability of [-t, t]
    const angle = Math.atan(t / Math.sqrt(n)), c2 = Math.cos(angle) ** 2, odd = n % 2;
    let term = odd ? Math.cos(angle) : 1, sum = 0;
    for (let k = odd ? 3 : 2; k <= n; k += 2) {
      sum += term;
      term *= (c2 * (k - 1)) / k;
    }
    return odd ? (2 / Math.PI) * (angle + Math.sin(angle) * sum) : Math.sin(angle) * sum;
  };
  let low = 0, high = 1;
  while (within(high) < 2 * p - 1) high *= 2;
  for (let k = 0; k < 100; k++) {
    const middle = (low + high) / 2;
    if (within(middle) < 2 * p - 1) low = middle;
    else high = middle;
  }
  return high;
}

/* ---- Text (tables.py, image_results.py) ---- */

const WHOLE = ["label", "sides"]; // columns of whole numbers, which keep all digits

/* The table as the library writes it into grains.csv. */
export function grainsCsv(rows) {
  const cell = (value, name) => {
    if (typeof value === "boolean") return value ? "True" : "False";
    if (Number.isNaN(value)) return "";
    return WHOLE.includes(name) ? String(value) : significant(value, C.tables.DIGITS);
  };
  const names = Object.keys(rows[0]);
  return [names, ...rows.map((row) => names.map((name) => cell(row[name], name)))].map((line) => `${line.join(",")}\n`).join("");
}

/* The numbers of an image as pairs [quantity, value with unit], as `MeasuredImage.summary`. */
export function summaryRows({ labels, valid = null, rows, pixelSize = null, pixelSizeSource = null }) {
  const [unit, factor] = pixelSize ? lengthUnit(medianDiameter(rows)) : ["px", 1];
  const [diameter, area] = pixelSize ? ["diameter_um", "area_um2"] : ["diameter_px", "area_px"];
  const of = summarise(rows, [diameter, area, "aspect_ratio"]), { mean, median, mean_low, mean_high } = of[diameter];
  const pairs = [
    ["grains", String(rows.length)],
    ["mean diameter", `${number(factor * mean)} ${unit}`],
    ["median diameter", `${number(factor * median)} ${unit}`],
    ["95 % interval of the mean diameter", `${number(factor * mean_low)} to ${number(factor * mean_high)} ${unit}`],
    ["mean area", `${number(factor ** 2 * of[area].mean)} ${unit}²`],
    ["mean aspect ratio", number(of.aspect_ratio.mean)],
    [valid ? "cut by the field's edge" : "cut by the image's edge", `${rows.filter((row) => row.touches_edge).length} grains`],
  ];
  if (!pixelSize) return pairs;
  for (const method of ["planimetric", "intercept"]) {
    const { number: astm } = astmGrainSize(labels, pixelSize, method, { valid });
    pairs.push([`ASTM E112 grain size number, ${method}`, number(astm)]);
  }
  return [...pairs, ["pixel size", `${length(pixelSize, 4)} (${pixelSizeSource || "given"})`]];
}

export function medianDiameter(rows) { return quantile(Float64Array.from(rows, (row) => row.diameter_um), 0.5); }

/* Significant digits without an exponent; a dash for what is not known. */
export function number(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const text = significant(value, digits);
  return Math.abs(Number(text)) >= 1000 ? fixed(value, 0).replace(/\B(?=(\d{3})+$)/g, ",") : text;
}

/* The unit in which a length is best read, and how many of it are a micrometre. */
export function lengthUnit(micrometres) {
  if (micrometres > 0 && micrometres < 0.1) return ["nm", 1000];
  return micrometres >= 1000 ? ["mm", 0.001] : ["µm", 1];
}

/* A length with its unit, without an exponent. */
export function length(micrometres, digits = 3) {
  const [unit, factor] = lengthUnit(micrometres);
  return `${number(factor * micrometres, digits)} ${unit}`;
}
