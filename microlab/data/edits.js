/* Edits of a label image in the browser: the rules of edits.py beside this file, pixel for pixel, and the sizes
   of grains as microlab/measure/grains.py measures them. Needs no page and no library.

     const image = new Grains(labels, width);                        labels: Int32Array, row by row
     image.apply({ do: "merge", at: [[10, 20], [10, 40]] });         pixels are [row, column]
     image.undo();  image.table();  image.mean();  image.edits

   A function here has the name of its counterpart in Python. */

export const REACH = 8; // px; a boundary line that a merge fills is at most as wide
export const LEAST_PIECE = 10; // px; what a drawn line cuts off must be as large to become a grain
const LARGEST = 2 ** 31 - 1;
const OUTSIDE = -1; // in the closed labels: not in the field of view

export class Grains {
  /* `labels`: Int32Array of height x width, 0 on boundaries or nowhere; copied.
     `fieldOfView`: whether pixels of label 0 lie outside of the field of view; or the field of view itself, a
     Uint8Array. What lies outside stays 0. */
  constructor(labels, width, fieldOfView = false) {
    this.labels = Int32Array.from(labels);
    this.width = width;
    this.height = labels.length / width;
    this.field = fieldOfView === true ? Uint8Array.from(labels, (label) => (label > 0 ? 1 : 0)) : fieldOfView || null;
    if (this.field && !this.field.includes(0)) this.field = null;
    this.lines = !grainsTouch(this.labels, width); // boundaries are lines of label 0
    this.largest = this.labels.reduce((a, b) => Math.max(a, b), 0); // the largest number that was ever used
    this.history = []; // of {edit, largest, index, old}
    this.undone = []; // edits that `redo` makes again, the last one first
    this.closed = new Int32Array(labels.length); // boundary pixels belong to the nearest grain
    this.grains = new Map(); // by number: {area, top, left, bottom, right, cut, weight}; the box is closed
    this.places = this.field ? fieldSums(this.field, this.width, this.height) : null;
    this.measure({ top: 0, left: 0, bottom: this.height, right: width });
  }

  get edits() { return this.history.map(({ edit }) => edit); }

  labelAt([y, x]) { return this.labels[y * this.width + x]; }

  /* Make an edit; throws an Error that says why if it cannot be made, and changes nothing then.
     Returns {box, changed}: the part of the image that may look different, and the numbers of grains that were
     made, removed or changed. */
  apply(edit) {
    const result = this.make(edit);
    this.undone = [];
    return result;
  }

  make(edit) {
    const change = { edit, largest: this.largest, index: [], old: [] };
    this.history.push(change);
    try {
      check(edit, this.height, this.width);
      RULES[edit.do](this, edit.at);
    } catch (error) {
      this.takeBack();
      throw error;
    }
    return this.measure(this.box(change.index));
  }

  /* Take the last edit back, or make the last one taken back again; null if there is none. */
  undo() {
    if (!this.history.length) return null;
    const { edit, index } = this.takeBack();
    this.undone.push(edit);
    return { edit, ...this.measure(this.box(index)) };
  }

  redo() {
    const edit = this.undone.pop();
    return edit ? { edit, ...this.make(edit) } : null;
  }

  takeBack() {
    const change = this.history.pop();
    for (let k = change.index.length - 1; k >= 0; k--) this.labels[change.index[k]] = change.old[k];
    this.largest = change.largest;
    return change;
  }

  /* All that changes labels passes here, so that it can be taken back. */
  set(i, label) {
    if (this.labels[i] === label) return;
    const { index, old } = this.history[this.history.length - 1];
    index.push(i);
    old.push(this.labels[i]);
    this.labels[i] = label;
  }

  newNumber() {
    if (this.largest === LARGEST) throw new Error(`no number is left above label ${LARGEST}; renumber the grains first`);
    return (this.largest += 1);
  }

  grain(pixel) {
    const label = this.labelAt(pixel);
    if (!label) throw new Error(`there is no grain at row ${pixel[0]}, column ${pixel[1]}`);
    return label;
  }

  inField(i) { return !this.field || this.field[i] === 1; }

  /* Box of the pixels with these indices. */
  box(index) {
    const box = { top: this.height, left: this.width, bottom: 0, right: 0 };
    for (const i of index) widen(box, Math.floor(i / this.width), i % this.width);
    return box;
  }

  /* A box, wider by `margin` where the image allows. */
  around({ top, left, bottom, right }, margin = 0) {
    return {
      top: Math.max(top - margin, 0), left: Math.max(left - margin, 0),
      bottom: Math.min(bottom + margin, this.height), right: Math.min(right + margin, this.width),
    };
  }

  /* Indices of the pixels of a box for which `test(i)` holds, row by row. */
  where({ top, left, bottom, right }, test) {
    const index = [];
    for (let y = top; y < bottom; y++) {
      for (let i = y * this.width + left; i < y * this.width + right; i++) if (test(i)) index.push(i);
    }
    return index;
  }

  /* Indices of the pixels of a grain. Its box is that of the closed grain, which holds it. */
  pixels(label) { return this.where(this.grains.get(label), (i) => this.labels[i] === label); }

  /* The pixels that share an edge with pixel i. */
  beside(i) {
    const { width } = this, x = i % width, pixels = [];
    if (i >= width) pixels.push(i - width);
    if (x) pixels.push(i - 1);
    if (x + 1 < width) pixels.push(i + 1);
    if (i + width < this.labels.length) pixels.push(i + width);
    return pixels;
  }

  /* Measure again what an edit of the pixels in `box` can have changed. */
  measure(box) {
    if (box.bottom <= box.top) return { box, changed: [] };
    const { labels, closed, grains, width, height } = this;
    const part = this.around(box, REACH), changed = new Set();
    for (let y = part.top; y < part.bottom; y++) {
      for (let x = part.left; x < part.right; x++) {
        const i = y * width + x;
        if (closed[i] > 0) changed.add(closed[i]);
        closed[i] = this.inField(i) ? labels[i] || this.nearest(y, x) : OUTSIDE;
        if (closed[i] > 0) changed.add(closed[i]);
      }
    }
    const all = { ...part };
    for (const label of changed) {
      const old = grains.get(label);
      if (old) for (const [y, x] of [[old.top, old.left], [old.bottom - 1, old.right - 1]]) widen(all, y, x);
      grains.set(label, { area: 0, top: height, left: width, bottom: 0, right: 0, cut: false, weight: 0 });
    }
    let last = 0, grain = null; // labels come in runs
    for (let y = all.top; y < all.bottom; y++) {
      for (let x = all.left; x < all.right; x++) {
        const i = y * width + x;
        if (closed[i] <= 0) continue;
        if (closed[i] !== last) {
          last = closed[i];
          grain = changed.has(last) ? grains.get(last) : null;
        }
        if (!grain) continue;
        if (labels[i]) grain.area += 1;
        widen(grain, y, x);
        if (this.field && !grain.cut) grain.cut = this.bordersOutside(i, x);
      }
    }
    for (const label of changed) {
      const one = grains.get(label);
      if (!one.area) { grains.delete(label); continue; }
      one.cut ||= one.top === 0 || one.left === 0 || one.bottom === height || one.right === width;
      one.weight = one.cut ? 0 : this.edgeWeight(one.bottom - one.top, one.right - one.left);
    }
    return { box: part, changed: [...changed] };
  }

  /* Whether a pixel shares an edge with one outside of the field of view. */
  bordersOutside(i, x) {
    const { closed, width } = this; // undefined above and below the image
    return closed[i - width] === OUTSIDE || closed[i + width] === OUTSIDE
      || (x > 0 && closed[i - 1] === OUTSIDE) || (x + 1 < width && closed[i + 1] === OUTSIDE);
  }

  /* The grain nearest to a pixel of label 0, as `close_boundaries` has it; 0 beyond REACH. */
  nearest(y, x) {
    for (const [dy, dx] of NEAR) {
      const row = y + dy, column = x + dx;
      if (row < 0 || column < 0 || row >= this.height || column >= this.width) continue;
      const label = this.labels[row * this.width + column];
      if (label) return label;
    }
    return 0;
  }

  /* Miles-Lantuejoul weight of a whole grain with a box of h x w. */
  edgeWeight(h, w) {
    const { width, height, places } = this;
    if (!places) return (width * height) / ((width - w - 1) * (height - h - 1));
    const { sums, rows, columns, step, area, known } = places;
    const down = Math.ceil((h + 2) / step), across = Math.ceil((w + 2) / step), row = columns + 1;
    const key = down * row + across;
    if (known.has(key)) return area / known.get(key);
    let free = 0; // places where the box lies inside of the field
    for (let y = down; y <= rows; y++) {
      for (let x = across; x <= columns; x++) {
        const end = y * row + x, begin = end - down * row;
        if (sums[end] - sums[begin] - sums[end - across] + sums[begin - across] === 0) free += 1;
      }
    }
    known.set(key, Math.max(free, 1));
    return area / known.get(key);
  }

  /* Rows of the grain table, by number: {label, area, diameter, cut, weight}, in pixels. */
  table() {
    return [...this.grains.keys()].sort((a, b) => a - b).map((label) => this.row(label));
  }

  row(label) {
    const { area, cut, weight } = this.grains.get(label);
    return { label, area, diameter: 2 * Math.sqrt(area / Math.PI), cut, weight };
  }

  /* Number of grains, how many the edge cuts, and the weighted mean diameter of the others, px (NaN without any). */
  mean() {
    let cut = 0, sum = 0, weights = 0;
    for (const grain of this.grains.values()) {
      cut += grain.cut;
      sum += grain.weight * 2 * Math.sqrt(grain.area / Math.PI);
      weights += grain.weight;
    }
    return { grains: this.grains.size, cut, diameter: sum / weights };
  }
}

/* The file of edits as text, one edit on a line; `name` is the image's, for people. */
export function editsFile(image, sha256, name, version) {
  const { height, width, field, edits } = image;
  const head = {
    format: "microlab edits 1", microlab: version, image: name, sha256,
    shape: [height, width], field_of_view: Boolean(field),
  };
  const lines = Object.entries(head).map(([key, value]) => ` ${JSON.stringify(key)}: ${JSON.stringify(value)}`);
  const rows = edits.map((edit) => `  ${JSON.stringify({ do: edit.do, at: edit.at })}`);
  return `{\n${[...lines, ` "edits": [${rows.length ? `\n${rows.join(",\n")}\n ` : ""}]`].join(",\n")}\n}\n`;
}

/* SHA-256 of a label image, as `labels_sha256` has it; null where the browser offers none. */
export async function labelsSha256(labels, width) {
  if (!globalThis.crypto?.subtle) return null;
  const head = new TextEncoder().encode(`${labels.length / width} ${width}\n`);
  const bytes = new Uint8Array(head.length + 4 * labels.length);
  bytes.set(head);
  bytes.set(new Uint8Array(labels.buffer, labels.byteOffset, labels.byteLength), head.length);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const RULES = { merge, split, delete: remove, add };
const COUNTS = { merge: [2, 2], split: [2, Infinity], delete: [1, 1], add: [3, Infinity] };

function check({ do: what, at }, height, width) {
  if (!Object.hasOwn(COUNTS, what)) throw new Error(`${what} is none of ${Object.keys(COUNTS).join(", ")}`);
  const [least, most] = COUNTS[what], count = at?.length ?? 0;
  if (count < least || count > most) throw new Error(`${what} takes ${least}${most === least ? "" : " or more"} pixels, got ${count}`);
  const within = (v, n) => Number.isInteger(v) && v >= 0 && v < n;
  for (const [y, x] of at) {
    if (!(within(y, height) && within(x, width))) throw new Error(`row ${y}, column ${x} lies outside of the image`);
  }
}

function merge(image, at) {
  const [first, second] = at.map((pixel) => image.grain(pixel));
  if (first === second) throw new Error(`both pixels lie in grain ${first}; a merge needs two grains`);
  const merged = new Set([...image.pixels(first), ...image.pixels(second)]);
  const [here, there] = at.map(([y, x]) => y * image.width + x);
  const connected = () => regionOf(image, here, merged).includes(there);
  if (!connected()) {
    const near = [first, second].map((label) => image.around(image.grains.get(label), REACH));
    const both = { // where both can be near
      top: Math.max(near[0].top, near[1].top), left: Math.max(near[0].left, near[1].left),
      bottom: Math.min(near[0].bottom, near[1].bottom), right: Math.min(near[0].right, near[1].right),
    };
    const isFree = (i) => image.labels[i] === 0 && image.inField(i);
    for (const i of image.where(both, (k) => isFree(k) && isBetween(image, k, first, second))) merged.add(i);
    if (!connected()) throw new Error(`grains ${first} and ${second} share no boundary`);
  }
  for (const i of merged) image.set(i, first);
}

/* Whether a pixel is nearer to both grains (chessboard distance) than to any other (city block). */
function isBetween(image, i, first, second) {
  const { labels, width, height } = image, y = Math.floor(i / width), x = i % width;
  const at = (dy, dx) => (y + dy < 0 || x + dx < 0 || y + dy >= height || x + dx >= width ? 0 : labels[i + dy * width + dx]);
  const found = new Set();
  let farther = 0;
  for (let r = 1; r <= REACH && found.size < 2; r++) {
    for (let dy = -r; dy <= r; dy++) {
      for (let dx = -r; dx <= r; dx += Math.abs(dy) === r ? 1 : 2 * r) {
        const label = at(dy, dx);
        if ((label === first || label === second) && !found.has(label)) { found.add(label); farther = r; }
      }
    }
  }
  if (found.size < 2) return false;
  for (let dy = -farther; dy <= farther; dy++) {
    const most = farther - Math.abs(dy);
    for (let dx = -most; dx <= most; dx++) {
      const label = at(dy, dx);
      if (label > 0 && label !== first && label !== second) return false;
    }
  }
  return true;
}

function split(image, at) {
  const line = path(image, at), counts = new Map();
  for (const i of line) if (image.labels[i]) counts.set(image.labels[i], (counts.get(image.labels[i]) ?? 0) + 1);
  if (!counts.size) throw new Error("the line meets no grain");
  const [[grain]] = [...counts].sort(([a, m], [b, n]) => n - m || a - b);
  const whole = image.pixels(grain);
  const kept = pieces(image, whole.filter((i) => !line.has(i)));
  if (kept.length < 2) throw new Error(`the line does not cut grain ${grain} in two; draw it from boundary to boundary`);
  for (const piece of kept.slice(1)) {
    const label = image.newNumber();
    for (const i of piece) image.set(i, label);
  }
  const sources = new Set(kept.flat()), rest = whole.filter((i) => !sources.has(i));
  if (image.lines) for (const i of rest) image.set(i, 0);
  else spread(image, rest, (i) => sources.has(i));
}

function remove(image, [pixel]) {
  for (const i of image.pixels(image.grain(pixel))) image.set(i, 0);
}

function add(image, at) {
  const { labels } = image, outline = path(image, [...at, at[0]]);
  const box = image.box(outline);
  const area = image.where(box, (i) => (
    image.inField(i) && (image.lines ? !outline.has(i) && isInside(image, i, at) : outline.has(i) || isInside(image, i, at))
  ));
  const [piece] = pieces(image, area);
  if (!piece) throw new Error(`the outline encloses less than ${LEAST_PIECE} pixels`);
  const taken = image.lines ? [...piece, ...[...outline].filter((i) => image.inField(i))] : piece;
  const cut = [...new Set(taken.map((i) => labels[i]))].filter((label) => label > 0).sort((a, b) => a - b);
  for (const i of taken) image.set(i, 0);
  const made = image.newNumber();
  for (const i of piece) image.set(i, made);
  for (const grain of cut) {
    const whole = image.pixels(grain), kept = pieces(image, whole);
    for (const part of kept.slice(1)) {
      const label = image.newNumber();
      for (const i of part) image.set(i, label);
    }
    const sources = new Set(kept.flat()), slivers = whole.filter((i) => !sources.has(i));
    if (image.lines) for (const i of slivers) image.set(i, 0);
    else spread(image, slivers, (i) => labels[i] === made);
  }
}

/* Indices of the pixels on the straight lines from each corner to the next. */
function path(image, at) {
  const part = (k, length, steps) => Math.sign(length) * Math.floor((2 * k * Math.abs(length) + steps) / (2 * steps));
  const pixels = new Set([at[0][0] * image.width + at[0][1]]);
  for (let n = 1; n < at.length; n++) {
    const [[y0, x0], [y1, x1]] = [at[n - 1], at[n]];
    const steps = Math.max(Math.abs(y1 - y0), Math.abs(x1 - x0));
    for (let k = 1; k <= steps; k++) {
      pixels.add((y0 + part(k, y1 - y0, steps)) * image.width + x0 + part(k, x1 - x0, steps));
    }
  }
  return pixels;
}

/* Whether the centre of a pixel lies inside of the closed outline, by the even-odd rule. */
function isInside(image, i, at) {
  const y = Math.floor(i / image.width), x = i % image.width;
  let inside = false;
  for (let n = 0; n < at.length; n++) {
    let [y0, x0] = at[n], [y1, x1] = at[(n + 1) % at.length];
    if (y0 > y1) [y0, x0, y1, x1] = [y1, x1, y0, x0];
    if (y0 <= y && y < y1 && (x - x0) * (y1 - y0) < (y - y0) * (x1 - x0)) inside = !inside;
  }
  return inside;
}

/* The pixels of a set that are connected with pixel i through edges of pixels. */
function regionOf(image, i, pixels) {
  const region = [i], seen = new Set(region);
  for (let k = 0; k < region.length; k++) {
    for (const next of image.beside(region[k])) {
      if (pixels.has(next) && !seen.has(next)) { seen.add(next); region.push(next); }
    }
  }
  return region;
}

/* Regions of at least LEAST_PIECE px, connected through edges of pixels, the largest first. */
function pieces(image, index) {
  const left = new Set(index), regions = [];
  for (const i of index) { // row by row, so that of equal ones the one that begins first comes first
    if (!left.has(i)) continue;
    const region = regionOf(image, i, left);
    for (const pixel of region) left.delete(pixel);
    if (region.length >= LEAST_PIECE) regions.push(region);
  }
  return regions.sort((a, b) => b.length - a.length);
}

/* Give pixels to the grains of `isSource` beside them, round by round; of several the smallest number. */
function spread(image, todo, isSource) {
  const known = new Map(); // labels of pixels given before
  const labelOf = (i) => known.get(i) ?? (isSource(i) ? image.labels[i] : Infinity);
  let left = todo;
  for (;;) {
    const given = [];
    left = left.filter((i) => {
      const label = Math.min(...image.beside(i).map(labelOf));
      if (label < Infinity) given.push([i, label]);
      return label === Infinity;
    });
    if (!given.length) return;
    for (const [i, label] of given) { known.set(i, label); image.set(i, label); }
  }
}

function grainsTouch(labels, width) {
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    if (!label) continue;
    const right = (i + 1) % width ? labels[i + 1] : 0, below = i + width < labels.length ? labels[i + width] : 0;
    if ((right && right !== label) || (below && below !== label)) return true;
  }
  return false;
}

function widen(box, y, x) {
  if (y < box.top) box.top = y;
  if (x < box.left) box.left = x;
  if (y >= box.bottom) box.bottom = y + 1;
  if (x >= box.right) box.right = x + 1;
}

/* Steps to the pixels within REACH, nearest first; of equally near ones the leftmost, then the topmost. */
const NEAR = [];
for (let dy = -REACH; dy <= REACH; dy++) {
  for (let dx = -REACH; dx <= REACH; dx++) if (dy * dy + dx * dx <= REACH * REACH) NEAR.push([dy, dx]);
}
NEAR.sort(([ay, ax], [by, bx]) => ay * ay + ax * ax - by * by - bx * bx || ax - bx || ay - by);

/* Sums of what lies outside of the field of view, over all rectangles from the upper left corner, in steps of several
   pixels where the image is large: how many places a box has. */
function fieldSums(field, width, height) {
  const half = Math.max(width, height) / 512, near = Math.round(half);
  const step = Math.max(1, near - half === 0.5 && near % 2 ? near - 1 : near); // halves to even, as Python rounds
  const rows = Math.ceil(height / step), columns = Math.ceil(width / step), row = columns + 1;
  const sums = new Int32Array((rows + 1) * row);
  let area = 0;
  for (let y = 1; y <= rows; y++) {
    for (let x = 1; x <= columns; x++) {
      const shown = field[(y - 1) * step * width + (x - 1) * step];
      area += shown;
      sums[y * row + x] = 1 - shown + sums[y * row + x - 1] + sums[(y - 1) * row + x] - sums[(y - 1) * row + x - 1];
    }
  }
  return { sums, rows, columns, step, area, known: new Map() }; // known: places by the size of the box
}
