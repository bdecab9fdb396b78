/* Everything that takes long, beside the page, so that the page never waits: reading, segmenting, measuring.
   A message {id, do, ...} is answered by {id, answer} or {id, error}; meanwhile come {id, share, words}. */

import C from "./constants.js";
import { readImage } from "./read.js";
import { Network } from "./network.js";
import { networkCandidate, inverted, segment, checkImage } from "./choice.js";
import { grainTable, summaryRows, histogram, grainsCsv } from "./measure.js";

const networks = new Map(); // by name, loaded when first needed

/* A candidate whose network is loaded when it is asked for something: the second one mostly never is. */
function lazily(name) {
  const outputsAt = async (...of) => {
    if (!networks.has(name)) networks.set(name, await Network.load(name));
    return networks.get(name).outputsAt(...of);
  };
  return networkCandidate(C.networks[name], outputsAt);
}

const JOBS = {
  open: ({ bytes, name, options }) => readImage(bytes, name, options),

  async segment({ image, valid, zoom }, progress) {
    checkImage(image);
    const [first, lines] = C.candidates.map(lazily);
    return segment(image, [first, lines, inverted(lines)], { zoom, known: valid, progress });
  },

  measure({ labels, height, width, pixelSize, valid }) {
    const grains = { data: labels, height, width }, table = grainTable(grains, pixelSize, valid);
    return { rows: summaryRows(table, grains, pixelSize, valid), bars: histogram(table, pixelSize), csv: grainsCsv(table, pixelSize) };
  },
};

addEventListener("message", async ({ data: { id, do: job, ...of } }) => {
  try {
    const answer = await JOBS[job](of, (share, words) => postMessage({ id, share, words }));
    postMessage({ id, answer });
  } catch (error) {
    postMessage({ id, error: error.message ?? String(error) });
  }
});
