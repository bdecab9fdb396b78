/* The size of a pixel, read from what the microscope or a program wrote into the file: microlab/data/pixel_size.py,
   source by source and in its order of trust. Files beside the image are out of a page's reach. Change both.

   A size is {width, height, source, note}, in micrometres. */

import C from "./constants.js";
import { general } from "./contrast.js";

const K = C.pixel_size;
const INCH = 25400, CENTIMETRE = 10000; // um
const CHECK = "check it, or draw over the scale bar";
const LENGTH = new RegExp(`^(?:${K.LENGTH})$`);
const INTEGER = /^\s*[+-]?\d+\s*$/;

/* Micrometres in a unit of length, in any of its spellings; null if it is none. */
export function micrometres(unit) {
  const text = String(unit ?? "").normalize("NFKC").replace(/^[ \0\t\r\n]+|[ \0\t\r\n]+$/g, "").toLowerCase()
    .replace(/\\u(?:00b5|03bc)/g, "μ"); // as ImageJ escapes it
  const match = LENGTH.exec(text);
  return match ? K.PREFIX[match[1]] : K.OTHER_LENGTHS[text] ?? null;
}

/* Pixel size of a page of a TIFF file (tiff.js), by the most trusted source that knows it. The makers' tags are
   those of the file's first page. */
export function fromTiff(first, page) {
  for (const source of SOURCES) {
    const size = valid(source(first, page));
    if (size) return size;
  }
  return null;
}

/* Pixel size of another picture by its dots per inch, [across, down]; `text` is XML of a Phenom microscope. */
export function fromPicture(dpi, text = "") {
  const start = text.indexOf("<FeiImage"), end = text.lastIndexOf("</FeiImage>");
  const size = start >= 0 && start < end ? valid(feiImage(text.slice(start, end + 11))) : null;
  return size ?? (dpi ? valid(plain(INCH / dpi[0], INCH / dpi[1], "dots per inch")) : null);
}

/* Height of the data bar that the maker's metadata name, in pixels, or null. */
export function namedDataBar(first, page) {
  const rows = page.height, scanned = feiEntries(first)?.Image?.ResolutionY;
  if (INTEGER.test(scanned) && rows / 2 < Number(scanned) && Number(scanned) < rows) return rows - scanned;
  const height = element(page.anyText(34683), "databarHeight")?.text.trim();
  return /^\d+$/.test(height) && height > 0 && height < rows / 2 ? Number(height) : null;
}

export function square(size) {
  return Math.abs(size.width - size.height) <= K.NOT_SQUARE_BY * size.width;
}

/* What is to be said of pixels that are not square. */
export function notSquare(size) {
  return K.NOT_SQUARE.replace("{0:.4g}", general(size.width, 4)).replace("{1:.4g}", general(size.height, 4));
}

function fei(first, page) {
  const { Image: image = {}, Scan: scan = {}, EBeam: beam = {} } = feiEntries(first) ?? {};
  const columns = image.ResolutionX, rows = image.ResolutionY;
  let size;
  if ("PixelWidth" in scan) size = [scan.PixelWidth, scan.PixelHeight];
  else if ("HFW" in beam) size = [beam.HFW / columns, beam.VFW / rows];
  else return null;
  const [width, height] = size.map((metres) => metres * 1e6);
  const named = { width, height, source: "FEI tag", note: "" };
  return INTEGER.test(columns) && INTEGER.test(rows) ? rescaled(named, Number(columns), Number(rows), page) : named;
}

/* Sections and entries of the tags of FEI and Thermo Fisher. */
function feiEntries(first) {
  const texts = [34680, 34682].map((code) => first.latinText(code)).filter(Boolean);
  if (!texts.length) return null;
  const result = {};
  for (const text of texts) {
    let section = {};
    for (const line of text.split(/\r\n|\r|\n/).map((part) => part.trim())) {
      const place = line.indexOf("=");
      if (line.startsWith("[")) section = result[line.slice(1, -1)] = {};
      else if (place >= 0) section[line.slice(0, place).trim()] = line.slice(place + 1).trim();
    }
  }
  return result;
}

function phenom(first, page) { return feiImage(page.anyText(34683)); }

function feiImage(text) {
  const wide = element(text, "pixelWidth"), high = element(text, "pixelHeight") ?? wide;
  if (!wide) return null;
  const [width, height] = [wide, high].map((e) => Number(e.text) * (micrometres(e.unit) ?? NaN));
  return { width, height, source: "Phenom tag", note: "" };
}

function zeiss(first, page) {
  const text = first.latinText(34118);
  if (!text) return null;
  const entries = {}, header = [];
  let key = null;
  for (const line of text.split(/\r\n|\r|\n/)) {
    if (line === line.toUpperCase() && line !== line.toLowerCase()) {
      key = line.toLowerCase();
    } else if (key) {
      const place = line.includes("=") ? line.indexOf("=") : line.indexOf(":");
      if (place < 0) continue;
      entries[key] = line.slice(place + 1).trim().split(/\s+/);
      key = null;
    } else header.push(line);
  }
  const [value, unit] = entries.ap_image_pixel_size ?? [];
  const factor = micrometres(unit);
  let size = null;
  if (factor && value !== "" && !Number.isNaN(Number(value))) size = value * factor;
  else if (header.length > 3 && !INTEGER.test(header[3])) size = (header[3] * 1e6 * 1024) / page.width;
  return { width: size, height: size, source: "Zeiss tag", note: "" };
}

function tescan(first, page) {
  const text = page.anyText(50431);
  const [width, height] = ["X", "Y"].map((axis) => {
    const found = new RegExp(`PixelSize${axis}\\s*=\\s*([\\d.,eE+-]+)`).exec(text);
    return found ? Number(found[1].replaceAll(",", ".")) * 1e6 : null;
  });
  return { width, height, source: "Tescan tag", note: "" };
}

function gatan(first, page) {
  const units = [65003, 65004].map((code) => micrometres(page.anyText(code)));
  const [width, height] = [65009, 65010].map((code, k) => page.number(code) * units[k]);
  return { width, height, source: "Gatan tag", note: "" }; // of a diffraction pattern the unit is 1/nm
}

function olympus(first) {
  const place = first.number(33560), { view } = first;
  if (!place || place + 60 > view.byteLength || first.ascii(place, 4) !== "SIS0") return null;
  for (let k = 0, entry = place + 60; k < view.getUint16(place + 58, true); k++, entry += 8) {
    if (entry + 8 > view.byteLength || view.getInt16(entry, true) !== 1) continue;
    const data = view.getUint32(entry + 4, true);
    if (data + 112 > view.byteLength) continue;
    const metres = 10 ** view.getInt16(data + 10, true) * 1e6;
    const [width, height] = [12, 20].map((offset) => view.getFloat64(data + offset, true) * metres);
    return { width, height, source: "Olympus SIS tag", note: "" };
  }
  return null;
}

/* Only the magnification stands in the description; the resolution tags hold the camera's own pixels. */
function sightx(first, page) {
  const text = sightxText(page), pitch = taggedResolution(page);
  if (!text || !pitch) return null;
  const entry = (name) => element(text, name)?.text.trim();
  if (entry("EosMode") !== "eosTEM" || entry("ModeString") !== "MAG") return null;
  const [width, height] = pitch.map((size) => size / entry("SelectorValue"));
  return { width, height, source: "JEOL SightX description", note: "" };
}

function sightxText(page) {
  const text = page.description.trim();
  return (page.anyText(271) ?? "").startsWith("JEOL") && /^(<\?xml[^>]*\?>\s*)?<TemReporter\b/.test(text) ? text : "";
}

function ome(first) {
  const text = first.description;
  if (!text.slice(-10).trim().endsWith("OME>") || /<!(DOCTYPE|ENTITY)/.test(text)) return null;
  const pixels = /<(?:\w+:)?Pixels\b([^>]*)>/.exec(text);
  if (!pixels) return null;
  const [width, height] = ["X", "Y"].map((axis) => {
    const value = attribute(pixels[1], `PhysicalSize${axis}`);
    const factor = micrometres(attribute(pixels[1], `PhysicalSize${axis}Unit`) ?? "µm");
    return value && factor ? value * factor : null;
  });
  return { width, height, source: "OME-XML", note: "" };
}

function imagej(first, page) {
  const factor = micrometres(imagejEntry(first, "unit")), perUnit = pixelsPerUnit(page);
  if (factor === null || !perUnit) return null;
  const [width, height] = perUnit.map((pixels) => factor / pixels);
  // Fiji gives a picture of 300 dots per inch the unit "inch", or "cm", and saves that.
  const printed = K.PRINTED.includes(factor) && Math.max(width, height) > K.LARGEST_FROM_RESOLUTION;
  const likePrint = K.PRINT_RESOLUTIONS.some((dpi) => Math.abs(INCH / width / dpi - 1) < K.SAME_PRINT);
  return printed || likePrint ? null : { width, height, source: "ImageJ", note: "" };
}

/* An entry of ImageJ's description, a text, or null. */
export function imagejEntry(first, name) {
  if (!/^(ImageJ|SCIFIO)=/.test(first.description)) return null;
  const entries = first.description.split(/\r\n|\r|\n/).map((line) => /^([^=]*)=(.*)$/.exec(line));
  return entries.filter((entry) => entry?.[1].trim() === name).pop()?.[2].trim() ?? null;
}

function resolution(first, page) {
  const size = taggedResolution(page);
  return size && !sightxText(page) ? plain(...size, "resolution tags") : null;
}

const SOURCES = [fei, phenom, zeiss, tescan, gatan, olympus, sightx, ome, imagej, resolution];

/* A size from tags that know nothing of a microscope. */
function plain(width, height, source) {
  const size = Math.max(width, height);
  if (!(size <= K.LARGEST_FROM_RESOLUTION)) return null;
  const doubt = `the pixel size of ${general(width, 4)} um is from the ${source}, where some programs put the `
    + `size of the camera's own pixels; ${CHECK}`;
  return { width, height, source, note: size > K.CAMERA_PITCH ? doubt : "" };
}

function taggedResolution(page) {
  const unit = { 2: INCH, 3: CENTIMETRE }[page.number(296)];
  return unit ? pixelsPerUnit(page)?.map((pixels) => unit / pixels) ?? null : null;
}

function pixelsPerUnit(page) {
  const fractions = [282, 283].map((code) => page.fraction(code));
  return fractions.every((f) => f && f[0] && f[1]) ? fractions.map(([a, b]) => a / b) : null;
}

/* The size for an image where the maker speaks of `columns` and `rows`. */
function rescaled(size, columns, rows, { width, height }) {
  if (columns === width || !columns || !rows) return size;
  const factor = columns / width, [least, most] = K.RESIZED, share = (height * factor) / rows;
  if (least <= share && share <= most) {
    const note = `the image is ${width} pixels wide and its ${size.source} speaks of ${columns}: it was resized, and `
      + "the pixel size scaled with it";
    return { width: size.width * factor, height: size.height * factor, source: size.source, note };
  }
  const note = `the image has ${width} x ${height} pixels and its ${size.source} speaks of ${columns} x ${rows}; if it `
    + "was resized and not cropped, draw over the scale bar";
  return { ...size, note };
}

/* The last element of an XML text by its name, {text, unit}, or null. A Web Worker has no parser of XML. */
function element(xml, name) {
  if (!xml || /<!(DOCTYPE|ENTITY)/.test(xml)) return null;
  const found = [...xml.matchAll(new RegExp(`<${name}\\b([^>]*)>([^<]+)</${name}>`, "g"))].pop();
  return found ? { text: unescaped(found[2]), unit: attribute(found[1], "unit") } : null;
}

function attribute(attributes, name) {
  const found = new RegExp(`(?:^|\\s)${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)')`).exec(attributes);
  return found ? unescaped(found[1] ?? found[2]) : null;
}

function unescaped(text) {
  const named = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", micro: "µ", mu: "μ", Aring: "Å" };
  return text.replace(/&(?:#x([\da-f]+)|#(\d+)|(\w+));/gi, (whole, hex, decimal, name) => {
    if (name) return named[name] ?? whole;
    return String.fromCodePoint(hex ? parseInt(hex, 16) : Number(decimal));
  });
}

function valid(size) {
  return size && [size.width, size.height].every((s) => Number.isFinite(s) && s > 0) ? size : null;
}
