/* The page on which a reader segments a micrograph of their own. Nothing is uploaded: the file is read, segmented and
   measured by `worker.js` in this browser. The rules of corrections by hand are those of the library's report. */

import C from "./constants.js";
import { labelsSha256, mount, number } from "./corrections.js";
import { download, labelsPng, labelsTiff, maskPng } from "./export.js";
import { report, warningsOf } from "./report.js";
import { histogramSvg } from "./histogram.js";

const SHOWN = 1_500_000; // px of the picture on the page; larger images are shown reduced
const CORRECTED = C.corrections.MOST_PIXELS; // px of an image whose grains can be corrected in a page
const UNITS = { nm: 1e-3, "µm": 1, mm: 1e3 }; // micrometres
const LEAST = C.segmenter.LEAST_SIDE; // px of a crop
const LINE = [230, 159, 0], CUT = [120, 120, 120]; // colours of boundaries and of what is no specimen

const PANEL = `
<div class="ml-drop">
<p><button type="button" class="ml-main" data-do="choose">Open a micrograph</button> <input type="file" hidden accept="${C.page.ACCEPT}"><span class="ml-soft">or drop it here, or paste it: PNG, JPEG or TIFF, up to ${C.page.MOST_MEGAPIXELS} megapixels.</span></p>
<p class="ml-samples" role="group" aria-label="Virtual samples">No image at hand? Try a virtual one: ${C.samples.map((sample, k) => `<button type="button" data-sample="${k}">${sample.name}</button>`).join(" ")}</p>
</div>
<p class="ml-alarm" role="alert" hidden></p>
<p class="ml-status" role="status"></p>
<form class="ml-image" hidden>
<h2 class="ml-name"></h2>
<div class="ml-tools" role="group" aria-label="Drag on the picture to">
<span>Drag on the picture to</span>
<button type="button" data-tool="crop" aria-pressed="false">crop it</button>
<button type="button" data-tool="bar" aria-pressed="false">measure its scale bar</button></div>
<div class="ml-picture"><canvas role="img"></canvas><svg aria-hidden="true" preserveAspectRatio="none"><path class="ml-under"/><path class="ml-over"/></svg></div>
<div class="ml-fields">
<fieldset><legend>Pixel size</legend>
<div class="ml-inputs"><label>one pixel is <input type="number" min="0" step="any" name="size" placeholder="unknown"></label>
<label><select name="unit" aria-label="unit of the pixel size">${Object.keys(UNITS).map((unit) => `<option${unit === "µm" ? " selected" : ""}>${unit}</option>`).join("")}</select></label></div>
<p class="ml-soft" data-value="source"></p>
<div class="ml-inputs"><label>scale bar of <input type="number" min="0" step="any" name="pixels"> px</label> <label>is <input type="number" min="0" step="any" name="length" aria-label="length of the scale bar"></label>
<label><select name="barunit" aria-label="unit of the scale bar">${Object.keys(UNITS).map((unit) => `<option${unit === "µm" ? " selected" : ""}>${unit}</option>`).join("")}</select></label></div></fieldset>
<fieldset><legend>Part of the image, px</legend><div class="ml-inputs">
${["left", "top", "width", "height"].map((side) => `<label>${side} <input type="number" min="0" step="1" name="${side}"></label>`).join(" ")}
<button type="button" data-do="whole">whole image</button></div></fieldset>
<fieldset><legend>Magnification before the network</legend>
<input type="number" min="0.1" max="4" step="any" name="zoom" placeholder="automatic" aria-label="magnification before the network">
<p class="ml-soft">Empty: estimated from the image.</p></fieldset>
</div>
<p><button type="submit" class="ml-main" data-do="segment">Segment</button> <button type="button" data-do="cancel" hidden>Cancel</button>
<progress max="1" value="0" hidden aria-label="Progress"></progress> <span class="ml-doing"></span></p>
<p class="ml-soft ml-size">The first time, the network and what runs it are loaded: ${globalThis.navigator?.gpu ? `${C.page.MEGABYTES.webgpu} MB where the graphics card can compute, else ` : ""}${C.page.MEGABYTES.wasm} MB, less where the server compresses them.</p>
</form>
<section class="ml-result" hidden aria-label="Result" tabindex="-1">
<div class="ml-warnings"></div>
<p><label>boundaries <input type="range" min="0" max="100" value="100" name="opacity" aria-label="opacity of the boundaries, %"></label></p>
<div class="ml-columns"><div class="ml-table"></div><div class="ml-bars"></div></div>
<div class="ml-notes"></div>
<p class="ml-save" role="group" aria-label="Save">Save:
<button type="button" data-save="csv">grains.csv</button> <button type="button" data-save="tiff">labels.tif</button>
<button type="button" data-save="before" hidden>labels before corrections</button>
<button type="button" data-save="png">labels.png</button> <button type="button" data-save="mask">mask.png</button>
<button type="button" data-save="report">report.html</button></p>
<p><button type="button" data-do="correct">Correct the grains by hand</button></p>
<div class="ml-correct"></div>
</section>`;

/* The worker, and the calls that wait for its answers. Cancelling ends it; the next call starts another. */
class Jobs {
  constructor() {
    this.waiting = new Map();
    this.last = 0;
  }

  start() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("error", (event) => this.fail(event.message || "the page's own scripts could not be loaded; load it again"));
    this.worker.addEventListener("message", ({ data: { id, answer, error, share, words } }) => {
      const call = this.waiting.get(id);
      if (!call) return;
      if (words !== undefined) { call.progress(share, words); return; }
      this.waiting.delete(id);
      if (error === undefined) call.resolve(answer);
      else call.reject(new Error(error));
    });
  }

  call(job, of, progress = () => {}) {
    if (!this.worker) this.start();
    const id = (this.last += 1);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, progress });
      this.worker.postMessage({ id, do: job, ...of });
    });
  }

  fail(words) {
    this.worker?.terminate();
    this.worker = null;
    for (const { reject } of this.waiting.values()) reject(new Error(words));
    this.waiting.clear();
  }
}

/* Build the page into `root`. Returns the state, for tests. */
export function start(root) {
  root.innerHTML = PANEL;
  const find = (selector) => root.querySelector(selector), field = (name) => find(`[name=${name}]`);
  const canvas = find("canvas"), context = canvas.getContext("2d"), form = find("form"), jobs = new Jobs();
  const state = { // of the image that is open, its result, and what is being done
    file: null, read: null, source: null, result: null, base: null, tool: null, drag: null, bar: null, turn: 0,
    editor: null, picture: null, waiting: null,
  };
  const SIDES = ["left", "top", "width", "height"];

  const say = (text) => { find(".ml-status").textContent = text; };
  const alarm = (text = "") => {
    find(".ml-alarm").textContent = text;
    find(".ml-alarm").hidden = !text;
  };
  const positive = (name) => { // a number above 0, or null for an empty field
    const text = field(name).value.trim(), value = Number(text);
    if (!text) return null;
    if (!(value > 0 && Number.isFinite(value))) throw new Error(`${field(name).labels[0]?.textContent.trim() ?? name}: give a number above 0`);
    return value;
  };

  /* Micrometres per pixel as the field says. */
  function pixelSize() {
    const value = positive("size");
    return value === null ? null : value * UNITS[field("unit").value];
  }

  function setPixelSize(size, source) {
    const unit = Object.keys(UNITS).find((name) => size / UNITS[name] < 1000) ?? "mm";
    field("size").value = size ? Number((size / UNITS[unit]).toPrecision(6)) : "";
    field("unit").value = size ? unit : "µm";
    state.source = source;
    find("[data-value=source]").textContent = size
      ? `From ${source}.`
      : "The file does not say it: type it, or measure the scale bar. Without it, sizes are in pixels.";
  }

  /* The part of the file to segment, in its pixels; null for all of it but the data bar. */
  function crop() {
    const { image } = state.read, values = SIDES.map((name) => Number(field(name).value));
    if (values.every((value, k) => value === withoutBar()[k])) return null;
    const [left, top, width, height] = values;
    if (!values.every(Number.isInteger) || left < 0 || top < 0 || width < LEAST || height < LEAST
      || left + width > image.width || top + height > image.height) {
      throw new Error(`the part of the image must lie in its ${image.width} x ${image.height} pixels and have at least ${LEAST} a side`);
    }
    return values;
  }

  function withoutBar() {
    const { image, dataBar } = state.read;
    return [0, dataBar.top, image.width, image.height - dataBar.top - dataBar.bottom];
  }

  function setCrop(left, top, width, height) {
    [left, top, width, height].forEach((value, k) => { field(SIDES[k]).value = value; });
    drawMarks();
  }

  /* The image in grey, with the boundaries over it where there is a result. */
  function draw() {
    const { image } = state.result ?? state.read;
    if (state.base?.of !== image) state.base = { of: image, ...greyPixels(image, Math.max(1, Math.ceil(Math.sqrt(image.data.length / SHOWN)))) };
    const { step, width, height, pixels } = state.base;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.putImageData(state.result ? overlaid(Number(field("opacity").value) / 100) : pixels, 0, 0);
    find("svg").setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
    const shown = state.result ? ", with the boundaries that were found" : "";
    canvas.setAttribute("aria-label", `${state.file.name}, ${image.width} x ${image.height} pixels${step > 1 ? `, shown reduced ${step} times` : ""}${shown}`);
    drawMarks();
  }

  /* The picture with boundaries, and what is not the specimen, drawn over it at an opacity. */
  function overlaid(share) {
    const { step, width, height, pixels } = state.base, { boundary, valid, marks } = state.result;
    if (!marks || marks.of !== boundary) state.result.marks = { of: boundary, ...marksOf(boundary, valid, step, width, height) };
    const picture = new ImageData(pixels.data.slice(), width, height);
    for (const [places, colour] of [[state.result.marks.cut, CUT], [state.result.marks.lines, LINE]]) {
      for (const place of places) for (let c = 0; c < 3; c++) picture.data[4 * place + c] += share * (colour[c] - picture.data[4 * place + c]);
    }
    return picture;
  }

  /* The crop, and the line along the scale bar. */
  function drawMarks() {
    const { image } = state.read, [left, top, width, height] = SIDES.map((name) => Number(field(name).value));
    const all = width >= image.width && height >= image.height;
    const frame = state.result || all ? "" : `M${left} ${top}h${width}v${height}h${-width}z`;
    const line = state.bar && !state.result ? `M${state.bar[0]} ${state.bar[1]}L${state.bar[2]} ${state.bar[3]}` : "";
    for (const path of root.querySelectorAll(".ml-picture path")) path.setAttribute("d", frame + line);
  }

  function pick(tool) {
    if (tool && state.result) {
      if (!mayLeave()) return;
      showImage();
    }
    state.tool = state.tool === tool ? null : tool;
    for (const button of root.querySelectorAll(".ml-tools [data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
    find(".ml-picture").classList.toggle("ml-drawing", state.tool !== null);
  }

  function showImage() {
    closeEditor();
    state.result = null;
    find(".ml-result").hidden = true;
    draw();
  }

  function closeEditor() {
    state.editor?.destroy();
    if (state.picture) URL.revokeObjectURL(state.picture);
    Object.assign(state, { editor: null, picture: null });
    clearTimeout(state.waiting);
    find("[data-do=correct]").hidden = false;
    find("[data-save=before]").hidden = true;
  }

  /* Whether corrections that are not saved may be lost. */
  const mayLeave = () => !state.editor?.unsaved() || confirm("The corrections are not saved. Discard them?");

  /* Open a file of the reader, or a sample. */
  async function open(file) {
    if (!mayLeave()) return;
    const turn = (state.turn += 1);
    if (jobs.waiting.size) jobs.fail("another image was opened"); // else the network would be loaded again
    alarm();
    busy(false);
    say(`Reading ${file.name} ...`);
    try {
      const read = await jobs.call("open", { file, name: file.name });
      if (turn !== state.turn) return;
      Object.assign(state, { file, read, bar: null });
      form.hidden = false;
      find(".ml-name").textContent = file.name;
      for (const name of ["pixels", "length", "zoom"]) field(name).value = "";
      setPixelSize(read.pixelSize, read.pixelSizeSource);
      setCrop(...withoutBar());
      showImage();
      say([`${read.image.width} x ${read.image.height} pixels`, ...read.notes].join("; "));
    } catch (error) {
      if (turn !== state.turn) return;
      say("");
      alarm(error.message);
    }
  }

  function busy(on) {
    find("[data-do=cancel]").hidden = !on;
    find("progress").hidden = !on;
    find("[data-do=segment]").disabled = on;
    find(".ml-doing").textContent = "";
    find("progress").value = 0;
  }

  async function segment() {
    if (!state.read || !mayLeave()) return;
    const turn = (state.turn += 1);
    alarm();
    try {
      const part = crop(), size = pixelSize(), zoom = positive("zoom");
      const options = part ? { crop: part, dataBar: 0 } : {};
      showImage();
      busy(true);
      say("Segmenting ...");
      const from = performance.now(), source = size ? state.source : null;
      options.sized = source !== state.read.pixelSizeSource;
      const result = await jobs.call("segment", { file: state.file, name: state.file.name, options, zoom, pixelSize: size, source }, (share, words) => {
        find("progress").value = share;
        find(".ml-doing").textContent = words;
      });
      if (turn !== state.turn) return;
      state.result = { ...result, found: result.boundary, part, pixelSize: size, source, seconds: (performance.now() - from) / 1000 };
      find(".ml-size").hidden = true;
      show();
      say(`Done in ${number(state.result.seconds)} s. ${warningsOf(state.result).length ? "Read the warning below." : ""}`);
      find(".ml-result").focus({ preventScroll: true });
    } catch (error) {
      if (turn !== state.turn) return;
      say("");
      alarm(error.message);
    }
    if (turn === state.turn) busy(false);
  }

  /* The result: warnings, numbers, histogram, notes, and what can be done with it. */
  function show() {
    const { notes, image } = state.result;
    find(".ml-result").hidden = false;
    if (state.tool) pick(null);
    find(".ml-notes").replaceChildren(...notes.map((text) => paragraph(text, "ml-soft")));
    find("[data-do=correct]").disabled = image.height * image.width > CORRECTED;
    if (image.height * image.width > CORRECTED) {
      find(".ml-notes").append(paragraph(`Grains of images above ${number(CORRECTED / 1e6)} megapixels cannot be corrected here: crop the image.`, "ml-soft"));
    }
    showNumbers(state.result.measured);
    requestAnimationFrame(draw); // not in one go, which would be felt
  }

  function showNumbers(measured) {
    state.result.measured = measured;
    find(".ml-warnings").replaceChildren(...warningsOf(state.result).map((text) => paragraph(text, "ml-warning")));
    const table = document.createElement("table");
    table.innerHTML = "<caption>Numbers</caption><tbody></tbody>";
    for (const [quantity, value] of measured.rows) {
      const row = table.tBodies[0].insertRow(), head = document.createElement("th");
      head.scope = "row";
      head.textContent = quantity;
      row.append(head);
      row.insertCell().textContent = value;
    }
    find(".ml-table").replaceChildren(table);
    find(".ml-bars").innerHTML = histogramSvg(measured.bars);
  }

  async function correct() {
    const of = state.result, { labels, image, valid } = of, name = stem();
    find("[data-do=correct]").hidden = true;
    const sha256 = await labelsSha256(labels.data, image.width), grey = greyPixels(image, 1);
    const picture = await new Promise((resolve) => { canvasOf(grey).toBlob(resolve, "image/jpeg", 0.85); });
    if (state.result !== of || !picture) return;
    state.picture = URL.createObjectURL(picture);
    const { unit } = of.measured;
    state.editor = mount(find(".ml-correct"), {
      width: image.width, labels: labels.data, picture: state.picture, name: state.file.name, sha256,
      file: `${name}-edits.json`, fieldOfView: Boolean(valid), unit: unit.name, pixel: of.pixelSize ? of.pixelSize * unit.factor : 1,
      version: C.version, command: `microlab measure ${name}-${names.before} --edits ${name}-edits.json -o corrected`,
    }, (edits) => {
      const data = state.editor.image.labels.slice();
      Object.assign(of, { edits, corrected: edits.length ? { ...labels, data } : null });
      find("[data-save=before]").hidden = !edits.length;
      measureAgain(300);
    });
    find(".ml-correct .ml-stage").focus();
  }

  /* Measure the grains of the result anew, a little later than the click that changed them or the pixel size. */
  function measureAgain(wait = 0) {
    const of = state.result;
    clearTimeout(state.waiting);
    of.pending = new Promise((resolve) => { state.waiting = setTimeout(resolve, wait); }).then(async () => {
      const size = pixelSize(), source = size ? state.source : null;
      const measured = await jobs.call("measure", { labels: of.corrected ?? of.labels, pixelSize: size, source, valid: of.valid });
      if (state.result !== of) return;
      Object.assign(of, { pixelSize: size, source, boundary: of.corrected ? measured.boundary : of.found });
      showNumbers(measured);
      draw();
    }).catch((error) => { if (state.result === of) alarm(error.message); });
  }

  const shape = ({ data, height, width }) => [data, height, width];
  const stem = () => state.file.name.replace(/\.[^.]+$/, "");
  const saved = {
    csv: () => new Blob([state.result.measured.csv], { type: "text/csv" }),
    tiff: () => labelsTiff(...shape(state.result.corrected ?? state.result.labels), state.result.pixelSize),
    png: () => labelsPng(...shape(state.result.corrected ?? state.result.labels), state.result.pixelSize),
    mask: () => maskPng(...shape(state.result.boundary), state.result.pixelSize),
    before: () => labelsTiff(...shape(state.result.labels), state.result.pixelSize),
    report: () => report(state.file.name, state.result, canvasOf({ ...state.base, pixels: overlaid(1) })),
  };
  const names = {
    csv: "grains.csv", tiff: "labels.tif", before: "labels-before.tif", png: "labels.png", mask: "mask.png", report: "report.html",
  };

  const actions = {
    choose: () => find("input[type=file]").click(),
    whole: () => { setCrop(0, 0, state.read.image.width, state.read.image.height); },
    cancel: () => {
      state.turn += 1;
      jobs.fail("cancelled");
      busy(false);
      say("Cancelled.");
      find("[data-do=segment]").focus();
    },
    correct,
  };

  root.addEventListener("click", async ({ target }) => {
    const button = target.closest("button");
    if (!button || find(".ml-correct").contains(button)) return;
    const { do: action, tool, sample, save } = button.dataset;
    if (actions[action]) actions[action]();
    if (tool) pick(tool);
    if (sample) {
      const { file } = C.samples[sample], turn = (state.turn += 1);
      try {
        const answer = await fetch(new URL(file, import.meta.url));
        if (!answer.ok) throw new Error(answer.status);
        const blob = await answer.blob();
        if (turn === state.turn) open(new File([blob], file));
      } catch (error) { alarm(`${file} could not be loaded (${error.message}); check the connection`); }
    }
    if (save) {
      try {
        await state.result.pending;
        download(`${stem()}-${names[save]}`, await saved[save]());
      } catch (error) { alarm(`${names[save]} was not saved: ${error.message}`); }
    }
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); segment(); });
  find("input[type=file]").addEventListener("change", ({ target }) => { if (target.files[0]) open(target.files[0]); target.value = ""; });
  for (const name of ["pixels", "length", "barunit"]) {
    field(name).addEventListener("input", () => {
      const pixels = Number(field("pixels").value), length = Number(field("length").value);
      if (pixels > 0 && length > 0) setPixelSize((length * UNITS[field("barunit").value]) / pixels, "the scale bar, as you measured it");
      if (state.result) measureAgain(300);
    });
  }
  for (const name of ["size", "unit"]) {
    field(name).addEventListener("input", () => {
      state.source = "given";
      find("[data-value=source]").textContent = field("size").value ? "As you typed it." : "Without it, sizes are in pixels.";
      if (state.result) measureAgain(300);
    });
  }
  for (const name of SIDES) field(name).addEventListener("input", drawMarks);
  field("opacity").addEventListener("input", () => requestAnimationFrame(draw));

  /* Dragging on the picture: a rectangle to crop to, or a line along the scale bar. */
  const stage = find(".ml-picture");
  const pixelOf = (event) => {
    const box = canvas.getBoundingClientRect(), { image } = state.read;
    const at = (v, n) => Math.max(0, Math.min(n, Math.round(v * n)));
    return [at((event.clientX - box.left) / box.width, image.width), at((event.clientY - box.top) / box.height, image.height)];
  };
  stage.addEventListener("pointerdown", (event) => {
    if (!state.tool || state.result || event.button) return;
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    state.drag = pixelOf(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!state.drag) return;
    const [x0, y0] = state.drag, [x1, y1] = pixelOf(event);
    if (state.tool === "crop") {
      if (Math.abs(x1 - x0) >= LEAST && Math.abs(y1 - y0) >= LEAST) setCrop(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
    } else {
      state.bar = [x0, y0, x1, y1];
      field("pixels").value = Math.round(Math.hypot(x1 - x0, y1 - y0));
      drawMarks();
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    stage.addEventListener(kind, () => {
      if (state.drag && state.tool === "bar" && state.bar) {
        field("pixels").dispatchEvent(new Event("input"));
        field("length").focus();
      }
      state.drag = null;
    });
  }

  /* Files dropped on the page, and pictures pasted into it. */
  const given = (transfer) => [...(transfer?.files ?? [])][0];
  document.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("ml-over"); });
  document.addEventListener("dragleave", () => root.classList.remove("ml-over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("ml-over");
    if (given(event.dataTransfer)) open(given(event.dataTransfer));
    else alarm("What was dropped is no file; save the picture first.");
  });
  document.addEventListener("paste", (event) => {
    const file = given(event.clipboardData);
    if (file) { event.preventDefault(); open(file); }
  });
  return { state, open, segment, jobs };
}

function paragraph(text, kind) {
  const p = document.createElement("p");
  p.className = kind;
  p.textContent = text;
  return p;
}

/* Grey levels that become black and white: percentiles of some pixels, so that a few extreme ones do not count. */
function contrast({ data }) {
  const step = Math.max(1, Math.floor(data.length / 20000)), some = [];
  for (let i = 0; i < data.length; i += step) some.push(data[i]);
  some.sort((a, b) => a - b);
  return C.corrections.CONTRAST.map((percent) => some[Math.round((percent / 100) * (some.length - 1))]);
}

/* The image in grey, of every `step`-th pixel, as ImageData. */
function greyPixels(image, step) {
  const width = Math.ceil(image.width / step), height = Math.ceil(image.height / step), pixels = new ImageData(width, height);
  const [low, high] = contrast(image), scale = 255 / Math.max(high - low, 1e-6);
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k += 4) {
      const grey = (image.data[y * step * image.width + x * step] - low) * scale;
      pixels.data[k] = pixels.data[k + 1] = pixels.data[k + 2] = grey;
      pixels.data[k + 3] = 255;
    }
  }
  return { step, width, height, pixels };
}

/* Places in a reduced picture where a boundary lies, and where there is no specimen. */
function marksOf(boundary, valid, step, width, height) {
  const kind = new Uint8Array(width * height);
  for (let y = 0, i = 0; y < boundary.height; y++) {
    const row = Math.floor(y / step) * width;
    for (let x = 0; x < boundary.width; x++, i++) {
      if (boundary.data[i]) kind[row + Math.floor(x / step)] = 2;
      else if (valid && !valid.data[i]) kind[row + Math.floor(x / step)] ||= 1;
    }
  }
  const places = (value) => { const found = []; kind.forEach((one, k) => { if (one === value) found.push(k); }); return found; };
  return { cut: places(1), lines: places(2) };
}

function canvasOf({ width, height, pixels }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
