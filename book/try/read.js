/* A micrograph from the bytes of a file, with the grey levels, field of view, data bar and pixel size that
   `microlab.data.images.read_image` gives it. Runs in a page and in a Web Worker.

     const { image, valid, pixelSize, notes } = await readImage(await file.arrayBuffer(), file.name);

   TIFF and PNG are decoded here (tiff.js, png.js), JPEG, WebP, BMP and GIF by the browser. What is wrong with a file
   ends in an ImageError of one line: which file, what is wrong, and the remedy. */

import { channel, tabulate } from "./tabulate.js";
import C from "./constants.js";
import { fill, findRange, median, toUnitRange } from "./contrast.js";
import { ImageError } from "./error.js";
import { greyOf, greyWeights } from "./grey.js";
import { fromPicture, fromTiff, imagejEntry, namedDataBar, notSquare, square } from "./pixel_size.js";
import { pngSize, readPng } from "./png.js";
import { checkSegments, directories, readPage, rint } from "./tiff.js";

export { ImageError };
export const LARGEST = C.page.MOST_MEGAPIXELS * 2 ** 20; // px; more would not fit into the memory of a page
const K = C.images;

/* Read one micrograph.

   bytes: ArrayBuffer of the file; name: of the file, for messages.
   page: which page of a TIFF, from 0. By default the first, or the largest if the others are smaller.
   crop: [left, top, width, height] in pixels of the image as viewers show it; all by default.
   dataBar: "auto", "bottom", "top", rows at the bottom, or "top:ROWS".
   sized: whether the reader has given the pixel size, so that nothing is said about the file's.

   Returns {image: {data, height, width}, valid: {data, height, width} or null, pixelSize (um) or null,
   pixelSizeSource, notes, dataBar: {top, bottom}, pages, page}. Rows of `image` lie below the data bar at the top. */
export async function readImage(bytes, name, { page = null, crop = null, dataBar = "auto", sized = false } = {}) {
  let stored;
  try {
    stored = turned(await readStored(bytes, name, page));
  } catch (error) {
    if (error instanceof ImageError) throw error;
    const reason = error instanceof RangeError ? "it ends too early" : error.message;
    throw new ImageError(name, `is damaged or cut short (${reason}); copy or export it again`);
  }
  let { values, opaque, barRows } = stored;
  const notes = [...stored.notes];
  if (values.channels === 3 && isGrey(values.data)) { // grey stored as colour keeps its exact levels
    values = { ...values, data: channel(values.data, 3), channels: 1 };
  }
  if (crop) {
    const below = checkedCrop(crop, values, name);
    if (opaque) opaque = cut({ ...values, data: opaque, channels: 1 }, crop).data;
    values = cut(values, crop);
    barRows = barRows === null ? null : Math.max(barRows - below, 0);
  }
  const { height, width } = values;
  if (Math.min(height, width) < K.LEAST_SIDE) {
    const least = `${K.LEAST_SIDE} x ${K.LEAST_SIDE}`;
    throw new ImageError(name, `is ${height} x ${width} pixels; a micrograph needs at least ${least}`);
  }
  const range = findRange(values, { nodata: stored.nodata, opaque });
  if (!range) throw new ImageError(name, `no pixel has a value (all are NaN or transparent); export it again`);
  if (range.note) notes.push(range.note);
  const unit = toUnitRange(values, range);
  let image = greyImage(values, unit);
  const bars = barHeights(image, height, width, dataBar, barRows, range.missing, name);
  const rows = height - bars.top - bars.bottom;
  const shown = (map) => map?.subarray(bars.top * width, (height - bars.bottom) * width) ?? null;
  image = shown(image).slice();
  const found = { missing: shown(range.missing), hot: shown(range.hot) };
  fill(image, rows, width, found);
  if (image.every((grey) => grey === image[0])) {
    throw new ImageError(name, `has one grey level everywhere; check the export, or give another image`);
  }
  const valid = found.missing?.includes(1) ? found.missing.map((is) => 1 - is) : null;

  let { size } = stored;
  if (size?.note && !sized) notes.push(size.note);
  if (size && !square(size)) {
    if (!sized) notes.push(notSquare(size));
    size = null;
  }
  return {
    image: { data: image, height: rows, width },
    valid: valid && { data: valid, height: rows, width },
    pixelSize: size?.width ?? null, pixelSizeSource: size?.source ?? null,
    notes, dataBar: bars, pages: stored.pages, page: stored.page,
  };
}

/* Row where the data bar begins that a scanning electron microscope prints under its image, or null; `image` is
   Float32Array of height x width. As `find_data_bar` of microlab/data/images.py, which says how it is found. */
export function findDataBar(image, height, width) {
  const searched = Math.trunc(K.LARGEST_SHARE * height);
  if (searched <= K.LEAST_HEIGHT) return null;
  const some = Math.max(1, Math.floor(width / 2000)), start = Math.max(height - searched - K.ABOVE, 0);
  const rows = Array.from({ length: height - start }, (_, y) => (
    tabulate(Math.ceil(width / some), (x) => image[(start + y) * width + x * some], Float32Array)
  ));
  const counts = new Uint32Array(256);
  for (const row of rows.slice(-Math.max(K.LEAST_HEIGHT, Math.floor(height / 50)))) {
    for (const grey of row) counts[rint(Math.fround(grey * 255))]++;
  }
  const level = counts.indexOf(Math.max(...counts)) / 255;
  if (level > K.NEAR_BLACK && level < K.NEAR_WHITE) return null;

  const share = (row, has) => row.reduce((sum, grey) => sum + (has(grey) ? 1 : 0), 0) / row.length;
  const background = rows.map((row) => share(row, (grey) => Math.abs(grey - level) <= K.TOLERANCE));
  const uniform = rows.map((row) => {
    const middle = median(row);
    return share(row, (grey) => Math.abs(Math.fround(grey - middle)) <= Math.fround(K.TOLERANCE)) >= K.UNIFORM;
  });
  let first = rows.length;
  while (first > 0 && (background[first - 1] >= K.BACKGROUND || uniform[first - 1])) first--;
  if (first < K.ABOVE || rows.length - first < K.LEAST_HEIGHT) return null;
  const above = background.slice(first - K.ABOVE, first).reduce((sum, s) => sum + s, 0) / K.ABOVE;
  const bar = Float64Array.from(background.slice(first)).sort(), half = bar.length >> 1;
  const middle = bar.length % 2 ? bar[half] : (bar[half - 1] + bar[half]) / 2;
  return above >= K.ABRUPT * middle ? null : start + first;
}

/* Rows of the data bars at the top and at the bottom. Rows without any value are no data bar: one has letters. */
function barHeights(image, height, width, dataBar, named, missing, name) {
  const most = height - K.LEAST_SIDE;
  const match = /^(?:(top|bottom):)?(\d+)$/.exec(dataBar);
  if (match && match[2] <= most) {
    return match[1] === "top" ? { top: Number(match[2]), bottom: 0 } : { top: 0, bottom: Number(match[2]) };
  }
  if (!["auto", "top", "bottom"].includes(dataBar)) {
    throw new ImageError(name, `data bar must be auto, bottom, top or 0 to ${most} rows, got ${dataBar}`);
  }
  const rowsOf = (row, from, to) => (row === null || missing?.subarray(from, to).every((is) => is) ? 0 : height - row);
  let top = 0, bottom = 0;
  if (dataBar !== "top") {
    const row = named === null ? findDataBar(image, height, width) : height - named;
    bottom = rowsOf(row, row * width, height * width);
  }
  if (dataBar !== "bottom" && !bottom) {
    const flipped = new Float32Array(image.length);
    for (let y = 0; y < height; y++) flipped.set(image.subarray(y * width, (y + 1) * width), (height - 1 - y) * width);
    const row = findDataBar(flipped, height, width);
    top = rowsOf(row, 0, (height - row) * width);
  }
  if (dataBar !== "auto" && !(top + bottom)) {
    throw new ImageError(name, `no data bar was found at the ${dataBar}; give its rows`);
  }
  return { top, bottom };
}

function greyImage({ data, height, width, channels }, unit) {
  if (channels === 1) return unit(data);
  const step = Math.max(1, Math.floor(Math.sqrt((height * width) / K.SAMPLED))), across = Math.ceil(width / step);
  const some = tabulate(Math.ceil(height / step) * across * 3, (i) => {
    const pixel = Math.floor(i / 3), y = Math.floor(pixel / across) * step, x = (pixel % across) * step;
    return data[(y * width + x) * 3 + (i % 3)];
  }, data.constructor);
  return greyOf(unit(data), greyWeights(unit(some)));
}

function isGrey(data) {
  for (let i = 0; i < data.length; i += 3) {
    if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) return false;
  }
  return true;
}

/* Rows below a crop; throws if it does not lie in the image. */
function checkedCrop([left, top, wide, high], { height, width }, name) {
  if (Math.min(left, top, wide, high) < 0 || left + wide > width || top + high > height) {
    const crop = `${wide} x ${high} from ${left},${top}`;
    throw new ImageError(name, `has ${width} x ${height} pixels; a crop of ${crop} does not lie in it`);
  }
  return height - top - high;
}

function cut(values, [left, top, wide, high]) {
  const { data, width, channels } = values, part = new data.constructor(wide * high * channels);
  for (let y = 0; y < high; y++) {
    const from = ((top + y) * width + left) * channels;
    part.set(data.subarray(from, from + wide * channels), y * wide * channels);
  }
  return { ...values, data: part, height: high, width: wide };
}

/* --- files ---------------------------------------------------------------------------------------------- */

/* {values, opaque, size, barRows, nodata, notes, orientation, pages, page} */
async function readStored(bytes, name, page) {
  const view = new DataView(bytes);
  if (!view.byteLength) throw new ImageError(name, `is empty (0 bytes); copy or export it again`);
  const stored = { opaque: null, size: null, barRows: null, nodata: null, notes: [], pages: 1, page: 0 };
  const head = String.fromCharCode(...new Uint8Array(bytes, 0, Math.min(16, view.byteLength)));
  if (/^(II[*+]\0|MM\0[*+])/.test(head)) return { ...stored, ...await readTiff(bytes, name, page) };
  if (/^\x89PNG\r\n\x1a\n/.test(head)) {
    checkSize(pngSize(view), name);
    const { values, opaque, dpi, exif, frames } = await readPng(view);
    const notes = frames > 1 ? [`has ${frames} frames; the first was read`] : [];
    return { ...stored, values, opaque, notes, size: fromPicture(dpi), orientation: orientationOf(exif) };
  }
  const reader = PICTURES.find(({ magic }) => magic.test(head));
  if (!reader) throw new ImageError(name, foreign(head, name));
  const header = reader.header(view); // {width, height, dpi, whole} and, of some, more
  checkSize(header, name);
  if (!header.whole) throw new RangeError();
  const { values, opaque } = await decodedByBrowser(header.bytes ?? bytes, reader.type);
  return {
    ...stored, values, opaque: reader.opaque ? null : opaque, orientation: header.toTurn,
    size: turnedSize(fromPicture(header.dpi, header.text), header.orientation), notes: turnedNote(header.orientation),
  };
}

/* What a file is that is not read. */
function foreign(head, name) {
  const suffix = /\.\w+$/.exec(name.toLowerCase())?.[0];
  if (C.formats.OTHERS.includes(suffix)) {
    return `${suffix} files are read by microlab on your computer, not by this page; export it as TIFF`;
  }
  if (head.slice(4, 8) === "ftyp") return "is a photograph in HEIC or AVIF; save it as JPEG, PNG or TIFF";
  return "is not an image; give a PNG, JPEG or TIFF file";
}

function checkSize({ width, height }, name) {
  if (height * width > LARGEST) {
    const words = `has ${width} x ${height} pixels by its header, more than ${LARGEST / 2 ** 20} megapixels`;
    throw new ImageError(name, `${words}; crop it or shrink it, or use microlab on your computer`);
  }
}

async function readTiff(bytes, name, number) {
  const all = directories(bytes, name);
  const pages = all.filter((page) => !(page.subfile & 1) && !(page.subfile & 4)); // no thumbnails, no masks
  if (!pages.length) throw new Error("no image in the file");
  const planes = Number(imagejEntry(all[0], "images") ?? 1);
  if (planes > pages.length) {
    throw new ImageError(name, `is a stack of ${planes} images; save the one you need alone`);
  }
  const { index, note } = choosePage(pages, all[0], number, name);
  const page = pages[index];
  checkSize(page, name);
  checkSegments(page);
  const { values, opaque, notes } = await readPage(page, name);
  const nodata = parseFloat(page.latinText(42113).trim());
  return {
    values, opaque, notes: note ? [note, ...notes] : notes, size: fromTiff(all[0], page),
    barRows: namedDataBar(all[0], page), nodata: Number.isNaN(nodata) ? null : nodata,
    orientation: page.number(274) ?? 1, pages: pages.length, page: index,
  };
}

/* Which of several pages is read, and what is to be said about it. The library refuses a stack; a page in the
   browser shows what it reads, and takes the first. */
function choosePage(pages, first, number, name) {
  const count = pages.length;
  if (number !== null) {
    if (number < 0 || number >= count) {
      throw new ImageError(name, `has no page ${number}; pages run from 0 to ${count - 1}`);
    }
    return { index: number, note: "" };
  }
  if (count === 1) return { index: 0, note: "" };
  const area = (page) => page.height * page.width;
  const index = pages.reduce((best, page, k) => (area(page) > area(pages[best]) ? k : best), 0);
  const { height, width } = pages[index];
  if (pages.every((page, k) => k === index || (page.height < height && page.width < width))) {
    return { index, note: `page ${index} of ${count} was read, the others are smaller` };
  }
  if (Number(imagejEntry(first, "channels") ?? 1) === count) {
    return { index: 0, note: `the first of ${count} channels was read` };
  }
  return { index: 0, note: `has ${count} pages; the first was read, the others are not measured` };
}

/* All of an image as viewers show it, by the orientation of EXIF and of TIFF tag 274. */
function turned(stored) {
  const { orientation } = stored;
  if (!(orientation >= 2 && orientation <= 8)) return stored;
  const turn = (values) => {
    const { data, height, width, channels } = values, swapped = orientation >= 5;
    const high = swapped ? width : height, wide = swapped ? height : width;
    const out = new data.constructor(data.length);
    for (let y = 0, to = 0; y < high; y++) {
      const row = [3, 4, 7, 8].includes(orientation) ? high - 1 - y : y;
      for (let x = 0; x < wide; x++) {
        const column = [2, 3, 6, 7].includes(orientation) ? wide - 1 - x : x;
        const from = (swapped ? column * width + row : row * width + column) * channels;
        for (let k = 0; k < channels; k++) out[to++] = data[from + k];
      }
    }
    return { ...values, data: out, height: high, width: wide };
  };
  const opaque = stored.opaque && turn({ ...stored.values, data: stored.opaque, channels: 1 }).data;
  return {
    ...stored, values: turn(stored.values), opaque, barRows: null,
    size: turnedSize(stored.size, orientation), notes: [...stored.notes, ...turnedNote(orientation)],
  };
}

function turnedSize(size, orientation) {
  return size && orientation >= 5 ? { ...size, width: size.height, height: size.width } : size;
}

function turnedNote(orientation) {
  if (!(orientation >= 2 && orientation <= 8)) return [];
  return [`was turned or mirrored as its orientation tag (${orientation}) says, as viewers show it`];
}

/* --- pictures that the browser decodes ------------------------------------------------------------------ */

const PICTURES = [
  { magic: /^\xff\xd8\xff/, type: "image/jpeg", opaque: true, header: jpegHeader },
  { magic: /^RIFF[^]{4}WEBP/, type: "image/webp", header: webpHeader },
  { magic: /^GIF8[79]a/, type: "image/gif", header: gifHeader },
  { magic: /^BM/, type: "image/bmp", opaque: true, header: bmpHeader },
];

/* The values of 8 bits that the browser's decoder gives, turned as it shows them, its colours not managed. */
async function decodedByBrowser(bytes, type) {
  const how = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(new Blob([bytes], { type }), how);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(3 * width * height), opaque = new Uint8Array(width * height);
  for (let i = 0, j = 0; i < opaque.length; i++, j += 4) {
    for (let k = 0; k < 3; k++) data[3 * i + k] = rgba[j + k];
    opaque[i] = rgba[j + 3] > 0 ? 1 : 0;
  }
  return { values: { data, height, width, channels: 3, kind: "u", bytes: 1 }, opaque };
}

function jpegHeader(view) {
  const header = { dpi: null, whole: false };
  let exifDpi = null;
  for (let place = 2; ;) {
    while (view.getUint8(place) === 0xff) place++; // filling
    const marker = view.getUint8(place++), length = view.getUint16(place), ascii = (at, n) => (
      String.fromCharCode(...new Uint8Array(view.buffer, at, n))
    );
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      header.height = view.getUint16(place + 3);
      header.width = view.getUint16(place + 5);
    } else if (marker === 0xe0 && ascii(place + 2, 4) === "JFIF") {
      const factor = { 1: 1, 2: 2.54 }[view.getUint8(place + 9)];
      if (factor) header.dpi = [10, 12].map((k) => view.getUint16(place + k) * factor);
    } else if (marker === 0xe1 && ascii(place + 2, 6) === "Exif\0\0") {
      const exif = new DataView(view.buffer, place + 8, length - 8);
      header.orientation = orientationOf(exif);
      exifDpi = dpiOf(exif);
    } else if (marker === 0xda) {
      const bytes = new Uint8Array(view.buffer);
      for (let i = bytes.indexOf(0xd9, place); i > 0 && !header.whole; i = bytes.indexOf(0xd9, i + 1)) {
        header.whole = bytes[i - 1] === 0xff;
      }
      break;
    }
    place += length;
  }
  header.dpi ??= exifDpi;
  if (view.byteLength <= C.formats.LARGEST_JPEG) header.text = xmlOf(view);
  return header;
}

/* XML that a Phenom microscope leaves in a JPEG. */
function xmlOf(view) {
  const text = new TextDecoder("latin1").decode(view);
  const start = text.indexOf("<FeiImage"), end = text.lastIndexOf("</FeiImage>");
  if (start < 0 || start >= end) return "";
  return new TextDecoder().decode(new Uint8Array(view.buffer, start, end + 11 - start));
}

function webpHeader(view) {
  const kind = view.getUint8(15), header = { dpi: null };
  const three = (place) => view.getUint16(place, true) + 65536 * view.getUint8(place + 2);
  header.whole = view.getUint32(4, true) + 8 <= view.byteLength;
  for (let place = 12; place + 8 <= view.byteLength;) {
    const length = view.getUint32(place + 4, true);
    if (view.getUint32(place, true) === 0x46495845 && place + 8 + length <= view.byteLength) { // "EXIF"
      // Some browsers turn WebP by its orientation and some do not: it is hidden from them, and turned here.
      header.toTurn = orientationOf(new DataView(view.buffer, place + 8, length));
      header.bytes = view.buffer.slice(0);
      new DataView(header.bytes).setUint32(place, 0);
    }
    place += 8 + length + (length % 2);
  }
  if (kind === 0x58) return { ...header, width: 1 + three(24), height: 1 + three(27) }; // VP8X
  if (kind !== 0x4c) { // VP8
    return { ...header, width: view.getUint16(26, true) & 16383, height: view.getUint16(28, true) & 16383 };
  }
  const bits = view.getUint32(21, true); // VP8L
  return { ...header, width: 1 + (bits & 16383), height: 1 + ((bits >> 14) & 16383) };
}

function gifHeader(view) {
  const whole = new Uint8Array(view.buffer).lastIndexOf(0x3b) > 0;
  return { width: view.getUint16(6, true), height: view.getUint16(8, true), dpi: null, whole };
}

function bmpHeader(view) {
  const dpi = view.getUint32(14, true) >= 40 ? [38, 42].map((k) => view.getInt32(k, true) / 39.3701) : null;
  const width = view.getInt32(18, true), height = Math.abs(view.getInt32(22, true));
  const bits = view.getUint16(28, true), packed = view.getUint32(30, true), start = view.getUint32(10, true);
  const size = packed === 0 || packed === 3 ? start + height * Math.ceil((width * bits) / 32) * 4 : 0;
  return { width, height, dpi: dpi?.every((d) => d > 0) ? dpi : null, whole: size <= view.byteLength };
}

function orientationOf(exif) { return firstDirectory(exif)?.number(274) ?? 1; }

function dpiOf(exif) {
  const page = firstDirectory(exif), [a, b] = page?.fraction(282) ?? [];
  return a && b ? Array(2).fill((a / b) * (page.number(296) === 3 ? 2.54 : 1)) : null;
}

/* The first directory of EXIF data; null where they are damaged. */
function firstDirectory(exif) {
  try {
    return exif && directories(exif, "EXIF")[0];
  } catch {
    return null;
  }
}
