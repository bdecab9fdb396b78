/* Results as files that other programs read: labels as TIFF and as a coloured picture, the mask, and saving them.

   labels.tif holds the numbers themselves and is for programs: Fiji, microlab, ImageJ.
   labels.png is for people, and loses nothing: boundaries (label 0) are black, a grain has a bright colour of its own,
   unlike those of the next numbers. With code = (R - 128) + 128 (G - 128) + 16384 (B - 128),

     label = code * 1515969 mod 2^21        and        code = label * 2092609 mod 2^21

   which in Python is

     rgb = np.asarray(Image.open("labels.png")).astype(int) - 128
     labels = np.where(rgb[..., 0] < 0, 0, rgb @ [1, 128, 16384] * 1515969 % 2**21) */

import { tabulate } from "./tabulate.js";
import { writePng } from "./png.js";

const CODES = 2 ** 21; // 7 bits of each colour; the eighth is set, so that all are bright
const SPREAD = 2092609; // of any two of 400 numbers in a row, one colour differs by 14 levels or more
const GATHER = 1515969; // its inverse
const RULE = "label = ((R-128) + 128 (G-128) + 16384 (B-128)) * 1515969 mod 2^21; black is boundary, label 0";

/* The picture of labels as PNG, a Blob; `pixelSize` in um, or null. */
export async function labelsPng(labels, height, width, pixelSize = null) {
  const data = new Uint8Array(3 * labels.length);
  for (let i = 0, j = 0; i < labels.length; i++, j += 3) {
    if (labels[i] >= CODES) throw new Error(`label ${labels[i]} has no colour; use labels.tif`);
    if (labels[i] === 0) continue;
    const code = (labels[i] * SPREAD) % CODES;
    data[j] = 128 + (code & 127);
    data[j + 1] = 128 + ((code >> 7) & 127);
    data[j + 2] = 128 + (code >> 14);
  }
  return writePng(data, height, width, 3, pixelSize, RULE);
}

/* The label of a colour of that picture. */
export function labelOf(red, green, blue) {
  if (red < 128) return 0;
  const code = red - 128 + 128 * (green - 128) + 16384 * (blue - 128);
  return (code * GATHER) % CODES;
}

/* The mask as PNG, a Blob: 8-bit grey, 255 where `boundary` is true, else 0. */
export async function maskPng(boundary, height, width, pixelSize = null) {
  return writePng(tabulate(boundary.length, (i) => (boundary[i] ? 255 : 0)), height, width, 1, pixelSize);
}

/* Labels as TIFF, a Blob, as `write_labels` of microlab/data/images.py writes them: 16 bits with the unit in ImageJ's
   description, or 32-bit integers above 65535 labels with pixels per centimetre. `pixelSize` in um, or null. */
export function labelsTiff(labels, height, width, pixelSize = null) {
  const deep = labels.some((label) => label > 65535), bits = deep ? 32 : 16;
  const values = new (deep ? Int32Array : Uint16Array)(labels);
  const unit = pixelSize && !deep ? "unit=um\n" : "";
  const text = `ImageJ=1.11a\nimages=1\n${unit}`.padEnd(32, "\0");
  const entries = [ // [code, type, count, value]; 3 is a short number, 4 a long one, 2 a text, 5 a fraction
    [256, 4, 1, width], [257, 4, 1, height], [258, 3, 1, bits], [259, 3, 1, 1], [262, 3, 1, 1],
    ...(deep ? [] : [[270, 2, text.length, text]]),
    [273, 4, 1, 8], [277, 3, 1, 1], [278, 4, 1, height], [279, 4, 1, values.byteLength],
    ...(pixelSize ? [282, 283].map((code) => [code, 5, 1, fraction((deep ? 1e4 : 1) / pixelSize)]) : []),
    [296, 3, 1, pixelSize && deep ? 3 : 1], [339, 3, 1, deep ? 2 : 1],
  ];
  const start = 8 + values.byteLength + (values.byteLength % 2), size = 2 + 12 * entries.length + 4;
  const tail = new DataView(new ArrayBuffer(size + text.length + 16));
  tail.setUint16(0, entries.length, true);
  let more = size; // where the values lie that are longer than four bytes
  entries.forEach(([code, type, count, value], k) => {
    const place = 2 + 12 * k;
    tail.setUint16(place, code, true);
    tail.setUint16(place + 2, type, true);
    tail.setUint32(place + 4, count, true);
    if (type === 3) return tail.setUint16(place + 8, value, true);
    if (type === 4) return tail.setUint32(place + 8, value, true);
    tail.setUint32(place + 8, start + more, true);
    if (type === 2) [...value].forEach((letter) => tail.setUint8(more++, letter.charCodeAt(0)));
    else for (const number of value) tail.setUint32(more, number, true), more += 4;
  });
  const head = new DataView(new ArrayBuffer(8));
  head.setUint32(0, 0x002a4949, true); // "II", 42
  head.setUint32(4, start, true);
  return new Blob([head, values, new Uint8Array(values.byteLength % 2), tail], { type: "image/tiff" });
}

/* Save a Blob as a file of the reader. Needs a page. */
export function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/* A number as a fraction of two numbers of 32 bits. */
function fraction(value) {
  const below = 2 ** Math.min(31, Math.max(0, 31 - Math.ceil(Math.log2(value))));
  return [Math.round(value * below), below];
}
