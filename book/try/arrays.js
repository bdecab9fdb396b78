/* What numpy, scipy and scikit-image do for the library, on images in the browser.

   An image is {data, height, width}: `data` is a typed array of height x width values, row by row.

     Float32Array    grey levels and probabilities (Float64Array where digits count: distances)
     Int32Array      labels, 0 on boundaries or nowhere
     Uint8Array      masks, 0 or 1

   No function changes its arguments. Sums run in the order of scipy's, in double precision, and are stored as
   float32 where scipy stores float32, so that thresholds decide alike. */

export function image(data, height, width) { return { data, height, width }; }

/* An image whose data are of a type: `f(value, index)` of every pixel. (Far faster than `Type.from`.) */
export function pixelwise(Type, { data, height, width }, f) {
  const out = new Type(data.length);
  for (let i = 0; i < out.length; i++) out[i] = f(data[i], i);
  return image(out, height, width);
}

/* ---- Rounding ---- */

/* The nearest whole number, halves to even, as Python and numpy round. */
export function roundHalfEven(value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 !== 0 ? near - 1 : near;
}

/* ---- Gaussian filters ---- */

/* What lies beyond the ends of a line of n pixels: index i of the endless line.
   "reflect" repeats the last pixel (d c b a | a b c d | d c b a), "mirror" does not (d c b | a b c d | c b a). */
export function beyond(i, n, mode) {
  const period = mode === "mirror" ? Math.max(2 * n - 2, 1) : 2 * n;
  const k = ((i % period) + period) % period;
  if (k < n) return k;
  return mode === "mirror" ? period - k : period - 1 - k;
}

/* Weights of pixels 0, 1, ..., radius from the centre, and their sign on the other side. */
function gaussianWeights(sigma, order, truncate = 4) {
  const radius = Math.floor(truncate * sigma + 0.5);
  const weights = Float64Array.from({ length: radius + 1 }, (_, x) => Math.exp((-0.5 / (sigma * sigma)) * x * x));
  let sum = weights[0];
  for (let x = 1; x <= radius; x++) sum += 2 * weights[x];
  for (let x = 0; x <= radius; x++) weights[x] /= sum;
  if (order === 1) for (let x = 0; x <= radius; x++) weights[x] *= x / (sigma * sigma);
  return weights;
}

/* Correlation along an axis (0: down, 1: across) with weights that are symmetric, or antisymmetric (sign -1). */
function correlate({ data, height, width }, weights, axis, sign, mode) {
  const radius = weights.length - 1, out = new Float32Array(data.length);
  if (axis === 0) { // whole rows at a time
    const sums = new Float64Array(width);
    for (let y = 0; y < height; y++) {
      const here = y * width;
      for (let x = 0; x < width; x++) sums[x] = data[here + x] * weights[0];
      for (let r = radius; r > 0; r--) {
        const above = beyond(y - r, height, mode) * width, below = beyond(y + r, height, mode) * width;
        const weight = weights[r];
        if (sign > 0) for (let x = 0; x < width; x++) sums[x] += (data[below + x] + data[above + x]) * weight;
        else for (let x = 0; x < width; x++) sums[x] += (data[below + x] - data[above + x]) * weight;
      }
      out.set(sums, here);
    }
    return image(out, height, width);
  }
  const line = new Float64Array(width + 2 * radius);
  const places = Int32Array.from(line, (_, i) => beyond(i - radius, width, mode));
  for (let y = 0; y < height; y++) {
    const here = y * width;
    for (let i = 0; i < line.length; i++) line[i] = data[here + places[i]];
    for (let x = 0; x < width; x++) {
      const centre = x + radius;
      let sum = line[centre] * weights[0];
      if (sign > 0) for (let r = radius; r > 0; r--) sum += (line[centre + r] + line[centre - r]) * weights[r];
      else for (let r = radius; r > 0; r--) sum += (line[centre + r] - line[centre - r]) * weights[r];
      out[here + x] = sum;
    }
  }
  return image(out, height, width);
}

/* scipy.ndimage.gaussian_filter of a float image; `sigma` and `orders` are those of both axes. */
export function gaussianFilter(grey, sigma, { mode = "reflect", orders = [0, 0] } = {}) {
  const sigmas = Array.isArray(sigma) ? sigma : [sigma, sigma];
  let out = grey;
  for (const axis of [0, 1]) {
    if (sigmas[axis] <= 0) continue;
    out = correlate(out, gaussianWeights(sigmas[axis], orders[axis]), axis, orders[axis] ? -1 : 1, mode);
  }
  return out;
}

/* scipy.ndimage.gaussian_gradient_magnitude. */
export function gaussianGradientMagnitude(grey, sigma) {
  const down = gaussianFilter(grey, sigma, { orders: [1, 0] }).data;
  const across = gaussianFilter(grey, sigma, { orders: [0, 1] }).data;
  const out = new Float32Array(down.length), { fround } = Math;
  for (let i = 0; i < out.length; i++) {
    out[i] = Math.sqrt(fround(fround(down[i] * down[i]) + fround(across[i] * across[i])));
  }
  return image(out, grey.height, grey.width);
}

/* ---- Sizes and parts (microlab.data.transforms, microlab.data.mapped, microlab.segment.zoom) ---- */

/* Where the pixels of a line of `after` pixels lie in one of `before`. */
function coordinates(before, after) {
  const scale = before / after;
  return Float64Array.from({ length: after }, (_, k) => (before > 1 ? Math.abs((k + 0.5) * scale - 0.5) : 0));
}

function nearestPixels(values, height, width) {
  const out = new values.data.constructor(height * width);
  const [rows, columns] = [[values.height, height], [values.width, width]].map(
    ([before, after]) => coordinates(before, after).map((c) => Math.floor(c + 0.5)),
  );
  for (let y = 0, i = 0; y < height; y++) {
    const row = rows[y] * values.width;
    for (let x = 0; x < width; x++, i++) out[i] = values.data[row + columns[x]];
  }
  return image(out, height, width);
}

/* skimage.transform.resize, order 1: linear, after a Gaussian along the axes that shrink if `smooth`; within the range
   of the values. */
function resizeLinear(values, height, width, smooth) {
  const low = values.data.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.data.reduce((a, b) => Math.max(a, b), -Infinity);
  const sigma = [[values.height, height], [values.width, width]].map(([before, after]) => (before / after - 1) / 2);
  const { data } = smooth ? gaussianFilter(values, sigma, { mode: "mirror" }) : values;
  const out = new Float32Array(height * width);
  const rows = coordinates(values.height, height), columns = coordinates(values.width, width);
  const left = Int32Array.from(columns, Math.floor);
  const right = left.map((x) => beyond(x + 1, values.width, "mirror"));
  for (let y = 0, i = 0; y < height; y++) {
    const row = Math.floor(rows[y]), top = row * values.width;
    const bottom = beyond(row + 1, values.height, "mirror") * values.width;
    const below = rows[y] - row, above = 1 - below;
    for (let x = 0; x < width; x++, i++) {
      const after = columns[x] - left[x], before = 1 - after;
      const value = data[top + left[x]] * above * before + data[top + right[x]] * above * after
        + data[bottom + left[x]] * below * before + data[bottom + right[x]] * below * after;
      out[i] = value < low ? low : value > high ? high : value;
    }
  }
  return image(out, height, width);
}

/* `resize_by`: magnify (zoom > 1) or shrink and smooth (zoom < 1) a grey image. */
export function resizeBy(grey, zoom) {
  if (zoom === 1) return grey;
  const factor = Math.max(zoom, 1 / Math.min(grey.height, grey.width));
  const [height, width] = [grey.height, grey.width].map((n) => Math.max(roundHalfEven(factor * n), 1));
  return resizeLinear(grey, height, width, factor < 1);
}

/* `resize_to`: a map at another size; a Float32Array in [0, 1] linearly, whole numbers by the nearest pixel. */
export function resizeTo(values, height, width) {
  if (values.height === height && values.width === width) return values;
  if (!(values.data instanceof Float32Array)) return nearestPixels(values, height, width);
  const out = resizeLinear(values, height, width, values.data.length > height * width);
  for (let i = 0; i < out.data.length; i++) out.data[i] = Math.min(Math.max(out.data[i], 0), 1);
  return out;
}

/* `middle`: the central window, about `side` pixels a side, or all of the image. */
export function middle({ data, height, width }, side) {
  const half = Math.max(Math.floor(side / 2), 1);
  const cy = Math.floor(height / 2), cx = Math.floor(width / 2);
  const top = Math.max(cy - half, 0), bottom = Math.min(cy + half, height);
  const left = Math.max(cx - half, 0), right = Math.min(cx + half, width);
  const out = new data.constructor((bottom - top) * (right - left));
  for (let y = top; y < bottom; y++) {
    out.set(data.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  }
  return image(out, bottom - top, right - left);
}

/* `reduction`: whole number by which an image is reduced so that its longer side has at most `side` pixels. */
export function reduction({ height, width }, side) { return Math.ceil(Math.max(height, width) / side); }

/* `reduced`: means of squares of `factor` x `factor` pixels. */
export function reduced(grey, factor) {
  const height = Math.floor(grey.height / factor), width = Math.floor(grey.width / factor);
  const out = new Float32Array(height * width), sums = new Float64Array(width);
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    for (let dy = 0; dy < factor; dy++) {
      const row = (y * factor + dy) * grey.width;
      for (let x = 0; x < width * factor; x++) sums[Math.floor(x / factor)] += grey.data[row + x];
    }
    for (let x = 0; x < width; x++) out[y * width + x] = sums[x] / (factor * factor);
  }
  return image(out, height, width);
}

/* `standardise`: mean 0 and standard deviation 1; an image of one grey level becomes zero everywhere. */
export function standardise({ data, height, width }) {
  const out = new Float32Array(data.length);
  let sum = 0, squares = 0;
  for (let i = 0; i < data.length; i++) sum += data[i];
  const mean = sum / data.length;
  for (let i = 0; i < data.length; i++) squares += (data[i] - mean) ** 2;
  const deviation = Math.sqrt(squares / data.length);
  if (deviation <= 1e-6) return image(out, height, width);
  const shift = Math.fround(mean), scale = Math.fround(deviation);
  for (let i = 0; i < data.length; i++) out[i] = Math.fround(data[i] - shift) / scale;
  return image(out, height, width);
}

/* ---- The eight symmetries of the square (microlab.segment.uncertainty) ---- */

/* `view`: k quarter turns counterclockwise, mirrored as well from k = 4 on. */
export function view(values, k) {
  const turned = quarterTurns(values, k % 4);
  return k >= 4 ? mirrored(turned) : turned;
}

/* `view_back`: undo `view`. */
export function viewBack(values, k) {
  return quarterTurns(k >= 4 ? mirrored(values) : values, (4 - (k % 4)) % 4);
}

function quarterTurns({ data, height, width }, turns) {
  const [h, w] = turns % 2 ? [width, height] : [height, width];
  const out = new data.constructor(data.length);
  // Index of the first pixel, and steps to the next row and column.
  const [first, down, across] = [
    [0, width, 1], [width - 1, -1, width], [data.length - 1, -width, -1], [(height - 1) * width, 1, -width],
  ][turns];
  for (let y = 0, i = 0; y < h; y++) {
    for (let x = 0, from = first + y * down; x < w; x++, i++, from += across) out[i] = data[from];
  }
  return image(out, h, w);
}

function mirrored({ data, height, width }) {
  const out = new data.constructor(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) out[y * width + x] = data[y * width + width - 1 - x];
  }
  return image(out, height, width);
}

/* ---- Distances and morphology ---- */

/* Squared distance of every pixel of a mask from the nearest pixel that is not in it, an Int32Array; huge if the mask
   is everywhere. (Meijster, Roerdink and Hesselink, 2000.) */
export function squaredDistances({ data, height, width }) {
  const far = height + width, out = new Int32Array(data.length), columns = new Int32Array(data.length);
  for (let x = 0; x < width; x++) columns[x] = data[x] ? far : 0;
  for (let i = width; i < data.length; i++) columns[i] = data[i] ? Math.min(columns[i - width] + 1, far) : 0;
  for (let i = data.length - width - 1; i >= 0; i--) columns[i] = Math.min(columns[i], columns[i + width] + 1);
  const place = new Int32Array(width), from = new Int32Array(width); // of parabolas, and where each is the lowest
  const rise = new Float64Array(width);
  for (let row = 0; row < data.length; row += width) {
    for (let x = 0; x < width; x++) rise[x] = columns[row + x] * columns[row + x];
    let last = 0;
    place[0] = from[0] = 0;
    for (let x = 1; x < width; x++) {
      while (last >= 0) { // drop parabolas that are not the lowest where they begin
        const p = place[last], at = from[last];
        if ((at - p) * (at - p) + rise[p] <= (at - x) * (at - x) + rise[x]) break;
        last--;
      }
      let begin = 0;
      if (last >= 0) {
        const p = place[last];
        begin = 1 + Math.floor((x * x - p * p + rise[x] - rise[p]) / (2 * (x - p)));
      }
      if (begin < width) {
        last++;
        place[last] = x;
        from[last] = begin;
      }
    }
    for (let x = width - 1; x >= 0; x--) {
      const p = place[last];
      out[row + x] = (x - p) * (x - p) + rise[p];
      if (x === from[last]) last--;
    }
  }
  return image(out, height, width);
}

/* scipy.ndimage.distance_transform_edt, of a mask that is not everywhere. */
export function distances(mask) {
  return pixelwise(Float64Array, squaredDistances(mask), Math.sqrt);
}

/* scipy.ndimage.binary_opening with a disk; what is outside of the image is not in the mask. */
export function openingWithDisk(mask, radius) {
  const height = mask.height + 2, width = mask.width + 2;
  const wide = image(new Uint8Array(height * width), height, width);
  for (let y = 0; y < mask.height; y++) {
    wide.data.set(mask.data.subarray(y * mask.width, (y + 1) * mask.width), (y + 1) * width + 1);
  }
  const inside = squaredDistances(wide).data;
  const others = wide.data.map((_, i) => (inside[i] > radius * radius ? 0 : 1)); // not in the eroded mask
  const out = new Uint8Array(mask.data.length);
  if (others.includes(0)) {
    const near = squaredDistances(image(others, height, width)).data;
    for (let y = 0, i = 0; y < mask.height; y++) {
      for (let x = 0; x < mask.width; x++, i++) out[i] = near[(y + 1) * width + x + 1] <= radius * radius ? 1 : 0;
    }
  }
  return image(out, mask.height, mask.width);
}

/* skimage.measure.label of a mask: connected regions 1, 2, ... in the order of their first pixels, row by row.
   Connectivity 1: through edges of pixels; 2: through corners, too. */
export function label({ data, height, width }, connectivity = 1) {
  const out = new Int32Array(data.length), stack = new Int32Array(data.length);
  let count = 0;
  for (let start = 0; start < data.length; start++) {
    if (!data[start] || out[start]) continue;
    out[start] = ++count;
    stack[0] = start;
    for (let top = 1; top > 0;) {
      const i = stack[--top], y = Math.floor(i / width), x = i - y * width;
      for (let dy = y > 0 ? -1 : 0; dy <= (y + 1 < height ? 1 : 0); dy++) {
        for (let dx = x > 0 ? -1 : 0; dx <= (x + 1 < width ? 1 : 0); dx++) {
          if (dy && dx && connectivity === 1) continue;
          const next = i + dy * width + dx;
          if (data[next] && !out[next]) {
            out[next] = count;
            stack[top++] = next;
          }
        }
      }
    }
  }
  return { ...image(out, height, width), count };
}

/* scipy.ndimage.binary_fill_holes: a mask with what does not reach the image's edge outside of it. */
export function fillHoles({ data, height, width }) {
  const outside = label(image(data.map((one) => 1 - one), height, width));
  const open = new Uint8Array(outside.count + 1);
  for (let y = 0; y < height; y++) {
    const step = y === 0 || y === height - 1 ? 1 : Math.max(width - 1, 1);
    for (let x = 0; x < width; x += step) open[outside.data[y * width + x]] = 1;
  }
  open[0] = 0; // the mask itself
  return image(data.map((_, i) => 1 - open[outside.data[i]]), height, width);
}

/* Pixels of `mask` connected with those of `seeds` through edges and corners, the seeds in it included. */
export function propagate(seeds, { data, height, width }) {
  const out = new Uint8Array(data.length), stack = new Int32Array(data.length);
  let top = 0;
  for (let i = 0; i < data.length; i++) if (seeds.data[i] && data[i]) { out[i] = 1; stack[top++] = i; }
  while (top > 0) {
    const i = stack[--top], y = Math.floor(i / width), x = i - y * width;
    for (let dy = y > 0 ? -1 : 0; dy <= (y + 1 < height ? 1 : 0); dy++) {
      for (let dx = x > 0 ? -1 : 0; dx <= (x + 1 < width ? 1 : 0); dx++) {
        const next = i + dy * width + dx;
        if (data[next] && !out[next]) { out[next] = 1; stack[top++] = next; }
      }
    }
  }
  return image(out, height, width);
}

/* skimage.morphology.reconstruction by erosion, connectivity 1: `seed` (at least `floor` everywhere) sinks as far as
   `floor` lets it. (Vincent, 1993: two sweeps, then a queue.) */
export function reconstructByErosion(seed, floor) {
  const { height, width } = seed, out = new Float64Array(seed.data), low = floor.data, queue = [];
  for (let i = 0, x = 0; i < out.length; i++, x = x + 1 === width ? 0 : x + 1) {
    let value = out[i];
    if (i >= width && out[i - width] < value) value = out[i - width];
    if (x > 0 && out[i - 1] < value) value = out[i - 1];
    out[i] = value < low[i] ? low[i] : value;
  }
  for (let i = out.length - 1, x = width - 1; i >= 0; i--, x = x ? x - 1 : width - 1) {
    const below = i + width < out.length ? i + width : i, right = x + 1 < width ? i + 1 : i;
    const value = Math.max(Math.min(out[i], out[below], out[right]), low[i]);
    out[i] = value;
    if ((out[below] > value && out[below] > low[below]) || (out[right] > value && out[right] > low[right])) queue.push(i);
  }
  const sink = (next, value) => {
    if (out[next] <= value || out[next] === low[next]) return;
    out[next] = Math.max(value, low[next]);
    queue.push(next);
  };
  for (let k = 0; k < queue.length; k++) {
    const i = queue[k], value = out[i], x = i % width;
    if (i >= width) sink(i - width, value);
    if (x > 0) sink(i - 1, value);
    if (x + 1 < width) sink(i + 1, value);
    if (i + width < out.length) sink(i + width, value);
  }
  return image(out, height, width);
}

/* skimage.morphology.local_minima, connectivity 1: plateaus that are lower than all beside them; none if there is but
   one plateau. */
export function localMinima({ data, height, width }) {
  const out = new Uint8Array(data.length).fill(1), stack = new Int32Array(data.length), size = data.length;
  let top = 0;
  for (let i = 0, x = 0; i < size; i++) {
    const value = data[i];
    if ((i >= width && data[i - width] < value) || (x > 0 && data[i - 1] < value)
      || (x + 1 < width && data[i + 1] < value) || (i + width < size && data[i + width] < value)) {
      out[i] = 0;
      stack[top++] = i;
    }
    if (++x === width) x = 0;
  }
  if (top === 0) return image(out.fill(0), height, width);
  const drop = (next, value) => {
    if (out[next] && data[next] === value) { out[next] = 0; stack[top++] = next; }
  };
  while (top > 0) { // the rest of their plateaus
    const i = stack[--top], x = i % width, value = data[i];
    if (i >= width) drop(i - width, value);
    if (x > 0) drop(i - 1, value);
    if (x + 1 < width) drop(i + 1, value);
    if (i + width < size) drop(i + width, value);
  }
  return image(out, height, width);
}

/* ---- Statistics ---- */

/* numpy.quantile, linear, of a typed array of floats; NaN without any. */
export function quantile(values, q) {
  if (!values.length) return NaN;
  const sorted = values.slice().sort(); // typed arrays sort by value
  const round = values instanceof Float32Array ? Math.fround : (value) => value;
  const place = (sorted.length - 1) * q, before = Math.floor(place), share = round(place - before);
  const low = sorted[before], step = round(sorted[Math.min(before + 1, sorted.length - 1)] - low);
  if (share < 0.5) return round(low + round(step * share));
  return round(low + step - round(step * round(1 - (place - before))));
}

/* Mean of `values` where `mask` is 1; NaN where it never is. */
export function meanWhere(values, mask) {
  let sum = 0, count = 0;
  for (let i = 0; i < mask.length; i++) if (mask[i]) { sum += values[i]; count++; }
  return sum / count;
}

/* The largest value of a typed array of whole numbers >= 0, 0 of an empty one. */
export function largest(values) {
  let most = 0;
  for (let i = 0; i < values.length; i++) if (values[i] > most) most = values[i];
  return most;
}

/* numpy.bincount: how often each number 0, 1, ... occurs. */
export function counts(values) {
  const out = new Int32Array(largest(values) + 1);
  for (let i = 0; i < values.length; i++) out[values[i]]++;
  return out;
}
