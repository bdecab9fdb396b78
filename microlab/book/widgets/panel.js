/* The controls of the simulator in grain_growth.js, which stands before this text in one module.
   The published page calls `mount`; JupyterLab calls `render` through anywidget. */

const MOST_GRAINS = 120;
const KAPPA = [0.5, 2]; // DT is stable up to 1 / (4 kappa + 1), so up to kappa = 2.25

/* Colour of a grain: hues by the golden angle, three lightnesses, so that neighbours seldom look alike. */
function colour(g) {
  const hue = (g * 137.508) % 360, light = [0.62, 0.74, 0.5][g % 3], strength = 0.5 * Math.min(light, 1 - light);
  return [0, 8, 4].map((k) => {
    const t = (k + hue / 30) % 12;
    return 255 * (light - strength * Math.max(-1, Math.min(t - 3, 9 - t, 1)));
  });
}

const GREY = [128, 128, 128];

const STYLE = `
.ml-growth { max-width: 416px; margin: 1em 0; }
.ml-growth .ml-stage { display: block; touch-action: none; cursor: crosshair; }
.ml-growth .ml-stage:focus-visible { outline: 3px solid currentColor; outline-offset: -3px; }
.ml-growth canvas { display: block; width: 100%; image-rendering: pixelated; border: 1px solid currentColor; box-sizing: border-box; }
.ml-growth .ml-row { display: flex; flex-wrap: wrap; gap: 0.4em; align-items: center; margin: 0.5em 0; }
.ml-growth .ml-row label { flex: 0 0 11em; }
.ml-growth .ml-row input[type=range] { flex: 1 1 9em; min-width: 0; }
.ml-growth button { font: inherit; color: inherit; background: transparent; border: 1px solid currentColor; border-radius: 4px; padding: 0.2em 0.9em; min-height: 2em; }
.ml-growth input[type=number] { font: inherit; color: inherit; background: transparent; border: 1px solid currentColor; width: 4.5em; min-height: 2em; }
.ml-growth .ml-values { font-variant-numeric: tabular-nums; margin: 0.5em 0; }
.ml-growth .ml-hidden { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%); }
.ml-growth.ml-live .ml-still { display: none; }
@media print { .ml-growth .ml-panel { display: none; } .ml-growth.ml-live .ml-still { display: block; } }`;

const PANEL = `
<div class="ml-stage" tabindex="0" role="application" aria-label="Place seeds: the arrow keys move the cross, with Shift by one pixel; Enter places a seed"><canvas role="img"></canvas></div>
<p class="ml-values">time <output data-value="time"></output>, grains <output data-value="grains"></output>, mean diameter <output data-value="diameter"></output> px</p>
<div class="ml-row"><button type="button" data-do="play" aria-pressed="false">Play</button><button type="button" data-do="step">Step</button><button type="button" data-do="reset">Reset</button><button type="button" data-do="clear">Clear seeds</button></div>
<div class="ml-row"><label data-for="kappa">kappa: <output data-value="kappa"></output></label><input type="range" data-set="kappa" min="${KAPPA[0]}" max="${KAPPA[1]}" step="0.1"></div>
<div class="ml-row"><label data-for="speed">steps per picture: <output data-value="speed"></output></label><input type="range" data-set="speed" min="1" max="40" step="1"></div>
<div class="ml-row"><label data-for="count">number of seeds</label><input type="number" data-set="count" min="1" max="${MOST_GRAINS}" step="1" value="40"><button type="button" data-do="random">Random seeds</button></div>
<p class="ml-hidden" aria-live="polite"></p>`;

let mounted = 0;

/* Put the simulator into `el`. `options`: size, seeds, kappa, speed, running, and onChange(values), which is called
   with {seeds, kappa, speed, running, time, grains, diameter} whenever they have changed.
   Returns {set(some of these), destroy()}. */
export function mount(el, options = {}) {
  const state = { size: 128, seeds: [], kappa: 1, speed: 10, running: false, ...options };
  const { size } = state, name = `ml-growth-${(mounted += 1)}`;
  const panel = document.createElement("div");
  panel.className = "ml-panel";
  panel.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys
  panel.innerHTML = `<style>${STYLE}</style>${PANEL}`;
  el.classList.add("ml-growth", "ml-live");
  el.prepend(panel);
  const find = (selector) => panel.querySelector(selector);
  const canvas = find("canvas"), stage = find(".ml-stage"), context = canvas.getContext("2d");
  canvas.width = canvas.height = size;
  for (const label of panel.querySelectorAll("label")) {
    const input = find(`[data-set=${label.dataset.for}]`);
    input.id = label.htmlFor = `${name}-${label.dataset.for}`;
  }
  if (state.seeds.length) find("[data-set=count]").value = state.seeds.length;
  const picture = context.createImageData(size, size);
  const colours = Array.from({ length: MOST_GRAINS }, (_, g) => colour(g));
  const cursor = { y: size / 2, x: size / 2 };
  let growth, measured, frame = null, told = 0, attempt = 0;

  const write = (key, text) => { find(`[data-value=${key}]`).textContent = text; };
  const words = () => `${measured.grains} grains at time ${growth.time.toFixed(0)}, mean diameter ${measured.diameter.toFixed(1)} pixels`;
  const tell = () => { told = performance.now(); find("[aria-live]").textContent = words(); };

  function draw() {
    measured = growth.measure();
    for (let i = 0; i < size * size; i++) {
      const grain = measured.map[i], rgb = grain < 0 ? GREY : colours[grain];
      // phi is 0.64 across a boundary at rest: black from 0.55, the full colour from 0.95
      const shade = grain < 0 ? 1 : Math.max(0, (growth.phi[i] - 0.55) / 0.4);
      for (let c = 0; c < 3; c++) picture.data[4 * i + c] = rgb[c] * Math.min(1, shade);
      picture.data[4 * i + 3] = 255;
    }
    context.putImageData(picture, 0, 0);
    const box = (y, x, r, fill) => { context.fillStyle = fill; context.fillRect(x - r, y - r, 2 * r + 1, 2 * r + 1); };
    if (growth.steps === 0) state.seeds.forEach(([y, x]) => { box(Math.round(y), Math.round(x), 2, "black"); box(Math.round(y), Math.round(x), 1, "white"); });
    if (document.activeElement === stage) {
      for (const [r, fill] of [[3, "black"], [2, "white"]]) { box(cursor.y, cursor.x, r, fill); }
      box(cursor.y, cursor.x, 1, "black");
    }
    write("time", growth.time.toFixed(0));
    write("grains", measured.grains);
    write("diameter", measured.diameter.toFixed(1));
    write("kappa", state.kappa.toFixed(1));
    write("speed", state.speed);
    canvas.setAttribute("aria-label", `Coloured grains with dark boundaries: ${words()}`);
  }

  function report() {
    const { seeds, kappa, speed, running } = state, { grains, diameter } = measured;
    options.onChange?.({ seeds, kappa, speed, running, time: growth.time, grains, diameter });
  }

  /* Start again from the seeds. */
  function restart() {
    state.seeds = state.seeds.slice(0, MOST_GRAINS);
    growth = new GrainGrowth(size, state.seeds, state.kappa);
    draw();
    report();
  }

  function place(y, x) {
    pause();
    const wrap = (v) => ((v % size) + size) % size;
    const near = ([sy, sx]) => Math.hypot(sy - y, sx - x) < 4; // a dragged pointer leaves seeds apart from one another
    if (state.seeds.length >= MOST_GRAINS || state.seeds.some(near)) return;
    state.seeds = [...state.seeds, [wrap(y), wrap(x)]];
    restart();
  }

  function play() {
    if (frame !== null || !growth.n) return;
    state.running = true;
    const next = () => {
      if (!el.isConnected) return pause();
      const begin = performance.now();
      // A slow machine takes fewer steps per picture, so that the page answers.
      for (let k = 0; k < state.speed && performance.now() - begin < 40; k++) growth.step();
      draw();
      frame = requestAnimationFrame(next);
      if (measured.grains < 2) pause();
      if (!state.running || performance.now() - told > 8000) tell();
      report();
    };
    frame = requestAnimationFrame(next);
    buttons();
  }

  function pause() {
    cancelAnimationFrame(frame);
    frame = null;
    state.running = false;
    buttons();
  }

  function buttons() {
    find("[data-do=play]").textContent = state.running ? "Pause" : "Play";
    find("[data-do=play]").setAttribute("aria-pressed", String(state.running));
  }

  const actions = {
    play: () => (state.running ? pause() : play()),
    step: () => { pause(); for (let k = 0; k < state.speed; k++) growth.step(); draw(); },
    reset: () => { pause(); restart(); },
    clear: () => { pause(); state.seeds = []; restart(); },
    random: () => {
      pause();
      const input = find("[data-set=count]"), next = random((attempt += 1));
      input.value = Math.max(1, Math.min(MOST_GRAINS, Math.round(input.valueAsNumber) || 1));
      state.seeds = Array.from({ length: Number(input.value) }, () => [next() * size, next() * size]);
      restart();
    },
  };
  for (const button of panel.querySelectorAll("[data-do]")) {
    button.addEventListener("click", () => { actions[button.dataset.do](); report(); tell(); });
  }

  /* Change some of seeds, kappa, speed, running from outside or by a slider. */
  function set(changes) {
    Object.assign(state, { ...changes, running: state.running });
    state.kappa = Math.max(KAPPA[0], Math.min(KAPPA[1], state.kappa));
    growth.kappa = state.kappa;
    for (const key of ["kappa", "speed"]) find(`[data-set=${key}]`).value = state[key];
    if (changes.seeds) { pause(); restart(); }
    if (changes.running === true) play();
    if (changes.running === false) pause();
    draw();
    report();
  }
  for (const key of ["kappa", "speed"]) {
    find(`[data-set=${key}]`).addEventListener("input", (event) => set({ [key]: event.target.valueAsNumber }));
    // JupyterLab would take the arrow keys and go to another cell.
    find(`[data-set=${key}]`).addEventListener("keydown", (event) => event.stopPropagation());
  }

  const pixel = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * size - 0.5, ((event.clientX - box.left) / box.width) * size - 0.5];
  };
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); place(...pixel(event)); });
  stage.addEventListener("pointermove", (event) => { if (event.buttons & 1) place(...pixel(event)); });
  stage.addEventListener("pointerup", tell);
  for (const kind of ["focus", "blur"]) stage.addEventListener(kind, draw);
  stage.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const far = event.shiftKey ? 1 : 4;
    if (moves[event.key]) {
      cursor.y = (cursor.y + far * moves[event.key][0] + size) % size;
      cursor.x = (cursor.x + far * moves[event.key][1] + size) % size;
      draw();
    } else if (event.key === "Enter") {
      place(cursor.y, cursor.x);
      tell();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  growth = new GrainGrowth(size, state.seeds, state.kappa);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  set({ kappa: state.kappa, speed: state.speed, running: state.running && !calm });
  return { set, destroy: () => { pause(); panel.remove(); } };
}

/* anywidget: the same simulator, its values kept in step with Python. */
function render({ model, el }) {
  const settings = ["seeds", "kappa", "speed", "running"];
  const inner = document.createElement("div");
  el.append(inner);
  let telling = false; // our own report must not come back as a change
  let last = 0;
  const options = Object.fromEntries([...settings, "size"].map((key) => [key, model.get(key)]));
  const onChange = (values) => {
    if (telling) return;
    if (values.running && performance.now() - last < 200) return; // five times a second is enough for Python
    last = performance.now();
    telling = true;
    for (const [key, value] of Object.entries(values)) model.set(key, value);
    model.save_changes();
    telling = false;
  };
  const simulator = mount(inner, { ...options, onChange });
  const listeners = settings.map((key) => [`change:${key}`, () => { if (!telling) simulator.set({ [key]: model.get(key) }); }]);
  for (const [name, listener] of listeners) model.on(name, listener);
  return () => {
    for (const [name, listener] of listeners) model.off(name, listener);
    simulator.destroy();
  };
}

export default { render };
