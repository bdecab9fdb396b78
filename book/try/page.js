/* The page on which a reader segments a micrograph of their own. Nothing is uploaded: the file is read, segmented and
   measured by `worker.js` in this browser. The rules of corrections by hand are those of the library's report. */

import C from "./constants.js";
import { labelsSha256, mount, number } from "./corrections.js";
import { download, labelsPng, labelsTiff, maskPng } from "./export.js";
import { report } from "./report.js";
import { histogramSvg } from "./histogram.js";

const SHOWN = 1_500_000; // px of the picture on the page; larger images are shown reduced
const CORRECTED = C.corrections.MOST_PIXELS; // px of an image whose grains can be corrected in a page
const UNITS = { nm: 1e-3, "µm": 1, mm: 1e3 }; // micrometres
const STEP = 8; // px, least side of a crop
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
<div class="ml-inputs"><label>scale bar of <input type="number" min="0" step="any" name="pixels"> px</label> <label>is <input type="number" min="0" step="any" name="length"></label>
<label><select name="barunit" aria-label="unit of the scale bar">${Object.keys(UNITS).map((unit) => `<option${unit === "µm" ? " selected" : ""}>${unit}</option>`).join("")}</select></label></div></fieldset>
<fieldset><legend>Part of the image, px</legend><div class="ml-inputs">
${["left", "top", "width", "height"].map((side) => `<label>${side} <input type="number" min="0" step="1" name="${side}"></label>`).join(" ")}
<button type="button" data-do="whole">whole image</button></div></fieldset>
<fieldset><legend>Magnification before the network</legend>
<label><input type="number" min="0.1" max="4" step="any" name="zoom" placeholder="automatic"></label>
<p class="ml-soft">Empty: estimated from the image.</p></fieldset>
</div>
<p><button type="submit" class="ml-main" data-do="segment">Segment</button> <button type="button" data-do="cancel" hidden>Cancel</button>
<progress max="1" value="0" hidden aria-label="Progress"></progress> <span class="ml-doing"></span></p>
<p class="ml-soft ml-size">The first time, the network and what runs it are loaded: ${C.page.MEGABYTES} MB, less where the server compresses them.</p>
</form>
<section class="ml-result" hidden aria-label="Result" tabindex="-1">
<div class="ml-warnings"></div>
<p><label>boundaries <input type="range" min="0" max="100" value="100" name="opacity" aria-label="opacity of the boundaries, %"></label></p>
<div class="ml-columns"><div class="ml-table"></div><div class="ml-bars"></div></div>
<div class="ml-notes"></div>
<p class="ml-save" role="group" aria-label="Save">Take home:
<button type="button" data-save="csv">grains.csv</button> <button type="button" data-save="tiff">labels.tif</button>
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
  const state = { file: null, read: null, result: null, tool: null, drag: null, turn: 0, editor: null };

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

  /* Micrometres per pixel as the field says, and from where. */
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

  /* The part of the file to segment, in its pixels, or null for all of it. */
  function crop() {
    const { image, dataBar } = state.read, [left, top, width, height] = ["left", "top", "width", "height"].map((name) => Number(field(name).value));
    if (left === 0 && top === 0 && width === image.width && height === image.height) return null;
    const whole = [left, top, width, height].every(Number.isInteger);
    if (!whole || left < 0 || top < 0 || width < STEP || height < STEP || left + width > image.width || top + height > image.height) {
      throw new Error(`the part of the image must lie in its ${image.width} x ${image.height} pixels and have at least ${STEP} a side`);
    }
    return [left, top + dataBar.top, width, height];
  }

  function setCrop(left, top, width, height) {
    [["left", left], ["top", top], ["width", width], ["height", height]].forEach(([name, value]) => { field(name).value = value; });
    drawMarks();
  }

  /* The image in grey, with the boundaries over it where there is a result. */
  function draw() {
    const { image } = state.result ?? state.read, step = Math.max(1, Math.ceil(Math.sqrt((image.height * image.width) / SHOWN)));
    const height = Math.ceil(image.height / step), width = Math.ceil(image.width / step);
    canvas.width = width;
    canvas.height = height;
    const picture = context.createImageData(width, height), [low, high] = contrast(image), scale = 255 / Math.max(high - low, 1e-6);
    const share = Number(field("opacity").value) / 100;
    for (let y = 0, k = 0; y < height; y++) {
      for (let x = 0; x < width; x++, k += 4) {
        const grey = (image.data[y * step * image.width + x * step] - low) * scale;
        picture.data[k] = picture.data[k + 1] = picture.data[k + 2] = grey;
        picture.data[k + 3] = 255;
      }
    }
    if (state.result) {
      const { boundary, valid } = state.result;
      for (let y = 0; y < image.height; y++) {
        for (let x = 0; x < image.width; x++) {
          const i = y * image.width + x, colour = boundary.data[i] ? LINE : valid && !valid.data[i] ? CUT : null;
          if (!colour) continue;
          const k = 4 * (Math.floor(y / step) * width + Math.floor(x / step));
          for (let c = 0; c < 3; c++) picture.data[k + c] += share * (colour[c] - picture.data[k + c]);
        }
      }
    }
    context.putImageData(picture, 0, 0);
    find("svg").setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
    const shown = state.result ? ", with the boundaries that were found" : "";
    canvas.setAttribute("aria-label", `${state.file.name}, ${image.width} x ${image.height} pixels${shown}`);
    drawMarks();
  }

  /* The crop, and the line along the scale bar. */
  function drawMarks() {
    const { image } = state.read, [left, top, width, height] = ["left", "top", "width", "height"].map((name) => Number(field(name).value));
    const all = width >= image.width && height >= image.height;
    const frame = state.result || all ? "" : `M${left} ${top}h${width}v${height}h${-width}z`;
    const line = state.bar && !state.result ? `M${state.bar[0]} ${state.bar[1]}L${state.bar[2]} ${state.bar[3]}` : "";
    for (const path of root.querySelectorAll(".ml-picture path")) path.setAttribute("d", frame + line);
  }

  function pick(tool) {
    state.tool = state.tool === tool ? null : tool;
    for (const button of root.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
    find(".ml-picture").classList.toggle("ml-drawing", state.tool !== null);
  }

  function showImage() {
    state.result = null;
    find(".ml-result").hidden = true;
    find(".ml-tools").hidden = false;
    closeEditor();
    draw();
  }

  function closeEditor() {
    state.editor?.destroy();
    state.editor = null;
    find("[data-do=correct]").hidden = false;
  }

  /* Open a file of the reader, or a sample. */
  async function open(file) {
    const turn = (state.turn += 1);
    if (jobs.waiting.size) jobs.fail("another image was opened"); // else the network would be loaded again
    alarm();
    busy(false);
    say(`Reading ${file.name} ...`);
    try {
      const read = await jobs.call("open", { file, name: file.name });
      if (turn !== state.turn) return;
      Object.assign(state, { file, read, result: null, bar: null });
      form.hidden = false;
      find(".ml-name").textContent = file.name;
      for (const name of ["pixels", "length", "zoom"]) field(name).value = "";
      setPixelSize(read.pixelSize, read.pixelSizeSource);
      setCrop(0, 0, read.image.width, read.image.height);
      showImage();
      say([`${read.image.width} x ${read.image.height} pixels.`, ...read.notes].join(" "));
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
    const turn = (state.turn += 1);
    alarm();
    try {
      const options = { crop: crop() }, size = pixelSize(), zoom = positive("zoom");
      showImage();
      busy(true);
      say("Segmenting ...");
      const from = performance.now(), source = size ? state.source ?? "the page" : null;
      const result = await jobs.call("segment", { file: state.file, name: state.file.name, options, zoom, pixelSize: size, source }, (share, words) => {
        find("progress").value = share;
        find(".ml-doing").textContent = words;
      });
      if (turn !== state.turn) return;
      state.result = { ...result, pixelSize: size, seconds: (performance.now() - from) / 1000 };
      find(".ml-size").hidden = true;
      show();
      say(`Done in ${number(state.result.seconds)} s. ${state.result.warnings.length ? "Read the warning below." : ""}`);
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
    const { warnings, notes, image } = state.result;
    find(".ml-result").hidden = false;
    find(".ml-tools").hidden = true;
    if (state.tool) pick(state.tool);
    find(".ml-warnings").replaceChildren(...warnings.map((text) => paragraph(text, "ml-warning")));
    find(".ml-notes").replaceChildren(...notes.map((text) => paragraph(text, "ml-soft")));
    find("[data-do=correct]").disabled = image.height * image.width > CORRECTED;
    if (image.height * image.width > CORRECTED) {
      find(".ml-notes").append(paragraph(`Grains of images above ${number(CORRECTED / 1e6)} megapixels cannot be corrected here: crop the image.`, "ml-soft"));
    }
    showNumbers(state.result.measured);
    draw();
  }

  function showNumbers(measured) {
    state.result.measured = measured;
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
    const { labels, image, valid, pixelSize: size } = state.result, name = state.file.name, of = state.result;
    find("[data-do=correct]").hidden = true;
    const unit = of.measured.unit, sha256 = await labelsSha256(labels.data, image.width);
    const picture = await new Promise((resolve) => { greyCanvas(image).toBlob(resolve, "image/jpeg", 0.85); });
    let waiting = null;
    state.editor = mount(find(".ml-correct"), {
      width: image.width, labels: labels.data.slice(), picture: URL.createObjectURL(picture), name, sha256,
      file: "edits.json", fieldOfView: Boolean(valid), unit: unit.name, pixel: size ? size * unit.factor : 1, version: C.version,
      command: "microlab measure labels.tif --edits edits.json -o corrected",
    }, (edits) => { // the numbers follow, a little later than the click
      of.edits = edits;
      clearTimeout(waiting);
      waiting = setTimeout(async () => {
        const after = state.editor?.image.labels.slice();
        if (!after) return;
        const measured = await jobs.call("measure", { labels: { ...labels, data: after }, pixelSize: size, source: of.source, valid });
        if (state.result !== of) return;
        Object.assign(of, { corrected: { ...labels, data: after }, boundary: measured.boundary });
        showNumbers(measured);
        draw();
      }, 300);
    });
    find(".ml-correct .ml-stage")?.focus();
  }

  const shape = ({ data, height, width }) => [data, height, width];
  const stem = () => state.file.name.replace(/\.[^.]+$/, "");
  const saved = {
    csv: () => new Blob([state.result.measured.csv], { type: "text/csv" }),
    tiff: () => labelsTiff(...shape(state.result.corrected ?? state.result.labels), state.result.pixelSize),
    png: () => labelsPng(...shape(state.result.corrected ?? state.result.labels), state.result.pixelSize),
    mask: () => maskPng(...shape(state.result.boundary), state.result.pixelSize),
    report: () => report(state.file.name, state.result, canvas),
  };
  const names = { csv: "grains.csv", tiff: "labels.tif", png: "labels.png", mask: "mask.png", report: "report.html" };

  const actions = {
    choose: () => find("input[type=file]").click(),
    whole: () => { setCrop(0, 0, state.read.image.width, state.read.image.height); if (state.result) showImage(); },
    cancel: () => {
      state.turn += 1;
      jobs.fail("cancelled");
      busy(false);
      say("Cancelled.");
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
      const { file } = C.samples[sample], answer = await fetch(new URL(file, import.meta.url));
      if (answer.ok) open(new File([await answer.blob()], file));
      else alarm(`${file} could not be loaded (${answer.status}); load the page again`);
    }
    if (save) {
      try {
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
    });
  }
  for (const name of ["size", "unit"]) {
    field(name).addEventListener("input", () => {
      state.source = "given";
      find("[data-value=source]").textContent = field("size").value ? "As you typed it." : "Without it, sizes are in pixels.";
    });
  }
  for (const name of ["left", "top", "width", "height"]) field(name).addEventListener("input", () => { if (state.result) showImage(); else drawMarks(); });
  field("opacity").addEventListener("input", draw);

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
      if (Math.abs(x1 - x0) >= STEP && Math.abs(y1 - y0) >= STEP) setCrop(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
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
  root.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("ml-over"); });
  root.addEventListener("dragleave", () => root.classList.remove("ml-over"));
  root.addEventListener("drop", (event) => {
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

/* The image alone on a canvas of its own size. */
function greyCanvas(image) {
  const canvas = document.createElement("canvas"), [low, high] = contrast(image), scale = 255 / Math.max(high - low, 1e-6);
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d"), picture = context.createImageData(image.width, image.height);
  for (let i = 0, k = 0; i < image.data.length; i++, k += 4) {
    picture.data[k] = picture.data[k + 1] = picture.data[k + 2] = (image.data[i] - low) * scale;
    picture.data[k + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}
