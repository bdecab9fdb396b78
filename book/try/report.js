/* One page that says what was segmented, how, and with which numbers: a file to keep or to print. */

import C from "./constants.js";
import { histogramSvg } from "./histogram.js";

const STYLE = `
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.2rem; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
img { max-width: 100%; max-height: 75vh; } table { border-collapse: collapse; } th { font-weight: 400; text-align: left; }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8888; } caption { text-align: left; font-weight: 600; }
.warning { color: #b00020; border-left: .3rem solid; padding-left: .8rem; } @media (prefers-color-scheme: dark) { .warning { color: #ff9c9c; } }
.columns { display: flex; flex-wrap: wrap; gap: 1rem 3rem; } .columns svg { width: 26rem; max-width: 100%; }
svg text { fill: currentColor; font-size: 13px; } svg path { stroke: currentColor; fill: none; }`;

const TEXT = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const safe = (text) => String(text).replace(/[&<>"]/g, (c) => TEXT[c]);

/* What may be wrong with a result: with its grains, and with the pixel size. */
export const warningsOf = ({ warnings, measured }) => (measured.doubt ? [...warnings, measured.doubt] : warnings);

/* `result` is that of the page; `canvas` shows the image with its boundaries. Returns a Blob. */
export function report(name, result, canvas) {
  const { notes, measured, record, zoom, edits, part } = result;
  const rows = measured.rows.map(([quantity, value]) => `<tr><th scope="row">${safe(quantity)}</th><td>${safe(value)}</td></tr>`);
  const how = [`method ${record.method}`, `magnification ${Number(zoom.toFixed(3))}`];
  if (part) how.push(`${part[2]} x ${part[3]} px of the image from column ${part[0]}, row ${part[1]}`);
  if (edits?.length) how.push(`${edits.length} edits by hand`);
  const html = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Grains of ${safe(name)}</title><style>${STYLE}</style></head><body><h1>Grains of ${safe(name)}</h1>
<p>${new Date().toISOString().slice(0, 10)}, segmented in the browser by microlab ${safe(C.version)}: ${safe(how.join(", "))}.</p>
${warningsOf(result).map((text) => `<p class="warning">${safe(text)}</p>`).join("")}
<p><img alt="${safe(name)} with the boundaries that were found" src="${canvas.toDataURL("image/png")}"></p>
<div class="columns"><table><caption>Numbers</caption>${rows.join("")}</table>${histogramSvg(measured.bars)}</div>
<h2>Notes</h2><ul>${notes.map((text) => `<li>${safe(text)}</li>`).join("")}
<li>Grains cut by the edge are left out of the means, and the others weighted for it. The interval says how much the mean varies with
the choice of grains, not whether the segmentation is right: compare the picture.</li></ul></body></html>`;
  return new Blob([html], { type: "text/html" });
}
