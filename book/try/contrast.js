/* Which stored values are the picture: microlab/data/contrast.py, function by function, and what turns stored
   values into grey levels (`_to_unit_range` of microlab/data/images.py). Change both.

     grey = (value - black) / (white - black), clipped to [0, 1]

   Stored values, here and in the other modules that read files, are
     {data, height, width, channels, kind, bytes}
   with a typed array `data`, row by row, 1 or 3 `channels`, `kind` "b" (0 or 1), "u", "i" or "f" as in NumPy, and
   `bytes` of a value in the file. Maps of pixels are Uint8Array of height x width, null if they are empty. */

import { tabulate } from "./tabulate.js";
import C from "./constants.js";

const K = C.contrast;

/* {low, high, missing, hot, clipped, note}, or null if no pixel has a value. `nodata` stands for no value;
   `opaque` is 0 where there is none. */
export function findRange(values, { nodata = null, opaque = null } = {}) {
  const { data, height, width, channels } = values;
  const size = height * width;
  let out = null; // pixels without a value
  const said = [];

  const leaveOut = (found, what) => {
    const number = count(found, (i) => found[i] && !out?.[i]);
    if (!number) return;
    said.push(`${number} pixel${number === 1 ? " is" : "s are"} ${what}`);
    out = found.map((is, i) => is || (out?.[i] ?? 0));
  };

  if (opaque?.includes(0) && opaque.includes(1)) {
    const transparent = opaque.map((is) => 1 - is);
    const single = singles(transparent, height, width);
    leaveOut(transparent.map((is, i) => is & (1 - single[i])), "transparent");
  }
  if (values.kind === "f") leaveOut(where(values, (v) => !Number.isFinite(v)), "NaN or infinite");
  if (Number.isFinite(nodata)) {
    leaveOut(where(values, (v) => v === nodata), `${general(nodata)}, which stands for no value`);
  }
  if (out && !out.includes(0)) return null;
  let far = null;
  if (values.bytes > 1) { // of 8 bits nothing can lie far from the rest
    let some = sample(values, out);
    for (let number; (number = farNumber(values, out, some)) !== null; some = sample(values, out)) {
      leaveOut(where(values, (v) => v === number), `${general(number)}, far from the rest`);
    }
    far = farPixels(values, out, some);
    if (far) {
      const number = count(far);
      said.push(`${number} pixel${number === 1 ? " is" : "s are"} far from all others`);
    }
  }
  const bad = far && out ? out.map((is, i) => is | far[i]) : far ?? out;
  const [low, high] = extent(data, channels, bad);
  if (!bad) return { low, high, missing: null, hot: null, clipped: false, note: "" };
  const hot = singles(bad, height, width);
  const missing = tabulate(size, (i) => (out ? out[i] & (1 - hot[i]) : 0));
  const done = [];
  if (hot.includes(1)) done.push("single ones (hot or dead) took the grey of their neighbours");
  if (missing.includes(1)) done.push("what has no value lies outside of the field of view");
  if (far?.some((is, i) => is && !hot[i])) done.push("larger groups were clipped");
  return {
    low, high, clipped: true,
    missing: missing.includes(1) ? missing : null,
    hot: hot.includes(1) ? hot : null,
    note: `${said.join(", ")}; ${done.join(", ")}`,
  };
}

/* A function that turns stored values, any typed array of them, into grey levels, Float32Array in [0, 1]. */
export function toUnitRange(values, range) {
  const { kind, bytes } = values;
  if (kind === "b") return (part) => new Float32Array(part);
  let black = 0, white = null;
  const small = kind === "u" && bytes <= 2;
  if (small) {
    const camera = C.images.CAMERA_BITS;
    const bits = bytes === 2 && range.high < 2 ** camera ? camera : 8 * bytes;
    if (bytes === 1 || range.high - range.low >= K.LEAST_SHARE * (2 ** bits - 1)) white = 2 ** bits - 1;
  } else if (kind === "f" && range.low >= 0 && range.high <= 1) {
    const share = range.high - range.low;
    if (share >= K.LEAST_SHARE || share === 0) white = 1;
  }
  if (white === null) {
    black = range.low;
    white = range.high > range.low ? range.high : range.low + 1;
  }
  const single = small || (black === 0 && white === 1);
  const round = single ? Math.fround : (x) => x; // the precision of the library
  const scale = round(white - black);
  return (part) => {
    const image = new Float32Array(part.length);
    for (let i = 0; i < part.length; i++) {
      let grey = round(round(part[i]) - black) / scale;
      if (range.clipped) grey = grey > 0 ? Math.min(grey, 1) : 0; // NaN as well
      image[i] = grey;
    }
    return image;
  };
}

/* Give hot pixels the median of their neighbours and missing ones that of the picture, in place. */
export function fill(image, height, width, { missing, hot }) {
  if (!missing && !hot) return;
  const bad = (i) => missing?.[i] || hot?.[i];
  const good = new Float32Array(image.length);
  let n = 0;
  for (let i = 0; i < image.length; i++) if (!bad(i)) good[n++] = image[i];
  const step = Math.max(1, Math.floor(n / K.SAMPLED));
  const middle = median(tabulate(Math.ceil(n / step), (i) => good[i * step], Float32Array));
  if (missing) missing.forEach((is, i) => { if (is) image[i] = middle; });
  if (!hot) return;
  const reach = Math.floor(K.NEIGHBOURHOOD / 2);
  const replaced = [];
  for (let i = hot.indexOf(1); i >= 0; i = hot.indexOf(1, i + 1)) {
    const y = Math.floor(i / width), x = i % width, around = [];
    for (let row = Math.max(y - reach, 0); row <= Math.min(y + reach, height - 1); row++) {
      for (let column = Math.max(x - reach, 0); column <= Math.min(x + reach, width - 1); column++) {
        const j = row * width + column;
        if (!bad(j)) around.push(image[j]);
      }
    }
    replaced.push([i, around.length ? median(Float32Array.from(around)) : middle]);
  }
  for (const [i, grey] of replaced) image[i] = grey;
}

/* Median of a Float32Array, in single precision as NumPy has it. */
export function median(values) {
  const sorted = values.slice().sort(), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : Math.fround(Math.fround(sorted[half - 1] + sorted[half]) / 2);
}

/* A number as Python writes it with the format "g". */
export function general(x, digits = 6) {
  const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
  if (exponent < -4 || exponent >= digits) {
    return `${Number(mantissa)}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  }
  return String(Number(x.toPrecision(digits)));
}

/* A number at one end of the values that is repeated and far from the rest, unless it forms a network; `some` are
   some of the values, sorted. */
function farNumber(values, out, some) {
  const { data, height, width, channels } = values;
  const [least, largest] = extent(data, channels, out);
  for (const end of [least, largest]) {
    let from = 0, to = some.length;
    while (some[from] === end) from++;
    while (to > from && some[to - 1] === end) to--;
    const rest = some.subarray(from, to);
    const near = (v) => Math.abs(v - end);
    if (rest.length < K.LEAST_REST * some.length || rest[0] === rest[rest.length - 1]) continue;
    const [first, last] = K.SPREAD_NUMBER.map((q) => percentile(rest, q));
    const limit = K.FAR_NUMBER * (last - first);
    if (near(end === least ? rest[0] : rest[rest.length - 1]) <= limit) continue;
    let repeats = 0, nearest = Infinity;
    for (let i = 0; i < data.length; i++) {
      if (out?.[channels === 1 ? i : Math.floor(i / channels)]) continue;
      if (data[i] === end) repeats++;
      else nearest = Math.min(nearest, near(data[i]));
    }
    if (repeats < K.LEAST_REPEATS || nearest <= limit) continue;
    if (!network(where(values, (v) => v === end), height, width)) return end;
  }
  return null;
}

/* Pixels whose value is far from those of the picture; null if there are none. */
function farPixels(values, out, some) {
  const { data, height, width, channels } = values;
  const [low, high] = K.SPREAD.map((q) => percentile(some, q));
  let least = low - K.FAR * (high - low), largest = high + K.FAR * (high - low);
  const [first, last] = extent(data, channels, out);
  if (high === low || (first >= least && last <= largest)) return null;
  const beyond = () => {
    const far = where(values, (v) => v < least || v > largest);
    return out ? far.map((is, i) => is & (1 - out[i])) : far;
  };
  let far = beyond();
  const lines = network(far, height, width);
  if (lines) { // thin lines on even grains are far from them, and no flaw
    const [dark, light] = extent(data, channels, lines.map((is) => 1 - is));
    least = Math.min(least, dark);
    largest = Math.max(largest, light);
    far = beyond();
  }
  return far.includes(1) ? far : null;
}

/* The largest group of pixels, if it forms thin lines across the image, no frame and no patch. */
function network(found, height, width) {
  const { labels, groups } = groupsOf(found, height, width);
  if (!groups.length) return null;
  const group = groups.reduce((a, b) => (b.area > a.area ? b : a));
  const high = group.bottom - group.top + 1, wide = group.right - group.left + 1;
  let rim = 0;
  for (let x = 0; x < width; x++) rim += is(x) + is((height - 1) * width + x);
  for (let y = 0; y < height; y++) rim += is(y * width) + is(y * width + width - 1);
  function is(i) { return labels[i] === group.label ? 1 : 0; }
  const across = Math.max(high / height, wide / width) > K.LEAST_EXTENT;
  const thin = group.area < K.LARGEST_AREA * high * wide;
  if (!across || !thin || rim / (2 * (height + width)) >= K.LARGEST_RIM) return null;
  return tabulate(labels.length, (i) => (labels[i] === group.label ? 1 : 0));
}

/* Those of the pixels that form groups of at most LARGEST_HOT. */
function singles(found, height, width) {
  if (!found.includes(1)) return found;
  const { labels, groups } = groupsOf(found, height, width);
  return tabulate(labels.length, (i) => (labels[i] && groups[labels[i] - 1].area <= K.LARGEST_HOT ? 1 : 0));
}

/* Groups of pixels that touch, by a side or a corner, numbered row by row. */
function groupsOf(found, height, width) {
  const labels = new Int32Array(found.length), groups = [], waiting = [];
  for (let start = found.indexOf(1); start >= 0; start = found.indexOf(1, start + 1)) {
    if (labels[start]) continue;
    const group = { label: groups.length + 1, area: 0, top: height, left: width, bottom: 0, right: 0 };
    groups.push(group);
    labels[start] = group.label;
    waiting.push(start);
    while (waiting.length) {
      const i = waiting.pop(), y = Math.floor(i / width), x = i % width;
      group.area++;
      group.top = Math.min(group.top, y);
      group.bottom = Math.max(group.bottom, y);
      group.left = Math.min(group.left, x);
      group.right = Math.max(group.right, x);
      for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
        for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, width - 1); column++) {
          const j = row * width + column;
          if (found[j] && !labels[j]) {
            labels[j] = group.label;
            waiting.push(j);
          }
        }
      }
    }
  }
  return { labels, groups };
}

/* The map of pixels of which a value, any channel, has a property. */
function where({ data, height, width, channels }, has) {
  const found = new Uint8Array(height * width);
  for (let i = 0; i < data.length; i++) {
    if (has(data[i])) found[channels === 1 ? i : Math.floor(i / channels)] = 1;
  }
  return found;
}

function count(found, has = (i) => found[i]) {
  let number = 0;
  for (let i = 0; i < found.length; i++) if (has(i)) number++;
  return number;
}

/* Least and largest of the values of pixels that are not left out. */
function extent(data, channels, out) {
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < data.length; i++) {
    if (out?.[channels === 1 ? i : Math.floor(i / channels)]) continue;
    if (data[i] < low) low = data[i];
    if (data[i] > high) high = data[i];
  }
  return [low, high];
}

/* Some of the values that are not left out, sorted. */
function sample({ data, height, width, channels }, out) {
  const take = (step) => {
    const some = new Float64Array(Math.ceil(height / step) * Math.ceil(width / step) * channels);
    let n = 0;
    for (let y = 0; y < height; y += step) {
      for (let x = 0; x < width; x += step) {
        const i = y * width + x;
        if (!out || !out[i]) for (let k = 0; k < channels; k++) some[n++] = data[i * channels + k];
      }
    }
    return some.subarray(0, n).sort();
  };
  const some = take(Math.max(1, Math.floor(Math.sqrt((height * width) / K.SAMPLED))));
  return some.length ? some : take(1);
}

/* A percentile of sorted values, linear between them, with NumPy's arithmetic. */
function percentile(sorted, q) {
  const place = ((sorted.length - 1) * q) / 100, k = Math.floor(place), t = place - k;
  const a = sorted[k], b = sorted[Math.min(k + 1, sorted.length - 1)];
  return t < 0.5 ? a + (b - a) * t : b - (b - a) * (1 - t);
}
