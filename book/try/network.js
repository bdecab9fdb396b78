/* The trained networks in the page: an image goes in, the probability of a boundary comes out. Tiles, normalisation and
   magnification are those of `microlab.segment.unet`; the arithmetic is onnxruntime-web's, on the graphics card where
   the browser offers it (WebGPU), else in WebAssembly on one thread. Images are {data, height, width}, row by row. */

import C from "./constants.js";
import { beyond, resizeBy, resizeTo, standardise } from "./arrays.js";
import { fieldOfView, matchingZoom, mostConfident, zoomTrials } from "./choice.js";
import { closedBoundary, watershedGrains } from "./watershed.js";

const FAILED = "the network could not be loaded; check the connection, and press Segment again";

/* onnxruntime for this browser, loaded once: {ort, provider}. */
let runtime = null;

async function load(provider) {
  if (!globalThis.WebAssembly) throw new Error("this browser has no WebAssembly; take a current Firefox, Chrome, Edge or Safari");
  const kind = provider === "webgpu" ? ".asyncify" : "";
  const ort = await import(provider === "webgpu" ? "./ort.webgpu.min.mjs" : "./ort.wasm.min.mjs").catch(() => { throw new Error(FAILED); });
  const place = (name) => new URL(`ort-wasm-simd-threaded${kind}.${name}`, import.meta.url).href;
  ort.env.wasm.wasmPaths = { mjs: place("mjs"), wasm: place("wasm") };
  // More threads need headers that static hosts do not send.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  ort.env.logLevel = "fatal"; // a failure is an error here, not a line in the console
  return { ort, provider };
}

/* Whether a graphics card can compute; adapters in software are slower than WebAssembly. */
async function hasGraphicsCard() {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

/* A session on a network's file. What fails on the graphics card is done in WebAssembly, from then on. */
async function sessionOf(bytes, cell) {
  runtime ??= hasGraphicsCard().then((has) => load(has ? "webgpu" : "wasm"));
  const { ort, provider } = await runtime.catch((error) => { runtime = null; throw error; });
  try {
    const session = await ort.InferenceSession.create(bytes, { executionProviders: [provider], graphOptimizationLevel: "all" });
    if (provider === "webgpu") await session.run({ image: new ort.Tensor("float32", new Float32Array(4 * cell * cell), [1, 1, 2 * cell, 2 * cell]) });
    return { session, ort, provider };
  } catch (error) {
    runtime = provider === "webgpu" ? load("wasm") : null;
    if (runtime) return sessionOf(bytes, cell);
    throw /fetch|load|network/i.test(error.message) ? new Error(FAILED) : error;
  }
}

export class Network {
  /* `about`: {name, file, outputs, cell}, from C.networks. */
  constructor(session, ort, about) {
    Object.assign(this, { session, ort, about });
  }

  /* Load a network by its name in the constants. A file that is not the one that was built is refused. */
  static async load(name) {
    const about = C.networks[name];
    const answer = await fetch(new URL(about.file, import.meta.url)).catch(() => { throw new Error(FAILED); });
    if (!answer.ok) throw new Error(`${about.file} could not be loaded (${answer.status}); load the page again`);
    const bytes = await answer.arrayBuffer();
    if (globalThis.crypto?.subtle) {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
      const text = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      if (text !== about.sha256) throw new Error(`${about.file} is damaged; load the page again`);
    }
    const { session, ort, provider } = await sessionOf(bytes, about.cell);
    return new Network(session, ort, { name, provider, ...about });
  }

  /* Logits of a standardised tile as K arrays; its sides are padded by reflection, as `pad_reflect` does. */
  async logits({ data, height, width }) {
    const { cell, outputs } = this.about;
    const padded = (n) => Math.ceil(Math.max(n, 2 * cell) / cell) * cell;
    const H = padded(height), W = padded(width), x = new Float32Array(H * W);
    for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) x[i * W + j] = data[beyond(i, height, "mirror") * width + beyond(j, width, "mirror")];
    const feeds = { image: new this.ort.Tensor("float32", x, [1, 1, H, W]) };
    const { logits } = await this.session.run(feeds), y = await logits.getData();
    return Array.from({ length: outputs.length }, (_, k) => {
      const part = new Float32Array(height * width);
      for (let i = 0; i < height; i++) part.set(y.subarray((k * H + i) * W, (k * H + i) * W + width), i * width);
      return part;
    });
  }

  /* Probabilities of an image at a magnification, of its own size: of a boundary, and, by a network that tells it, of
     what is not the specimen. */
  async outputsAt(image, zoom, progress = () => {}) {
    const most = C.page.MOST_MEGAPIXELS * 2 ** 20; // px that the page holds in memory
    if (zoom > 1 && zoom * zoom * image.data.length > most) {
      throw new Error(`magnified ${Number(zoom.toFixed(2))} times, the image has ${Math.round((zoom * zoom * image.data.length) / 1e6)} million pixels, more than a page can hold; crop it, or give a smaller magnification`);
    }
    const x = standardise(resizeBy(image, zoom)), { height, width } = x, several = this.about.outputs.length > 1;
    const maps = Array.from({ length: several ? 2 : 1 }, () => new Float32Array(height * width));
    const [rows, columns] = [height, width].map((size) => blend(size, C.predict.tile, C.predict.overlap, this.about.cell));
    let done = 0;
    for (const [top, high] of rows) {
      for (const [left, wide] of columns) {
        const tile = { data: new Float32Array(high.length * wide.length), height: high.length, width: wide.length };
        for (let i = 0; i < tile.height; i++) {
          const from = (top + i) * width + left;
          tile.data.set(x.data.subarray(from, from + tile.width), i * tile.width);
        }
        const logits = await this.logits(tile);
        // A grain boundary is a boundary; the side of a twin is not (the library's default, twins=False).
        [logits[0], logits.at(-1)].slice(0, maps.length).forEach((values, k) => {
          for (let i = 0; i < tile.height; i++) {
            for (let j = 0; j < tile.width; j++) {
              maps[k][(top + i) * width + left + j] += (high[i] * wide[j]) / (1 + Math.exp(-values[i * tile.width + j]));
            }
          }
        });
        progress((done += 1) / (rows.length * columns.length));
      }
    }
    return maps.map((data) => {
      for (let i = 0; i < data.length; i++) if (data[i] > 1) data[i] = 1;
      return resizeTo({ data, height, width }, image.height, image.width);
    });
  }
}

/* A network as a candidate of choice.js, loaded when it is first asked: `UNetSegmenter`. */
export function candidate(name) {
  const about = C.networks[name], several = about.outputs.length > 1;
  let network = null;
  const outputsAt = async (...of) => {
    network ??= Network.load(name).catch((error) => { network = null; throw error; });
    return (await network).outputsAt(...of);
  };
  const labelsOf = (probability, valid) => watershedGrains(probability, { valid, ...about.watershed });
  const one = {
    name,
    calibrated: true,

    /* A network of several outputs sees the image at the zoom and at half of it. */
    async maps(image, zoom, progress = () => {}) {
      const halved = several && (Math.min(image.height, image.width) * zoom) / 2 >= C.unet.LEAST_HALVED;
      const maps = await outputsAt(image, zoom, (share) => progress(halved ? 0.8 * share : share));
      if (halved) {
        const half = await outputsAt(image, zoom / 2, (share) => progress(0.8 + 0.2 * share));
        maps.forEach(({ data }, k) => { for (let i = 0; i < data.length; i++) data[i] = (data[i] + half[k].data[i]) / 2; });
      }
      return { probability: maps[0], valid: several ? fieldOfView(maps[1], zoom) : null };
    },

    grains(probability, zoom, valid) {
      const labels = labelsOf(probability, valid);
      return { labels, boundary: closedBoundary(probability, labels, { valid }) };
    },

    async estimateZoom(image, progress = () => {}) {
      if (!several) {
        const labels = async (part) => labelsOf((await one.maps(part, 1)).probability, null);
        return matchingZoom(image, labels, about.grain_size_px, { progress });
      }
      const trials = await zoomTrials(image, async (part) => {
        const [probability, outside] = await outputsAt(part, 1), valid = fieldOfView(outside);
        return { probability, labels: labelsOf(probability, valid), valid };
      }, { progress });
      return mostConfident(trials).zoom;
    },
  };
  return one;
}

/* Tiles along one side, [start, weights]; in every pixel the weights of all tiles sum to one. */
function blend(size, tile, overlap, cell) {
  // As many tiles as the library takes, but no larger than needed: on 1024 px three of 384, not of 512.
  const count = 1 + Math.max(0, Math.ceil((size - tile) / (tile - overlap)));
  const n = Math.min(size, cell * Math.ceil((size + (count - 1) * overlap) / count / cell));
  const starts = Array.from({ length: count }, (_, k) => (count > 1 ? Math.round((k * (size - n)) / (count - 1)) : 0));
  const total = new Float32Array(size), step = Math.max(overlap, 1);
  const window = Float32Array.from({ length: n }, (_, i) => Math.min(1, (i + 0.5) / step, (n - i - 0.5) / step));
  for (const start of starts) for (let i = 0; i < n; i++) total[start + i] += window[i];
  return starts.map((start) => [start, window.map((weight, i) => weight / total[start + i])]);
}
