/* Which magnification and which network an image is given to, and what to be careful with: microlab/segment/choice.py,
   evidence.py, zoom.py and the field of view of unet.py. Images are those of arrays.js.

     const { labels, boundary, notes, warnings } = await segment(image, candidates, { progress });

   A candidate is a network with its rules, the default one first:

     name          as the library has it: "appearances", "label-free"
     calibrated    whether its probability says how sure it is
     async maps(image, zoom, progress)     {probability, valid}, of the image's size; valid is a mask or null
     grains(probability, zoom, valid)      {boundary, labels}
     async estimateZoom(image, progress)   magnification before the network

   A function here has the name of its counterpart in Python. */

import {
  counts, distances, fillHoles, gaussianFilter, gaussianGradientMagnitude, image, label, meanWhere, middle,
  openingWithDisk, quantile, reduced, reduction, resizeBy, resizeTo, roundHalfEven, view, viewBack,
} from "./arrays.js";
import C from "./constants.js";
import { fixed } from "./text.js";
import { boundaries } from "./watershed.js";

const TOO_LARGE = ["disagreement", "largest"]; // signs that are bad where they are above their limit

/* Segment an image, (H, W) Float32Array, as `AutoSegmenter.segment`. `known`, a mask or null, is the field of view as
   far as it is known. `progress(share, words)` is called on the way, with a share that rises from 0 to 1. */
export async function segment(grey, candidates, { zoom = null, known = null, progress = () => {} } = {}) {
  checkedImage(grey);
  if (zoom !== null && !(zoom > 0 && zoom < Infinity)) throw new Error(`zoom must be a positive number, got ${zoom}`);
  const chosen = await choose(grey, candidates, { zoom, known, progress: (share, words) => progress(0.6 * share, words) });
  const { candidate, zoom: magnification } = chosen.trial;
  progress(0.6, "segmenting the whole image");
  const { probability, valid: found } = await candidate.maps(grey, magnification, (share) => {
    progress(0.6 + 0.3 * share, "segmenting the whole image");
  });
  progress(0.9, "tracing the grains");
  const valid = jointField(known, found);
  const { boundary, labels } = candidate.grains(probability, magnification, valid);
  progress(0.97, "checking the result");
  const result = withChoice({ labels, boundary, probability, zoom: magnification, valid, notes: [] }, chosen, grey);
  progress(1, "done");
  return result;
}

/* `checked_image`: an Error that says why nothing can be segmented. */
export function checkedImage({ data, height, width }) {
  if (Math.min(height, width) < C.segmenter.LEAST_SIDE) {
    throw new Error(`image has ${width} x ${height} pixels, both sides need at least ${C.segmenter.LEAST_SIDE}; `
      + "give a larger field");
  }
  let low = Infinity, high = -Infinity, finite = true;
  for (let i = 0; i < data.length; i++) {
    if (data[i] < low) low = data[i];
    if (data[i] > high) high = data[i];
    finite &&= Number.isFinite(data[i]);
  }
  if (!finite) throw new Error("image holds NaN or infinite values; replace them first");
  if (low === high) {
    throw new Error("image has the same grey everywhere, there is nothing to segment; check the export");
  }
}

/* `Inverted`: a candidate that sees the negative of every image. */
export function inverted(candidate) {
  const negative = ({ data, height, width }) => image(data.map((grey) => 1 - grey), height, width);
  return {
    ...candidate,
    name: `${candidate.name}, inverted`,
    maps: (grey, ...given) => candidate.maps(negative(grey), ...given),
    grains: (...given) => candidate.grains(...given),
    estimateZoom: (grey, ...given) => candidate.estimateZoom(negative(grey), ...given),
  };
}

/* ---- The choice (choice.py) ---- */

/* Try the first candidate, and the others only where an alarm rings. A trial is {candidate, zoom, evidence}; the result
   {trial, tried} has the best of them and all of them. */
export async function choose(grey, candidates, { zoom = null, known = null, progress = () => {} } = {}) {
  const tried = [];
  for (const [k, candidate] of candidates.entries()) {
    const about = k ? `trying ${candidate.name}: ` : "";
    const step = (share, words) => progress(k ? 0.6 + (0.4 * (k - 1 + share)) / (candidates.length - 1) : 0.6 * share, about + words);
    step(0, "finding the magnification");
    const chosen = zoom ?? await candidate.estimateZoom(grey, (share, words) => step(0.5 * share, words));
    const evidence = await gather(grey, candidate, chosen, {
      valid: known, progress: (share, words) => step(0.5 + 0.5 * share, words),
    });
    tried.push({ candidate, zoom: chosen, evidence });
    if (!rings(tried[0])) break;
  }
  const quiet = tried.filter((trial) => !rings(trial));
  const among = quiet.length ? quiet : tried;
  const trial = among.reduce((best, one) => (quality(one.evidence) > quality(best.evidence) ? one : best));
  return { trial, tried };
}

function rings(trial) { return Object.keys(alarms(trial.evidence)).length > 0; }

/* The signs that something is wrong: name of the sign, and a sentence with its value. */
export function alarms(evidence) {
  const sentences = {};
  for (const [name, [limit, text]] of Object.entries(C.choice.LIMITS)) {
    const value = evidence[name]; // NaN where a method cannot tell, and then nothing rings
    if (TOO_LARGE.includes(name) ? value > limit : value < limit) {
      sentences[name] = `${text} (${name} ${fixed(value, 2)}, limit ${limit})`;
    }
  }
  return sentences;
}

/* Plain values for a file, null where a method cannot tell. */
export function signs(evidence) {
  return Object.fromEntries(Object.entries(evidence).map(
    ([name, value]) => [name, Number.isNaN(value) ? null : Number(fixed(value, 3))],
  ));
}

/* How good a segmentation looks, for comparing several of one image; larger is better. */
export function quality({ confidence, disagreement, largest }) { return confidence - disagreement - largest; }

/* At most one sentence for the user: which alarms ring and what to do next. */
export function warn(evidence) {
  const sentences = Object.values(alarms(evidence));
  return sentences.length ? [`This segmentation may be wrong: ${sentences.join("; ")}. Next: ${C.choice.ADVICE}.`] : [];
}

/* A segmentation that says how it was chosen and what may be wrong with it. */
export function withChoice(result, { trial, tried }, grey) {
  const [first] = tried, evidence = lookAtAll(grey, result, trial.evidence, trial.candidate.calibrated);
  const notes = trial === first ? [] : [
    `Method ${trial.candidate.name} was taken instead of ${first.candidate.name}, on which alarms rang `
    + `(${Object.keys(alarms(first.evidence)).join(", ")}); --method ${first.candidate.name} keeps it.`,
  ];
  const record = {
    method: trial.candidate.name,
    tried: tried.map((one) => ({ method: one.candidate.name, zoom: one.zoom, ...signs(one.evidence) })),
    evidence: signs(evidence),
  };
  return { ...result, notes: [...notes, ...result.notes], warnings: warn(evidence), record };
}

/* ---- Evidence (evidence.py) ---- */

/* Evidence about a candidate on the middle of an image: views of it are compared. */
export async function gather(grey, candidate, zoom = 1, {
  views = C.gather.views, window = C.gather.window, valid = null, progress = () => {},
} = {}) {
  const part = resizeBy(middle(grey, window / zoom), zoom), { height, width } = part;
  const known = valid && resizeTo(middle(valid, window / zoom), height, width);
  const probabilities = [];
  let shown = null;
  for (let k = 0; k < views; k++) {
    progress(k / (views + 1), `comparing view ${k + 1} of ${views}`);
    const maps = await candidate.maps(view(part, k), 1);
    probabilities.push(viewBack(maps.probability, k));
    if (k === 0) shown = jointField(known, maps.valid);
  }
  progress(views / (views + 1), "comparing the views' grains");
  const mean = image(new Float32Array(height * width), height, width);
  for (const { data } of probabilities) for (let i = 0; i < data.length; i++) mean.data[i] += data[i];
  for (let i = 0; i < mean.data.length; i++) mean.data[i] /= views;
  const { labels } = candidate.grains(mean, 1, shown);
  let disagreement = 0;
  if (counts(labels.data).length <= 2) disagreement = 1;
  else if (views > 1) {
    const errors = probabilities.map((one) => adaptedRandError(labels, candidate.grains(one, 1, shown).labels));
    disagreement = errors.reduce((a, b) => a + b) / views;
  }
  return look(part, mean, labels, shown, { calibrated: candidate.calibrated, disagreement });
}

/* Evidence about one segmentation, at the magnification that the candidate saw. */
export function look(grey, probability, labels, valid = null, { calibrated = true, disagreement = 0 } = {}) {
  const areas = counts(labels.data).subarray(1), lines = boundaries(labels, valid);
  const smooth = gaussianFilter(grey, C.evidence.EDGE_SCALE);
  const gradient = gaussianGradientMagnitude(grey, C.evidence.EDGE_SCALE).data;
  const limit = quantile(valid ? gradient.filter((_, i) => valid.data[i]) : gradient, C.evidence.STRONG);
  const strong = image(
    Uint8Array.from(gradient, (g, i) => (g >= limit && (!valid || valid.data[i]) ? 1 : 0)), grey.height, grey.width,
  );
  return {
    disagreement,
    confidence: calibrated ? confidenceOn(lines, probability) : NaN,
    largest: largestShare(areas),
    coverage: shareNear(strong, lines),
    support: shareNear(lines, strong),
    explained: varianceBetween(smooth, labels),
    grains: areas.length,
  };
}

/* Evidence about the segmentation of a whole image, of which `gather` saw the middle. */
export function lookAtAll(grey, result, seen, calibrated = true) {
  if (Math.max(grey.height, grey.width) * result.zoom <= C.evidence.WINDOW) return seen;
  const zoomed = resizeBy(grey, result.zoom), { height, width } = zoomed;
  return look(
    zoomed, resizeTo(result.probability, height, width), resizeTo(result.labels, height, width),
    result.valid && resizeTo(result.valid, height, width), { calibrated, disagreement: seen.disagreement },
  );
}

/* Mean probability on the lines between grains; 0 without any. */
function confidenceOn(lines, probability) { return meanWhere(probability.data, lines.data) || 0; }

function largestShare(areas) {
  return areas.length ? areas.reduce((a, b) => Math.max(a, b)) / areas.reduce((a, b) => a + b) : 1;
}

/* Share of `pixels` within `NEAR` of one of `others`. */
function shareNear(pixels, others) {
  if (!pixels.data.includes(1) || !others.data.includes(1)) return 0;
  const away = distances(image(others.data.map((one) => 1 - one), others.height, others.width)).data;
  return meanWhere(away.map((d) => (d <= C.evidence.NEAR ? 1 : 0)), pixels.data);
}

/* Share of the variance of the grey that lies between the labels above 0. */
function varianceBetween(grey, labels) {
  const areas = counts(labels.data), sums = new Float64Array(areas.length);
  for (let i = 0; i < labels.data.length; i++) sums[labels.data[i]] += grey.data[i];
  let pixels = 0, sum = 0, total = 0, between = 0;
  for (let n = 1; n < areas.length; n++) { pixels += areas[n]; sum += sums[n]; }
  const mean = sum / pixels;
  for (let i = 0; i < labels.data.length; i++) if (labels.data[i]) total += (grey.data[i] - mean) ** 2;
  if (!(total > 0)) return 0;
  for (let n = 1; n < areas.length; n++) if (areas[n]) between += areas[n] * (sums[n] / areas[n] - mean) ** 2;
  return Math.min(between / total, 1);
}

/* `adapted_rand_error`: one minus the F1 of pixel pairs that belong together; true label 0 is ignored. */
export function adaptedRandError(truth, prediction) {
  const columns = counts(prediction.data).length, overlaps = new Map();
  const true_ = new Float64Array(counts(truth.data).length), predicted = new Float64Array(columns);
  for (let i = 0; i < truth.data.length; i++) {
    const t = truth.data[i], p = prediction.data[i];
    if (!t) continue;
    const pair = t * columns + p;
    overlaps.set(pair, (overlaps.get(pair) ?? 0) + 1);
    true_[t]++;
    predicted[p]++;
  }
  const pairs = (sizes) => sizes.reduce((sum, n) => sum + n * (n - 1), 0);
  return 1 - (2 * pairs([...overlaps.values()])) / (pairs(true_) + pairs(predicted));
}

/* `joint_field`: where two fields of view, masks or null for everywhere, both show the specimen. */
export function jointField(known, found) {
  if (!known || !found) return known ?? found;
  return image(found.data.map((shown, i) => shown & known.data[i]), found.height, found.width);
}

/* ---- The field of view (unet.py) ---- */

/* The field of view of an image of which a network says what is not the specimen; null where all of it is. */
export function fieldOfView(outside, zoom = 1) {
  const { FIELD_SIDE, LEAST_COVER, LARGEST_COVER, MOST_COVERS, COVERED } = C.unet;
  const factor = reduction(outside, FIELD_SIDE), means = reduced(outside, factor), { height, width } = means;
  const covered = image(Uint8Array.from(means.data, (p) => (p >= COVERED ? 1 : 0)), height, width);
  const parts = label(openingWithDisk(covered, Math.max(1, roundHalfEven(C.unet.COVER_REACH / (zoom * factor)))));
  const areas = counts(parts.data);
  const large = Uint8Array.from(areas, (area, n) => (n > 0 && area >= LEAST_COVER * means.data.length ? 1 : 0));
  const small = fillHoles(image(Uint8Array.from(parts.data, (n) => large[n]), height, width)).data;
  const pixels = small.reduce((a, b) => a + b, 0), pieces = large.reduce((a, b) => a + b, 0);
  if (!pixels || pieces > MOST_COVERS || pixels / small.length > LARGEST_COVER) return null;
  const valid = image(new Uint8Array(outside.data.length), outside.height, outside.width);
  for (let y = 0, i = 0; y < outside.height; y++) {
    const row = Math.min(Math.floor(y / factor), height - 1) * width;
    for (let x = 0; x < outside.width; x++, i++) {
      valid.data[i] = 1 - small[row + Math.min(Math.floor(x / factor), width - 1)];
    }
  }
  return valid;
}

/* ---- Magnification (zoom.py) ---- */

/* Segment the middle of an image at every magnification of a ladder. `segmentPart` is async, takes an image and returns
   {probability, labels, valid}. */
export async function zoomTrials(grey, segmentPart, {
  window = C.zoom_trials.window, ladder = C.zoom.CONFIDENCE_LADDER, progress = () => {},
} = {}) {
  const trials = [], zooms = stepsOf(ladder, grey, C.zoom.LEAST_TRIED);
  for (const [k, zoom] of zooms.entries()) {
    progress(k / zooms.length, `trying magnification ${fixed(zoom, 2)}`);
    const { probability, labels, valid } = await segmentPart(resizeBy(middle(grey, window / zoom), zoom));
    const areas = counts(labels.data).subarray(1), confidence = confidenceOn(boundaries(labels, valid), probability);
    trials.push({ zoom, confidence, largest: largestShare(areas), grains: areas.length });
  }
  return trials;
}

/* The trial of highest confidence among those that no grain dominates; of several as good, the one nearest to 1. */
export function mostConfident(trials) {
  const quiet = trials.filter((trial) => trial.largest <= C.zoom.LARGEST_SHARE), sound = quiet.length ? quiet : trials;
  const best = Math.max(...sound.map((trial) => trial.confidence));
  return sound.filter((trial) => trial.confidence >= (1 - C.zoom.AS_GOOD) * best)
    .reduce((a, b) => (Math.abs(Math.log(b.zoom)) < Math.abs(Math.log(a.zoom)) ? b : a));
}

/* The zoom at which an image's grains have a network's training size. `grains` is async, takes an image and returns its
   labels. */
export async function matchingZoom(grey, grains, designIntercept, {
  window = C.matching_zoom.window, ladder = C.zoom.LADDER, progress = () => {},
} = {}) {
  const zooms = stepsOf(ladder, grey, C.zoom.LEAST_MATCHED), excess = [];
  for (const [k, zoom] of zooms.entries()) {
    progress(k / zooms.length, `trying magnification ${fixed(zoom, 2)}`);
    const intercept = meanIntercept(await grains(resizeBy(middle(grey, window / zoom), zoom)));
    excess.push(Math.log(Math.min(intercept, C.zoom.LONGEST_INTERCEPT) / designIntercept));
  }
  return Math.exp(zeroCrossing(zooms.map(Math.log), excess));
}

/* Zooms at which an image has at least `least` pixels a side; the largest if there are none. */
function stepsOf(ladder, grey, least) {
  const zooms = ladder.filter((zoom) => Math.min(grey.height, grey.width) * zoom >= least);
  return zooms.length ? zooms : [Math.max(...ladder)];
}

/* Rising zero crossing of `excess` with the slope nearest 1, or the candidate nearest zero. */
function zeroCrossing(logZoom, excess) {
  let best = null;
  for (let i = 0; i + 1 < excess.length; i++) {
    if (!(excess[i] < 0 && excess[i + 1] >= 0)) continue;
    const slope = (excess[i + 1] - excess[i]) / (logZoom[i + 1] - logZoom[i]);
    if (!best || Math.abs(slope - 1) < Math.abs(best.slope - 1)) best = { slope, at: logZoom[i] - excess[i] / slope };
  }
  if (best) return best.at;
  return logZoom[excess.reduce((least, one, i) => (Math.abs(one) < Math.abs(excess[least]) ? i : least), 0)];
}

/* Mean linear intercept of a label image along its rows and columns, px; infinite without a crossing. */
export function meanIntercept({ data, height, width }) {
  let crossings = 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (x + 1 < width && data[i] !== data[i + 1]) crossings++;
      if (y + 1 < height && data[i] !== data[i + width]) crossings++;
    }
  }
  return crossings ? (2 * data.length) / crossings : Infinity;
}
