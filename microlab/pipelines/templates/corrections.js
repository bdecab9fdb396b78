/* The page on which grains are corrected by hand: picture, tools, table, file of edits. The rules of the edits are in
   microlab/data/edits.js, which stands before this text in one module. The report calls `mount`; JupyterLab calls
   `render` through anywidget. */

const TOOLS = {
  merge: { key: "m", name: "Merge", hint: "Choose two grains that are one: click the first, then the second, which gets its number." },
  split: { key: "s", name: "Split", hint: "Draw a line across a grain, from boundary to boundary: drag, or click both ends." },
  delete: { key: "d", name: "Delete", hint: "Choose what is no grain: a pore, an artefact. A hole stays." },
  add: { key: "a", name: "Add", hint: "Draw around a grain that is missing: drag, or click corners and the last one twice." },
};
const DONE = { merge: "Merged", split: "Split", delete: "Deleted", add: "Added" };
const COLOUR = { line: [230, 159, 0, 255], chosen: [0, 114, 178, 130], hole: [0, 0, 0, 140], none: [0, 0, 0, 0] };
const STEP = 8; // px that an arrow key moves the cross; with Shift one
const LARGEST_ZOOM = 32;

const STYLE = `
.ml-edit { margin: 1rem 0; }
.ml-edit .ml-row { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .5rem 0; }
.ml-edit .ml-group { display: inline-flex; flex-wrap: wrap; gap: .4rem; margin-right: .8rem; }
.ml-edit button { font: inherit; color: inherit; background: transparent; border: 1px solid currentColor; border-radius: 4px; padding: .2rem .8rem; min-height: 2rem; cursor: pointer; }
.ml-edit button[aria-pressed=true] { box-shadow: inset 0 0 0 2px currentColor; font-weight: 650; }
.ml-edit button:disabled { opacity: .55; cursor: default; }
.ml-edit .ml-row input[type=number] { font: inherit; color: inherit; background: transparent; border: 1px solid currentColor; border-radius: 4px; width: 6rem; min-height: 2rem; }
.ml-edit .ml-view { overflow: auto; width: fit-content; max-width: 100%; max-height: 75vh; border: 1px solid currentColor; background: #777; }
.ml-edit .ml-stage { position: relative; cursor: crosshair; user-select: none; }
.ml-edit .ml-stage:focus { outline: none; }
.ml-edit .ml-view:focus-within { outline: 3px solid currentColor; outline-offset: 2px; }
.ml-edit .ml-stage > * { position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; border-radius: 0; pointer-events: none; }
.ml-edit .ml-stage > img, .ml-edit .ml-stage > canvas { image-rendering: pixelated; }
.ml-edit .ml-stage .ml-under { stroke: #000; } .ml-edit .ml-stage .ml-over { stroke: #fff; }
.ml-edit .ml-stage path { fill: none; vector-effect: non-scaling-stroke; }
.ml-edit .ml-under { stroke-width: 4px; } .ml-edit .ml-over { stroke-width: 1.6px; }
.ml-edit .ml-numbers { font-variant-numeric: tabular-nums; margin: .5rem 0; }
.ml-edit .ml-numbers output { font-weight: 650; }
.ml-edit .ml-say, .ml-edit .ml-here { min-height: 1.6em; margin: .3rem 0; }
.ml-edit .ml-wrong { font-weight: 650; }
.ml-edit .ml-table { max-height: 20rem; max-width: 32rem; overflow: auto; contain: content; font-variant-numeric: tabular-nums; }
.ml-edit .ml-line { display: grid; grid-template-columns: repeat(4, 1fr); gap: .8rem; padding: .15rem .2rem; text-align: right; content-visibility: auto; contain-intrinsic-size: auto 1.7rem; }
.ml-edit .ml-line > :first-child { text-align: left; }
.ml-edit .ml-head { font-weight: 650; border-bottom: 2px solid currentColor; content-visibility: visible; }
.ml-edit .ml-changed { font-weight: 650; }
.ml-edit details { margin: .6rem 0; }
.ml-edit summary { cursor: pointer; }
@media print { .ml-edit { display: none; } }`;

const PANEL = `
<div class="ml-row" role="group" aria-label="Correct grains">
<span class="ml-group" role="group" aria-label="Tools">${Object.entries(TOOLS).map(([tool, { name, key }]) => `<button type="button" data-tool="${tool}" aria-pressed="false" aria-keyshortcuts="${key}">${name}</button>`).join("")}</span>
<span class="ml-group"><button type="button" data-do="undo" aria-keyshortcuts="u">Undo</button><button type="button" data-do="redo" aria-keyshortcuts="r">Redo</button></span>
<span class="ml-group"><button type="button" data-do="closer" aria-label="Zoom in" aria-keyshortcuts="+">+</button><button type="button" data-do="farther" aria-label="Zoom out" aria-keyshortcuts="-">−</button><button type="button" data-do="fit" aria-keyshortcuts="0">Fit</button></span>
<label><input type="checkbox" data-show checked> boundaries</label></div>
<p class="ml-hint"></p>
<div class="ml-view"><div class="ml-stage" tabindex="0" role="application"><img alt=""><canvas></canvas><svg aria-hidden="true" preserveAspectRatio="none"><path class="ml-under"/><path class="ml-over"/></svg></div></div>
<p class="ml-say" role="status"></p>
<p class="ml-numbers">grains <output data-value="grains"></output>, mean diameter <output data-value="diameter"></output>, cut by the edge <output data-value="cut"></output>, edits <output data-value="edits"></output>. As opened: <span data-value="before"></span>.</p>
<p class="ml-here" data-value="here"></p>
<div class="ml-row"><button type="button" data-do="save">Save edits.json</button><button type="button" data-do="open">Open edits.json</button><input type="file" accept=".json,application/json" hidden></div>
<p class="ml-command" hidden>To get the corrected labels and the table of grains: <code></code></p>
<details class="ml-keys"><summary>Keys</summary><p>In the picture: arrow keys move the cross, with Shift by one pixel. Enter chooses a grain, or places the end of a line or the corner of an outline; Enter twice at one place closes an outline. Esc gives up what was begun. M, S, D, A choose the tool; U undoes, R redoes; + and − zoom, 0 fits; B shows or hides the boundaries. Ctrl and the wheel zoom, too.</p></details>
<details class="ml-all"><summary>Table of grains</summary>
<div class="ml-row"><label>grain <input type="number" min="1" step="1" data-goto></label><button type="button" data-do="goto">Show in the picture</button></div>
<div class="ml-table" tabindex="0" role="table" aria-label="Grains"><div role="rowgroup"><div class="ml-line ml-head" role="row"><span role="columnheader">grain</span><span role="columnheader" data-unit="diameter"></span><span role="columnheader" data-unit="area"></span><span role="columnheader">cut by the edge</span></div></div><div class="ml-body" role="rowgroup"></div></div></details>`;

const SMALL = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });
const LARGE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/* Three significant digits without an exponent, as the tables of microlab have them; a dash for what is not known. */
export function number(value) {
  if (!Number.isFinite(value)) return "–";
  return (Math.abs(value) >= 1000 ? LARGE : SMALL).format(value);
}

/* Labels from the text that microlab/pipelines/corrections.py packs them into: base64 of the deflated bytes of int32,
   every row as its difference (exclusive or) from the one above. */
export async function unpack(text, width) {
  if (!globalThis.DecompressionStream) throw new Error("this browser is too old to unpack the labels; take one from 2023 or later");
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const labels = new Int32Array(await new Response(stream).arrayBuffer());
  for (let i = width; i < labels.length; i++) labels[i] ^= labels[i - width];
  return labels;
}

/* Put the correction of one image into `el`.
   `data`: width, labels (Int32Array), picture (address of the image), name, file, sha256, fieldOfView, unit (of lengths),
   pixel (how long one is in it), version, command (how to replay, or ""). `onChange(edits)` is called after every change.
   Returns {image, replay(edits), act(edit), unsaved(), destroy()}. */
export function mount(el, data, onChange = () => {}) {
  const image = new Grains(data.labels, data.width, data.fieldOfView), { width, height } = image;
  const panel = document.createElement("div");
  panel.className = "ml-edit";
  panel.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the keys
  panel.innerHTML = `<style>${STYLE}</style>${PANEL}`;
  el.append(panel);
  const find = (selector) => panel.querySelector(selector);
  const view = find(".ml-view"), stage = find(".ml-stage"), canvas = find("canvas"), context = canvas.getContext("2d");
  const { unit, pixel: size } = data;
  const state = { tool: "merge", zoom: 1, chosen: 0, points: [], dragging: false, cross: [height >> 1, width >> 1], saved: "[]" };
  const opened = image.mean(), rows = new Map(); // rows of the table by the number of the grain
  let marked = []; // rows that the last edit changed

  canvas.width = width;
  canvas.height = height;
  find("img").src = data.picture;
  find("svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
  find("[data-unit=diameter]").textContent = `diameter (${unit})`;
  find("[data-unit=area]").textContent = `area (${unit}²)`;
  find("[data-do=save]").textContent = `Save ${data.file}`;
  find("[data-do=open]").textContent = `Open ${data.file}`;
  if (data.command) {
    find(".ml-command").hidden = false;
    find(".ml-command code").textContent = data.command;
  }

  const far = ([y0, x0], [y1, x1]) => Math.max(Math.abs(y1 - y0), Math.abs(x1 - x0));
  const length = (pixels) => `${number(pixels * size)} ${unit}`;
  const write = (key, text) => { find(`[data-value=${key}]`).textContent = text; };
  const say = (text, wrong = false) => {
    find(".ml-say").textContent = text;
    find(".ml-say").classList.toggle("ml-wrong", wrong);
  };
  const about = (label) => {
    if (!label) return "no grain";
    const { diameter, cut } = image.row(label);
    return `grain ${label}, diameter ${length(diameter)}${cut ? ", cut by the edge" : ""}`;
  };

  /* Boundaries, the chosen grain and what is no grain, in a box of the picture. */
  function draw({ top, left, bottom, right }) {
    const box = image.around({ top, left, bottom, right }, 1), w = box.right - box.left, h = box.bottom - box.top;
    if (w <= 0 || h <= 0) return;
    const picture = context.createImageData(w, h), pixels = new Uint32Array(picture.data.buffer);
    const colour = Object.fromEntries(Object.entries(COLOUR).map(([key, rgba]) => [key, new Uint32Array(Uint8Array.from(rgba).buffer)[0]]));
    const shown = find("[data-show]").checked, { labels } = image;
    for (let y = box.top; y < box.bottom; y++) {
      for (let x = box.left; x < box.right; x++) {
        const i = y * width + x, label = labels[i];
        const right = x + 1 < width ? labels[i + 1] : label, below = y + 1 < height ? labels[i + width] : label;
        const line = label === 0 && image.lines && image.closed[i] > 0;
        const edge = image.lines ? line : right !== label || below !== label;
        const under = label === 0 && !line ? "hole" : label && label === state.chosen ? "chosen" : "none";
        pixels[(y - box.top) * w + x - box.left] = colour[edge && shown ? "line" : under];
      }
    }
    context.putImageData(picture, box.left, box.top);
  }

  /* The cross, and the line or outline that is being drawn. */
  function drawPath() {
    const centre = ([y, x]) => `${x + 0.5} ${y + 0.5}`;
    const [y, x] = state.cross, arm = 7 / state.zoom;
    const focused = stage.getRootNode().activeElement === stage; // also inside of a shadow root
    const cross = focused ? `M${x + 0.5 - arm} ${y + 0.5}h${2 * arm}M${x + 0.5} ${y + 0.5 - arm}v${2 * arm}` : "";
    const dots = state.points.map((point) => `M${centre(point)}m${-2 / state.zoom} 0h${4 / state.zoom}`).join("");
    const ends = focused && !state.dragging && state.points.length ? [...state.points, state.cross] : state.points;
    const line = ends.length > 1 ? `M${ends.map(centre).join("L")}` : "";
    for (const path of panel.querySelectorAll(".ml-stage path")) path.setAttribute("d", line + dots + cross);
  }

  function zoomTo(zoom, [y, x] = state.cross) {
    const fit = fitting(), before = stage.getBoundingClientRect(), frame = view.getBoundingClientRect();
    state.zoom = Math.max(Math.min(fit, 1), Math.min(LARGEST_ZOOM, zoom));
    const place = [before.top - frame.top + (y / height) * before.height, before.left - frame.left + (x / width) * before.width];
    stage.style.width = `${width * state.zoom}px`;
    stage.style.height = `${height * state.zoom}px`;
    const inside = (v, most) => Math.max(0.1 * most, Math.min(0.9 * most, v)); // the pixel stays where it is, in view
    view.scrollTop = y * state.zoom - inside(place[0], view.clientHeight);
    view.scrollLeft = x * state.zoom - inside(place[1], view.clientWidth);
    drawPath();
  }

  const fitting = () => Math.min(((panel.clientWidth || width + 2) - 2) / width, (0.7 * innerHeight) / height); // 2: the frame

  function choose(label) {
    const boxes = [state.chosen, label].map((one) => image.grains.get(one)).filter(Boolean);
    state.chosen = label;
    for (const box of boxes) draw(box);
  }

  /* Not a <tr>: the browser would lay out a thousand of them again after every change. */
  function tableRow(label) {
    const row = document.createElement("div"), { diameter, area, cut } = image.row(label);
    row.className = "ml-line";
    row.setAttribute("role", "row");
    [label, number(diameter * size), number(area * size * size), cut ? "yes" : ""].forEach((text, k) => {
      const cell = document.createElement("span");
      cell.setAttribute("role", k ? "cell" : "rowheader");
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  }

  function fillTable() {
    const body = find(".ml-body"), labels = [...image.grains.keys()].sort((a, b) => a - b);
    rows.clear();
    marked = [];
    for (const label of labels) rows.set(label, tableRow(label));
    body.replaceChildren(...rows.values());
  }

  /* Only rows that changed, since a table of a thousand takes longer than the edit. */
  function updateTable(changed) {
    const body = find(".ml-body");
    if (!find(".ml-all").open) return;
    for (const row of marked) row.classList.remove("ml-changed");
    marked = [];
    for (const label of changed) {
      const old = rows.get(label);
      if (!image.grains.has(label)) { old?.remove(); rows.delete(label); continue; }
      const row = tableRow(label);
      if (old?.innerHTML === row.innerHTML) continue;
      row.classList.add("ml-changed");
      marked.push(row);
      rows.set(label, row);
      if (old) { old.replaceWith(row); continue; }
      let next = null; // most new grains have the largest number
      for (let one = body.lastElementChild; one && Number(one.firstChild.textContent) > label; one = one.previousElementSibling) next = one;
      body.insertBefore(row, next);
    }
  }

  function numbers() {
    const { grains, diameter, cut } = image.mean();
    write("grains", grains);
    write("diameter", length(diameter));
    write("cut", cut);
    write("edits", image.history.length);
    stage.setAttribute("aria-label", `Picture of ${grains} grains, tool ${TOOLS[state.tool].name}. Arrow keys move the cross, Enter works at it.`);
    find("[data-do=undo]").disabled = !image.history.length;
    find("[data-do=redo]").disabled = !image.undone.length;
    return `${grains} grains, mean diameter ${length(diameter)}.`;
  }

  /* After every change of the labels. */
  function show(result, words) {
    state.points = [];
    choose(0);
    draw(result.box);
    drawPath();
    here(state.cross);
    updateTable(result.changed);
    say(`${words} ${numbers()}`);
    onChange(image.edits);
  }

  function attempt(action) {
    try { return action(); } catch (error) {
      state.points = [];
      choose(0);
      drawPath();
      say(`${error.message[0].toUpperCase()}${error.message.slice(1)}.`, true);
      return null;
    }
  }

  const act = (edit) => attempt(() => show(image.apply(edit), `${DONE[edit.do]}.`));

  /* What a click, or Enter, at a pixel does; a corner within `reach` of the last one is the last one again. */
  function use(pixel, reach) {
    const { tool, points } = state, label = image.labelAt(pixel);
    if (tool === "delete") return act({ do: "delete", at: [pixel] });
    if (tool === "merge") {
      if (state.chosen && points.length) return act({ do: "merge", at: [points[0], pixel] });
      if (!label) return say("No grain lies there.", true);
      state.points = [pixel];
      choose(label);
      drawPath();
      return say(`Chosen: ${about(label)}. Now the grain that belongs to it.`);
    }
    const again = points.length && far(points[points.length - 1], pixel) <= reach;
    if (tool === "add" && points.length > 2 && again) return act({ do: "add", at: points });
    if (again) return null;
    state.points = [...points, pixel];
    drawPath();
    if (tool === "split" && state.points.length === 2) return act({ do: "split", at: state.points });
    return say(tool === "split" ? "Now the other end of the line." : `${state.points.length} corners; the last one twice closes the outline.`);
  }

  function pick(tool) {
    state.tool = tool;
    state.points = [];
    say("");
    choose(0);
    for (const button of panel.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    find(".ml-hint").textContent = TOOLS[tool].hint;
    stage.style.touchAction = tool === "split" || tool === "add" ? "none" : "manipulation";
    numbers();
    drawPath();
  }

  function here(pixel) { write("here", `Row ${pixel[0]}, column ${pixel[1]}: ${about(image.labelAt(pixel))}.`); }

  function move([dy, dx]) {
    const clamp = (v, n) => Math.max(0, Math.min(n - 1, v));
    state.cross = [clamp(state.cross[0] + dy, height), clamp(state.cross[1] + dx, width)];
    const [y, x] = state.cross.map((v) => v * state.zoom), margin = 24;
    view.scrollTop = Math.min(Math.max(view.scrollTop, y + margin - view.clientHeight), Math.max(0, y - margin));
    view.scrollLeft = Math.min(Math.max(view.scrollLeft, x + margin - view.clientWidth), Math.max(0, x - margin));
    here(state.cross);
    say(`${about(image.labelAt(state.cross))}`);
    drawPath();
  }

  const actions = {
    undo: () => { const result = image.undo(); if (result) show(result, `Undone: ${result.edit.do}.`); },
    redo: () => attempt(() => { const result = image.redo(); if (result) show(result, `Done again: ${result.edit.do}.`); }),
    closer: () => zoomTo(state.zoom * 1.5),
    farther: () => zoomTo(state.zoom / 1.5),
    fit: () => zoomTo(fitting()),
    save,
    open: () => find("input[type=file]").click(),
    goto: () => {
      const label = find("[data-goto]").valueAsNumber, box = image.grains.get(label);
      if (!box) return say(`There is no grain ${find("[data-goto]").value}.`, true);
      state.cross = [(box.top + box.bottom) >> 1, (box.left + box.right) >> 1];
      const most = Math.max(box.bottom - box.top, box.right - box.left);
      zoomTo(Math.max(state.zoom, Math.min(8, (0.4 * Math.min(view.clientWidth, innerHeight)) / most)));
      view.scrollTop = state.cross[0] * state.zoom - view.clientHeight / 2;
      view.scrollLeft = state.cross[1] * state.zoom - view.clientWidth / 2;
      view.scrollIntoView({ block: "nearest" });
      here(state.cross);
      choose(label);
      return say(`Chosen: ${about(label)}.`);
    },
  };

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([editsFile(image, data.sha256, data.name, data.version)], { type: "application/json" }));
    link.download = data.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    state.saved = JSON.stringify(image.edits);
    say(`Saved ${image.history.length} edits as ${data.file}, where this browser puts downloads.`);
  }

  /* Start from the labels as they were opened and make these edits. */
  function replay(edits) {
    while (image.history.length) image.undo();
    try {
      for (const edit of edits) image.apply(edit);
    } finally {
      image.undone = [];
      show({ box: { top: 0, left: 0, bottom: height, right: width }, changed: [] }, `${image.history.length} edits made.`);
      if (find(".ml-all").open) fillTable();
    }
  }

  async function openFile(file) {
    const kept = image.edits;
    try {
      const stored = JSON.parse(await file.text());
      if (stored.sha256 !== data.sha256) throw new Error("it belongs to another label image");
      replay(stored.edits);
      state.saved = JSON.stringify(image.edits);
    } catch (error) {
      replay(kept);
      say(`${file.name} cannot be opened: ${error.message}.`, true);
    }
  }

  for (const button of panel.querySelectorAll("[data-do]")) button.addEventListener("click", () => actions[button.dataset.do]());
  for (const button of panel.querySelectorAll("[data-tool]")) button.addEventListener("click", () => pick(button.dataset.tool));
  find("[data-show]").addEventListener("change", () => draw({ top: 0, left: 0, bottom: height, right: width }));
  find(".ml-all").addEventListener("toggle", () => { if (find(".ml-all").open) fillTable(); });
  find("[data-goto]").addEventListener("keydown", (event) => { if (event.key === "Enter") actions.goto(); event.stopPropagation(); });
  find("input[type=file]").addEventListener("change", ({ target }) => { if (target.files[0]) openFile(target.files[0]); target.value = ""; });

  const pixelOf = (event) => {
    const box = stage.getBoundingClientRect(), clamp = (v, n) => Math.max(0, Math.min(n - 1, Math.floor(v * n)));
    return [clamp((event.clientY - box.top) / box.height, height), clamp((event.clientX - box.left) / box.width, width)];
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    state.cross = pixelOf(event);
    stage.focus({ preventScroll: true });
    if (state.tool === "merge" || state.tool === "delete") return;
    stage.setPointerCapture(event.pointerId);
    state.dragging = state.points.length === 0; // corners may also be clicked one by one
    if (state.dragging) state.points = [state.cross];
    drawPath();
  });
  stage.addEventListener("pointermove", (event) => {
    const pixel = pixelOf(event);
    here(pixel);
    if (!state.dragging || far(pixel, state.points[state.points.length - 1]) < Math.max(2, 4 / state.zoom)) return;
    state.points = [...state.points, pixel];
    drawPath();
  });
  stage.addEventListener("pointercancel", () => { state.dragging = false; state.points = []; drawPath(); });
  stage.addEventListener("pointerup", (event) => {
    if (event.button) return;
    const pixel = pixelOf(event), { tool, dragging, points } = state;
    state.cross = pixel;
    state.dragging = false;
    if (!dragging) { use(pixel, 3 / state.zoom); return; }
    if (points.length > 1) {
      const at = far(points[points.length - 1], pixel) ? [...points, pixel] : points;
      if (tool === "add" && at.length < 3) attempt(() => { throw new Error("the outline encloses nothing"); });
      else act({ do: tool, at });
      return;
    }
    say(tool === "split" ? "Now the other end of the line." : "1 corner; the last one twice closes the outline.");
    drawPath();
  });
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    zoomTo(state.zoom * 1.2 ** -Math.sign(event.deltaY), pixelOf(event));
  }, { passive: false });
  for (const kind of ["focus", "blur"]) stage.addEventListener(kind, drawPath);
  stage.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 1 : STEP, key = event.key.toLowerCase();
    const arrows = { arrowup: [-by, 0], arrowdown: [by, 0], arrowleft: [0, -by], arrowright: [0, by] };
    const control = event.ctrlKey || event.metaKey, tool = Object.keys(TOOLS).find((name) => TOOLS[name].key === key);
    if (control && key === "z") actions[event.shiftKey ? "redo" : "undo"]();
    else if (control && key === "y") actions.redo();
    else if (control || event.altKey) return;
    else if (arrows[key]) move(arrows[key]);
    else if (key === "enter" || key === " ") use(state.cross, 0);
    else if (key === "escape") { state.points = []; choose(0); drawPath(); say("Given up."); }
    else if (tool) { pick(tool); say(TOOLS[tool].hint); }
    else if (key === "u") actions.undo();
    else if (key === "r") actions.redo();
    else if (key === "+" || key === "=") actions.closer();
    else if (key === "-") actions.farther();
    else if (key === "0") actions.fit();
    else if (key === "b") find("[data-show]").click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  const leaving = (event) => { // what is not saved would be lost
    if (data.command && JSON.stringify(image.edits) !== state.saved) event.returnValue = true;
  };
  addEventListener("beforeunload", leaving);
  draw({ top: 0, left: 0, bottom: height, right: width });
  write("before", `${opened.grains} grains, ${length(opened.diameter)}`);
  pick("merge");
  zoomTo(fitting());
  if (!panel.clientWidth) requestAnimationFrame(() => zoomTo(fitting())); // not yet in the page
  const unsaved = () => JSON.stringify(image.edits) !== state.saved;
  return { image, act, replay, unsaved, destroy: () => { removeEventListener("beforeunload", leaving); panel.remove(); } };
}

/* anywidget: the edits are kept in step with Python, which makes them on its own labels. */
async function render({ model, el }) {
  const inner = document.createElement("div");
  el.append(inner);
  const data = { ...model.get("data") };
  data.labels = await unpack(data.labels, data.width);
  let telling = false; // our own report must not come back as a change
  const page = mount(inner, data, (edits) => {
    if (telling) return;
    telling = true;
    model.set("edits", edits);
    model.save_changes();
    telling = false;
  });
  const follow = () => {
    if (telling) return;
    telling = true;
    page.replay(model.get("edits"));
    telling = false;
  };
  if (model.get("edits").length) follow();
  model.on("change:edits", follow);
  return () => { model.off("change:edits", follow); page.destroy(); };
}

export default { render };
