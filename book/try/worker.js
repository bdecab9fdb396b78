/* Everything that takes long, beside the page, so that the page never waits: reading, segmenting, measuring.
   A message {id, do, ...} is answered by {id, answer} or {id, error}; meanwhile come {id, share, words}. */

import { inverted, segment } from "./choice.js";
import C from "./constants.js";
import { grainsCsv, grainTable, length, lengthUnit, medianDiameter, summarise, summaryRows } from "./measure.js";
import { candidate } from "./network.js";
import { readImage } from "./read.js";
import { boundaries } from "./watershed.js";

const [first, lines] = C.candidates.map(candidate), candidates = [first, lines, inverted(lines)]; // as `AutoSegmenter`

/* The numbers of a label image, the diameters of its whole grains, and the table as a file. */
function measure({ labels, pixelSize, source, valid }) {
  if (!labels.data.some((label) => label > 0)) throw new Error("no grain is left; undo an edit");
  const rows = grainTable(labels, pixelSize, valid), whole = rows.filter((row) => !row.touches_edge);
  const column = pixelSize ? "diameter_um" : "diameter_px", middle = summarise(rows, [column])[column];
  const [unit, factor] = pixelSize ? lengthUnit(medianDiameter(rows)) : ["px", 1];
  return {
    doubt: pixelSize ? doubt(medianDiameter(rows), pixelSize) : null,
    rows: summaryRows({ labels, valid, rows, pixelSize, pixelSizeSource: source }),
    unit: { name: unit, factor },
    bars: {
      diameters: whole.map((row) => factor * row[column]), weights: whole.map((row) => row.edge_weight),
      mean: factor * middle.mean, unit,
    },
    csv: grainsCsv(rows),
  };
}

/* A sentence about a pixel size that makes grains larger or smaller than grains are, as `MeasuredImage.doubt`. */
function doubt(diameter, pixelSize) {
  const { LARGEST_GRAIN, SMALLEST_GRAIN } = C.image_results;
  if (diameter <= LARGEST_GRAIN && diameter >= SMALLEST_GRAIN) return null;
  const what = diameter > LARGEST_GRAIN ? "over 1 mm" : "under 1 nm";
  return `With the pixel size of ${length(pixelSize, 4)} the grains are ${what}: is it right? Next: give another pixel size.`;
}

const barNotes = ({ dataBar: { top, bottom } }) => [["lowest", bottom], ["uppermost", top]].filter(([, rows]) => rows)
  .map(([which, rows]) => `The ${which} ${rows} rows are a data bar and were cut off first.`);

/* What the library says, without the options of its command line. */
const inWords = (text) => text.replace(C.choice.ADVICE, C.page.ADVICE).replace(/; --method [\w-]+ keeps it/, "");

const JOBS = {
  /* The whole picture, for the page, and what is known of it; the data bar, which is found, is still in it. */
  async open({ file, name }) {
    const bytes = await file.arrayBuffer(), read = await readImage(bytes, name), { top, bottom } = read.dataBar;
    if (!top && !bottom) return read;
    return { ...read, image: (await readImage(bytes, name, { dataBar: 0 })).image, notes: [...read.notes, ...barNotes(read)] };
  },

  async segment({ file, name, options, zoom, pixelSize, source }, progress) {
    progress(0, "reading the file and loading the network");
    const read = await readImage(await file.arrayBuffer(), name, options);
    const { probability, ...result } = await segment(read.image, candidates, { zoom, known: read.valid, progress });
    if (!result.labels.data.some((label) => label > 0)) {
      throw new Error(`${name}: no grain was found, every pixel is boundary; check the image or the magnification`);
    }
    const { labels, valid } = result, notes = [...read.notes.map((note) => `${name}: ${note}`), ...barNotes(read), ...result.notes];
    if (valid) {
      const share = valid.data.reduce((sum, shown) => sum + 1 - shown, 0) / valid.data.length;
      notes.push(`${(100 * share).toFixed(1)} % of the image is not the specimen (a legend, a mount, an empty corner) and was left out; a grain that it cuts counts as cut.`);
    }
    return {
      ...result, image: read.image, notes: notes.map(inWords), warnings: result.warnings.map(inWords),
      measured: measure({ labels, pixelSize, source, valid }),
    };
  },

  measure: ({ labels, pixelSize, source, valid }) => ({
    ...measure({ labels, pixelSize, source, valid }), boundary: boundaries(labels, valid),
  }),
};

addEventListener("message", async ({ data: { id, do: job, ...of } }) => {
  try {
    const answer = await JOBS[job](of, (share, words) => postMessage({ id, share, words }));
    const images = Object.values(answer).filter((one) => ArrayBuffer.isView(one?.data));
    postMessage({ id, answer }, images.map((one) => one.data.buffer)); // moved, not copied
  } catch (error) {
    postMessage({ id, error: error.message ?? String(error) });
  }
});
