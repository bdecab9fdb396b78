/* TIFF files as stored values: what microlab/data/formats.py makes of them with tifffile and Pillow.

     directories -> page -> strips or tiles, decompressed -> predictor undone -> values, bright is large

   Read are classic and BigTIFF of either byte order; 1, 2, 4, 8, 12, 16 and 32 bit integers, floating point of 16, 32
   and 64 bits; no compression, LZW, deflate, PackBits, and JPEG by the browser; samples beside each other or in
   planes; grey, white is zero, palette, RGB, CMYK, the lightness of LAB, and alpha. */

import { channel, tabulate } from "./tabulate.js";
import C from "./constants.js";
import { ImageError } from "./error.js";
import { inflate } from "./png.js";

const K = C.formats;
const BYTES = { 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8 };

/* A directory of a TIFF file, or of EXIF data: its tags by their codes. */
export class Page {
  constructor(view, little, big, place) {
    this.view = view;
    this.little = little;
    this.entries = new Map();
    const number = big ? Number(view.getBigUint64(place, little)) : view.getUint16(place, little);
    const size = big ? 20 : 12, start = place + (big ? 8 : 2);
    for (let at = start, k = 0; k < number; k++, at += size) {
      const type = view.getUint16(at + 2, little);
      const count = big ? Number(view.getBigUint64(at + 4, little)) : view.getUint32(at + 4, little);
      const room = big ? 8 : 4, value = at + size - room, length = count * BYTES[type];
      const code = view.getUint16(at, little);
      let offset = value;
      if (length > room) offset = big ? Number(view.getBigUint64(value, little)) : view.getUint32(value, little);
      if (BYTES[type] && offset + length <= view.byteLength && !this.entries.has(code)) {
        this.entries.set(code, { type, count, offset, length });
      }
    }
    const next = start + number * size;
    this.next = big ? Number(view.getBigUint64(next, little)) : view.getUint32(next, little);
    this.width = this.number(256) ?? 0;
    this.height = this.number(257) ?? 0;
  }

  /* All numbers of a tag; of fractions their quotients. */
  numbers(code) {
    const entry = this.entries.get(code);
    if (!entry) return null;
    const { view, little } = this, read = {
      1: (i) => view.getUint8(i), 2: (i) => view.getUint8(i), 3: (i) => view.getUint16(i, little),
      4: (i) => view.getUint32(i, little), 5: (i) => view.getUint32(i, little) / view.getUint32(i + 4, little),
      6: (i) => view.getInt8(i), 7: (i) => view.getUint8(i), 8: (i) => view.getInt16(i, little),
      9: (i) => view.getInt32(i, little), 10: (i) => view.getInt32(i, little) / view.getInt32(i + 4, little),
      11: (i) => view.getFloat32(i, little), 12: (i) => view.getFloat64(i, little),
      13: (i) => view.getUint32(i, little), 16: (i) => Number(view.getBigUint64(i, little)),
      17: (i) => Number(view.getBigInt64(i, little)),
      18: (i) => Number(view.getBigUint64(i, little)),
    }[entry.type];
    return Array.from({ length: entry.count }, (_, k) => read(entry.offset + k * BYTES[entry.type]));
  }

  number(code) { return this.numbers(code)?.[0]; }

  fraction(code) {
    const entry = this.entries.get(code);
    if (entry?.type !== 5 || entry.count !== 1) return null;
    return [0, 4].map((k) => this.view.getUint32(entry.offset + k, this.little));
  }

  bytes(code) {
    const entry = this.entries.get(code);
    return entry ? new Uint8Array(this.view.buffer, this.view.byteOffset + entry.offset, entry.length) : null;
  }

  /* The text of a tag up to a zero byte, in UTF-8 or else Latin-1. */
  latinText(code) {
    const bytes = this.bytes(code), end = bytes?.indexOf(0);
    return bytes ? decoded(end >= 0 ? bytes.subarray(0, end) : bytes) : "";
  }

  /* The text of a tag in any encoding that makers use. */
  anyText(code) {
    const bytes = this.bytes(code);
    if (!bytes) return "";
    const zeros = (odd) => bytes.subarray(0, 40).filter((byte, i) => byte === 0 && i % 2 === odd).length;
    const mark = bytes[0] * 256 + bytes[1];
    if (mark === 0xfffe || zeros(1) > 15) return new TextDecoder("utf-16le").decode(bytes);
    if (mark === 0xfeff || zeros(0) > 15) return new TextDecoder("utf-16be").decode(bytes);
    return decoded(bytes).replace(/\0+$/, "");
  }

  ascii(place, length) {
    return String.fromCharCode(...new Uint8Array(this.view.buffer, this.view.byteOffset + place, length));
  }

  get description() { return this.latinText(270).trim(); }

  get subfile() { return this.number(254) ?? { 2: 1, 3: 2 }[this.number(255)] ?? 0; }
}

function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

/* All directories of a TIFF file or of EXIF data. */
export function directories(buffer, name) {
  const view = buffer instanceof DataView ? buffer : new DataView(buffer);
  const little = view.getUint16(0) === 0x4949, big = view.getUint16(2, little) === 43;
  const pages = [], seen = new Set();
  for (let place = big ? Number(view.getBigUint64(8, little)) : view.getUint32(4, little); place;) {
    if (seen.has(place)) {
      throw new ImageError(name, `is damaged (its list of pages leads back to itself); export it again`);
    }
    seen.add(place);
    pages.push(new Page(view, little, big, place));
    place = pages[pages.length - 1].next;
  }
  return pages;
}

/* Throw an Error where strips or tiles are missing, or too short for the size that the header names. */
export function checkSegments(page) {
  const { width, height } = page, layout = layoutOf(page);
  const kind = layout.tiled ? "tiles" : "strips";
  const { offsets, counts } = layout, end = page.view.byteLength;
  const held = offsets.filter((o, k) => o > 0 && counts[k] > 0 && o + counts[k] <= end).length;
  if (held < layout.needed) {
    throw new Error(`${layout.needed - held} of ${layout.needed} ${kind} of the image are missing`);
  }
  const sum = counts.reduce((a, b) => a + b, 0), rows = height * layout.planes;
  const row = Math.ceil((width * layout.samples * layout.bits) / 8);
  const most = K.EXPANSION[layout.compression] ?? Infinity;
  if (layout.kind !== K.YCBCR && sum * most < rows * row) {
    throw new Error(`its ${kind} hold ${sum} bytes, too few for ${width} x ${height} pixels`);
  }
}

/* Values of a page as grey or colours: {values, opaque, notes}, as `_resolved` of formats.py. */
export async function readPage(page, name) {
  const layout = layoutOf(page);
  const known = [K.WHITE_IS_ZERO, K.BLACK_IS_ZERO, K.PALETTE, ...Object.keys(K.COLOURS).map(Number)];
  if (!known.includes(layout.kind)) {
    const words = `holds values of kind ${layout.kind}, which need developing`;
    throw new ImageError(name, `${words}; save it as grey levels or RGB`);
  }
  return resolved(await samplesOf(page, layout, name), layout, page, name);
}

function layoutOf(page) {
  const { width, height } = page;
  const of = (code, otherwise) => page.number(code) ?? otherwise;
  const tiled = page.entries.has(322);
  const planes = of(284, 1) === 2 ? of(277, 1) : 1;
  const layout = {
    tiled, planes, samples: of(277, 1) / planes, bits: of(258, 1), format: of(339, 1), compression: of(259, 1),
    kind: of(262, 0), predictor: of(317, 1), channels: of(277, 1),
    wide: tiled ? of(322) : width, high: tiled ? of(323) : Math.min(of(278, height), height),
    offsets: page.numbers(tiled ? 324 : 273) ?? [], counts: page.numbers(tiled ? 325 : 279) ?? [],
  };
  if (!(width > 0 && height > 0 && layout.wide > 0 && layout.high > 0)) throw new Error("it has no size");
  layout.across = Math.ceil(width / layout.wide);
  layout.needed = layout.across * Math.ceil(height / layout.high) * planes;
  return layout;
}

/* The samples of all segments, in one typed array: {data, kind, bytes}. */
async function samplesOf(page, layout, name) {
  const { width, height, view, little } = page, { wide, samples, channels, bits, planes } = layout;
  const form = formOf(page, layout, name);
  const data = new form.array(width * height * channels);
  const rowBytes = Math.ceil((wide * samples * bits) / 8);
  for (let k = 0; k < layout.needed; k++) {
    const place = k % (layout.needed / planes), plane = (k - place) / (layout.needed / planes);
    const top = Math.floor(place / layout.across) * layout.high, left = (place % layout.across) * wide;
    const rows = layout.tiled ? layout.high : Math.min(layout.high, height - top);
    const bytes = new Uint8Array(view.buffer, view.byteOffset + layout.offsets[k], layout.counts[k]);
    const size = rows * rowBytes;
    let part = await (layout.compression === 7
      ? jpegSamples(bytes, page, layout, rows) : decompressed(bytes, size, layout, name));
    if (part.length < size) throw new Error(`segment ${k} holds ${part.length} of ${size} bytes`);
    part = unpacked(part, rows, layout, form, little);
    const columns = Math.min(wide, width - left);
    for (let y = 0; y < Math.min(rows, height - top); y++) {
      const from = y * wide * samples, to = ((top + y) * width + left) * channels;
      if (samples === channels) data.set(part.subarray(from, from + columns * samples), to);
      else for (let x = 0; x < columns; x++) data[to + x * channels + plane] = part[from + x];
    }
  }
  return { data, kind: form.kind, bytes: form.bytes };
}

/* The typed array of a page, NumPy's kind, and bytes of a value in memory and of a sample in the file. */
function formOf(page, { bits, format, predictor }, name) {
  const float = format === 3;
  const forms = float
    ? { 16: [Float32Array, "f", 2], 32: [Float32Array, "f", 4], 64: [Float64Array, "f", 8] }
    : format === 2
      ? { 8: [Int8Array, "i", 1], 16: [Int16Array, "i", 2], 32: [Int32Array, "i", 4] }
      : { 1: [Uint8Array, "b", 1], 2: [Uint8Array, "u", 1], 4: [Uint8Array, "u", 1], 8: [Uint8Array, "u", 1],
          12: [Uint16Array, "u", 2], 16: [Uint16Array, "u", 2], 32: [Uint32Array, "u", 4] };
  const form = format <= 4 ? forms[bits] : null; // 5 and 6 are complex
  const whole = bits >= 8 && bits % 8 === 0, same = new Set(page.numbers(258) ?? []).size <= 1;
  const predicted = predictor === 1 || (whole && (predictor === 3 ? float : predictor === 2 && bits <= 32));
  if (!form || !same || !predicted || page.number(266) === 2) {
    const words = `holds values of ${bits} bits in a form that this page does not read`;
    throw new ImageError(name, `${words}; save it as 8 or 16 bit grey levels without compression`);
  }
  const [array, kind, bytes] = form;
  return { array, kind, bytes };
}

/* Samples of one segment from its bytes: byte order, packing and predictor undone. */
function unpacked(bytes, rows, { wide, samples, bits, predictor }, form, little) {
  const row = wide * samples, number = rows * row, size = bits / 8;
  if (size < 1 || bits === 12) return unpackedBits(bytes, rows, row, bits, form);
  if (predictor === 3) {
    bytes = shuffledBack(bytes, rows, row, size, samples);
    little = false;
  }
  const data = bytes.slice(0, number * size);
  if (!little) {
    for (let i = 0; i < data.length; i += size) data.subarray(i, i + size).reverse();
  }
  if (predictor === 2) {
    const whole = new { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[size](data.buffer);
    for (let y = 0; y < rows; y++) {
      for (let i = y * row + samples; i < (y + 1) * row; i++) whole[i] += whole[i - samples];
    }
  }
  if (form.kind === "f" && size === 2) {
    const codes = new Uint16Array(data.buffer);
    return tabulate(codes.length, (i) => half(codes[i]), Float32Array);
  }
  return new form.array(data.buffer);
}

/* Bits without whole bytes; each row begins with a byte. Grey of 2 and 4 bits is scaled later. */
function unpackedBits(bytes, rows, row, bits, form) {
  const data = new form.array(rows * row), rowBytes = Math.ceil((row * bits) / 8), mask = 2 ** bits - 1;
  for (let y = 0, k = 0; y < rows; y++) {
    for (let x = 0; x < row; x++, k++) {
      const bit = x * bits, at = y * rowBytes + (bit >> 3);
      data[k] = (((bytes[at] << 8) | (bytes[at + 1] ?? 0)) >> (16 - bits - (bit & 7))) & mask;
    }
  }
  return data;
}

/* The predictor of floating point: differences of bytes, the most significant ones of a row first. */
function shuffledBack(bytes, rows, row, size, samples) {
  const result = new Uint8Array(rows * row * size);
  for (let y = 0; y < rows; y++) {
    const line = bytes.slice(y * row * size, (y + 1) * row * size);
    for (let i = samples; i < line.length; i++) line[i] += line[i - samples];
    for (let i = 0; i < row; i++) {
      for (let b = 0; b < size; b++) result[(y * row + i) * size + b] = line[b * row + i];
    }
  }
  return result;
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

async function decompressed(bytes, size, { compression, bits }, name) {
  if (compression === 1) return bytes;
  if (compression === 5) return lzw(bytes, size);
  if (compression === 8 || compression === 32946) return inflate([bytes], size);
  if (compression === 32773) return packBits(bytes, size);
  const words = `is compressed in a kind (${compression}, ${bits} bits) that this page does not read`;
  throw new ImageError(name, `${words}; save it without compression`);
}

function lzw(bytes, size) {
  const out = new Uint8Array(size);
  const prefix = new Uint16Array(4096), length = new Uint16Array(4096); // of the strings that codes stand for
  const last = new Uint8Array(4096), first = new Uint8Array(4096);
  for (let k = 0; k < 256; k++) last[k] = first[k] = k, length[k] = 1;
  let bits = 9, next = 258, before = -1, place = 0;
  for (let at = 0; place < size && at + bits <= 8 * bytes.length;) {
    const i = at >> 3, three = (bytes[i] << 16) | (bytes[i + 1] << 8) | bytes[i + 2];
    const code = (three >> (24 - bits - (at & 7))) & ((1 << bits) - 1);
    at += bits;
    if (code === 257) break;
    if (code === 256) {
      bits = 9;
      next = 258;
      before = -1;
      continue;
    }
    if (code > (before < 0 ? 255 : next)) throw new Error("wrong code in LZW");
    if (before >= 0 && next < 4096) {
      prefix[next] = before;
      first[next] = first[before];
      last[next] = first[code < next ? code : before];
      length[next] = length[before] + 1;
      next++;
      if (next === (1 << bits) - 1 && bits < 12) bits++;
    }
    for (let k = code, p = place + length[code] - 1; p >= place; p--, k = prefix[k]) out[p] = last[k];
    place += length[code];
    before = code;
  }
  return out.subarray(0, Math.min(place, size));
}

function packBits(bytes, size) {
  const out = new Uint8Array(size);
  let place = 0;
  for (let i = 0; i < bytes.length && place < size;) {
    const n = bytes[i++];
    if (n < 128) {
      out.set(bytes.subarray(i, i + Math.min(n + 1, size - place)), place);
      place += Math.min(n + 1, bytes.length - i);
      i += n + 1;
    } else if (n > 128) {
      out.fill(bytes[i++], place, place + 257 - n);
      place += 257 - n;
    }
  }
  return out.subarray(0, Math.min(place, size));
}

/* A segment in JPEG, decoded by the browser: its tables stand in a tag, and RGB needs a mark that it is no YCbCr. */
async function jpegSamples(bytes, page, { wide, samples, kind, bits }, rows) {
  if (bits !== 8 || (samples !== 1 && samples !== 3)) throw new Error(`JPEG of ${samples} samples of ${bits} bits`);
  const tables = page.bytes(347)?.slice(2, -2) ?? new Uint8Array();
  const adobe = [0xff, 0xee, 0, 14, 65, 100, 111, 98, 101, 0, 100, 0, 0, 0, 0, 0];
  const mark = Uint8Array.from(kind === K.RGB ? adobe : []);
  const blob = new Blob([bytes.slice(0, 2), mark, tables, bytes.subarray(2)], { type: "image/jpeg" });
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(wide, rows).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, wide, rows).data, out = new Uint8Array(wide * rows * samples);
  for (let i = 0; i < out.length; i++) out[i] = rgba[Math.floor(i / samples) * 4 + (i % samples)];
  return out;
}

function resolved(stored, layout, page, name) {
  const { width, height } = page, { kind, channels, bits, compression } = layout;
  const notes = [], colours = K.COLOURS[kind] ?? 1, size = width * height;
  const white = stored.kind === "f" ? 1 : 2 ** (8 * stored.bytes - (stored.kind === "i" ? 1 : 0)) - 1;
  if (channels < colours) {
    const words = `has ${channels} samples a pixel where its kind needs ${colours}`;
    throw new ImageError(name, `${words}; save it as grey levels or RGB`);
  }
  let data = stored.data, opaque = null;
  if (channels > colours) {
    const extras = page.numbers(338) ?? [], meaning = extras.length ? extras[0] : channels === colours + 1 ? 2 : 0;
    const alpha = meaning === 1 || meaning === 2 ? channel(stored.data, channels, colours) : null;
    const place = (i) => Math.floor(i / colours) * channels + (i % colours);
    data = tabulate(size * colours, (i) => stored.data[place(i)], stored.data.constructor);
    if (alpha) {
      opaque = tabulate(size, (i) => (alpha[i] > 0 ? 1 : 0));
      if (meaning === 1) {
        data = data.map((value, i) => {
          const a = alpha[Math.floor(i / colours)];
          const colour = Math.min(value * (white / Math.max(a, 1e-9)), white);
          return a > 0 ? (white > 1 ? rint(colour) : colour) : 0;
        });
      }
    } else if (colours === 1) notes.push(`the first of ${channels} channels of each pixel was read`);
  }
  const values = { data, height, width, channels: colours, kind: stored.kind, bytes: stored.bytes };
  if (kind === K.PALETTE) {
    const map = page.numbers(320), levels = 2 ** bits, deep = map.some((value) => value > 255);
    const palette = Uint8Array.from(map, (value) => (deep ? value >> 8 : value));
    Object.assign(values, { kind: "u", bytes: 1, channels: 3 });
    values.data = tabulate(3 * size, (i) => palette[(i % 3) * levels + data[Math.floor(i / 3)]]);
  } else if (colours === 1 && (bits === 2 || bits === 4)) { // as Pillow scales them
    const most = 2 ** bits - 1;
    values.data = data.map((value) => ((kind === K.WHITE_IS_ZERO ? most - value : value) * 255) / most);
  } else if (kind === K.WHITE_IS_ZERO) {
    const most = stored.kind === "i" ? -1 : stored.kind === "f" ? 1 : 2 ** bits - 1; // ~value is -1 - value
    values.data = data.map((value) => most - value);
  } else if (kind === K.SEPARATED) {
    if ((page.number(332) ?? 1) !== 1) {
      throw new ImageError(name, `holds inks other than cyan, magenta, yellow and black; save it as RGB`);
    }
    values.channels = 3;
    values.data = tabulate(3 * size, (i) => {
      const at = Math.floor(i / 3) * 4;
      return rint((white - data[at + (i % 3)]) * ((white - data[at + 3]) / white));
    }, data.constructor);
  } else if (kind === K.YCBCR && compression !== 7) {
    throw new ImageError(name, `holds brightness and colour differences (YCbCr); save it as grey levels or RGB`);
  } else if (kind !== K.RGB && kind !== K.YCBCR && colours === 3) { // LAB: the lightness
    values.channels = 1;
    values.data = channel(data, 3);
  }
  return { values, opaque, notes };
}

/* To the nearest whole number, halves to the even one, as NumPy. */
export function rint(x) {
  const near = Math.round(x);
  return near - x === 0.5 && near % 2 ? near - 1 : near;
}
