/* PNG files, read and written here: the decoders of browsers give 8 bits, multiplied by alpha and, in some
   browsers, disturbed against tracking. What is decompressed and compressed, the browser does.

   Read are all kinds of PNG as Pillow reads them: colours of 16 bits lose their lower byte, grey keeps it. */

import { tabulate } from "./tabulate.js";
import C from "./constants.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // grey, RGB, palette, grey and alpha, RGB and alpha
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/* {width, height} by the header. */
export function pngSize(view) {
  if (text(view, 12, 4) !== "IHDR") throw new Error("no header");
  return { width: view.getUint32(16), height: view.getUint32(20) };
}

/* {values, opaque, dpi, exif: DataView or null, frames}; `values` as in contrast.js. */
export async function readPng(view) {
  const { width, height } = pngSize(view);
  const [depth, kind, , , interlaced] = Array.from({ length: 5 }, (_, k) => view.getUint8(24 + k));
  const channels = CHANNELS[kind];
  if (!channels || ![1, 2, 4, 8, 16].includes(depth)) throw new Error(`kind ${kind} of ${depth} bits`);
  const chunks = { IDAT: [] };
  for (let place = 8; place + 8 <= view.byteLength;) {
    const length = view.getUint32(place), name = text(view, place + 4, 4);
    if (name === "IEND") break;
    if (place + 12 + length > view.byteLength) throw new Error(`chunk ${name} is cut short`);
    const data = new Uint8Array(view.buffer, view.byteOffset + place + 8, length);
    if (name[0] < "a" && crc(view, place + 4, length + 4) !== view.getUint32(place + 8 + length)) {
      throw new Error(`wrong checksum of chunk ${name}`);
    }
    if (name === "IDAT") chunks.IDAT.push(data);
    else chunks[name] ??= data;
    place += 12 + length;
  }
  const samples = await samplesOf(chunks.IDAT, { width, height, depth, channels, interlaced });
  const { data, opaque, colours, binary } = resolved(samples, kind, depth, chunks);
  const deep = data instanceof Uint16Array;
  const values = { data, height, width, channels: colours, kind: binary ? "b" : "u", bytes: deep ? 2 : 1 };
  const viewOf = (bytes) => bytes && new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = viewOf(chunks.pHYs), animation = viewOf(chunks.acTL);
  return {
    values, opaque, exif: viewOf(chunks.eXIf) ?? null, frames: animation?.getUint32(0) ?? 1,
    dpi: size?.getUint8(8) === 1 ? [0, 4].map((k) => size.getUint32(k) * 0.0254) : null,
  };
}

/* Samples of all pixels as they are stored, not scaled. */
async function samplesOf(parts, { width, height, depth, channels, interlaced }) {
  const passes = (interlaced ? PASSES : [[0, 0, 1, 1]]).map(([left, top, right, down]) => {
    const wide = Math.ceil((width - left) / right), high = Math.ceil((height - top) / down);
    return { left, top, right, down, wide, high, row: Math.ceil((wide * channels * depth) / 8) };
  }).filter(({ wide, high }) => wide > 0 && high > 0);
  const size = passes.reduce((sum, { high, row }) => sum + high * (row + 1), 0);
  const bytes = await inflate(parts, size);
  if (bytes.length < size) throw new Error(`it holds ${bytes.length} of ${size} bytes`);
  const samples = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * channels);
  const step = Math.max(1, (channels * depth) / 8), mask = 2 ** depth - 1;
  let place = 0;
  for (const { left, top, right, down, wide, high, row } of passes) {
    let above = new Uint8Array(row);
    for (let y = 0; y < high; y++) {
      const line = bytes.subarray(place + 1, place + 1 + row);
      unfilter(bytes[place], line, above, step);
      for (let i = 0, x = 0; x < wide; x++) {
        const to = ((top + y * down) * width + left + x * right) * channels;
        for (let k = 0; k < channels; k++, i++) {
          const bit = i * depth;
          if (depth === 8) samples[to + k] = line[i];
          else if (depth === 16) samples[to + k] = (line[2 * i] << 8) | line[2 * i + 1];
          else samples[to + k] = (line[bit >> 3] >> (8 - depth - (bit & 7))) & mask;
        }
      }
      above = line;
      place += row + 1;
    }
  }
  return samples;
}

function unfilter(kind, line, above, step) {
  if (kind > 4) throw new Error(`filter ${kind}`);
  for (let i = 0; kind && i < line.length; i++) {
    const a = i < step ? 0 : line[i - step], b = above[i], c = i < step ? 0 : above[i - step];
    if (kind === 1) line[i] += a;
    else if (kind === 2) line[i] += b;
    else if (kind === 3) line[i] += (a + b) >> 1;
    else {
      const p = a + b - c, toA = Math.abs(p - a), toB = Math.abs(p - b), toC = Math.abs(p - c);
      line[i] += toA <= toB && toA <= toC ? a : toB <= toC ? b : c;
    }
  }
}

/* Grey or colours, and which pixels are opaque. */
function resolved(samples, kind, depth, { PLTE, tRNS }) {
  const size = samples.length / CHANNELS[kind];
  const high = (value) => (depth === 16 ? value >> 8 : value);
  const transparent = tRNS && tabulate(tRNS.length >> 1, (k) => (tRNS[2 * k] << 8) | tRNS[2 * k + 1], Uint16Array);
  const opaqueBy = (has) => tabulate(size, (i) => (has(i) ? 1 : 0));
  if (kind === 3) {
    const data = tabulate(3 * size, (i) => PLTE[3 * samples[Math.floor(i / 3)] + (i % 3)] ?? 0);
    return { data, colours: 3, opaque: tRNS ? opaqueBy((i) => (tRNS[samples[i]] ?? 255) > 0) : null };
  }
  if (kind === 4 || kind === 6) {
    const colours = kind === 4 ? 1 : 3, all = colours + 1;
    const data = tabulate(colours * size, (i) => high(samples[Math.floor(i / colours) * all + (i % colours)]));
    return { data, colours, opaque: opaqueBy((i) => high(samples[i * all + colours]) > 0) };
  }
  if (kind === 2) {
    const opaque = transparent?.length === 3 && depth === 8
      ? opaqueBy((i) => transparent.some((value, k) => samples[3 * i + k] !== value)) : null;
    return { data: depth === 16 ? tabulate(samples.length, (i) => high(samples[i])) : samples, colours: 3, opaque };
  }
  if (depth === 1 || depth >= 8) {
    const opaque = transparent && depth === 8 ? opaqueBy((i) => samples[i] !== transparent[0]) : null;
    return { data: samples, colours: 1, opaque, binary: depth === 1 };
  }
  const data = samples.map((value) => (value * 255) / (2 ** depth - 1));
  return { data, colours: 1, opaque: transparent ? opaqueBy((i) => data[i] !== transparent[0]) : null };
}

/* The first `size` bytes that zlib data holds, or fewer if they hold fewer. */
export async function inflate(parts, size) {
  const out = new Uint8Array(size);
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  let place = 0;
  try {
    while (place < size) {
      const { done, value } = await reader.read();
      if (done) break;
      out.set(value.subarray(0, size - place), place);
      place = Math.min(place + value.length, size);
    }
  } catch { // what lacks is seen by the length
  }
  reader.cancel().catch(() => {});
  return out.subarray(0, place);
}

/* A PNG file of 8 bits a sample, as Blob; 1 channel is grey, 3 are RGB. `pixelSize` in um, or null. */
export async function writePng(data, height, width, channels, pixelSize = null, comment = "") {
  const lines = new Uint8Array(height * (width * channels + 1)); // each begins with 0: no filter
  for (let y = 0; y < height; y++) {
    lines.set(data.subarray(y * width * channels, (y + 1) * width * channels), y * (width * channels + 1) + 1);
  }
  const stream = new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const header = [...number(width), ...number(height), 8, channels === 1 ? 0 : 2, 0, 0, 0];
  const chunks = [chunk("IHDR", Uint8Array.from(header))];
  if (pixelSize && pixelSize >= C.images.LEAST_PNG_PIXEL) {
    const perMetre = number(Math.round(1e6 / pixelSize));
    chunks.push(chunk("pHYs", Uint8Array.from([...perMetre, ...perMetre, 1])));
  }
  if (comment) chunks.push(chunk("tEXt", letters(`Comment\0${comment}`)));
  chunks.push(chunk("IDAT", packed), chunk("IEND", new Uint8Array()));
  return new Blob([Uint8Array.from(SIGNATURE), ...chunks], { type: "image/png" });
}

function chunk(name, data) {
  const bytes = new Uint8Array(data.length + 12), view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(letters(name), 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc(view, 4, data.length + 4));
  return bytes;
}

function letters(string) { return Uint8Array.from(string, (letter) => letter.charCodeAt(0)); }

function number(n) { return [24, 16, 8, 0].map((shift) => (n >>> shift) & 255); }

function crc(view, place, length) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + place, length);
  let sum = 0xffffffff;
  for (let i = 0; i < length; i++) sum = CRC[(sum ^ bytes[i]) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

function text(view, place, length) {
  return String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + place, length));
}
