/* The diameters of whole grains as an SVG histogram, each grain weighted as in the numbers. */

import { number } from "./corrections.js";

const SIZE = [520, 290], FRAME = { left: 56, right: 12, top: 12, bottom: 48 };

/* Edges of the bins as numpy's "auto": the narrower of Freedman-Diaconis' and Sturges' rule, but no narrower than half of
   the square-root rule, so that one large grain does not make hundreds. */
export function binEdges(values) {
  const sorted = [...values].sort((a, b) => a - b), n = sorted.length, [low, high] = [sorted[0], sorted[n - 1]];
  if (low === high) return [low - 0.5, low + 0.5];
  const at = (q) => { const k = q * (n - 1), i = Math.floor(k); return sorted[i] + (k - i) * ((sorted[i + 1] ?? sorted[i]) - sorted[i]); };
  const sturges = (high - low) / (Math.log2(n) + 1), diaconis = (2 * (at(0.75) - at(0.25))) / Math.cbrt(n);
  const root = (high - low) / Math.sqrt(n) / 2, width = Math.min(Math.max(diaconis, root), sturges);
  const bins = Math.max(1, Math.ceil((high - low) / width));
  return Array.from({ length: bins + 1 }, (_, k) => low + ((high - low) * k) / bins);
}

/* `bars`: {diameters, weights, mean, unit}, of whole grains; the text where there is none. */
export function histogramSvg({ diameters, weights, mean, unit }) {
  if (!diameters.length) return "<p>No grain is whole, so there is no distribution to show.</p>";
  const edges = binEdges(diameters), heights = new Array(edges.length - 1).fill(0);
  const [low, high] = [edges[0], edges[edges.length - 1]];
  diameters.forEach((d, k) => { heights[Math.min(heights.length - 1, Math.floor(((d - low) / (high - low)) * heights.length))] += weights[k]; });
  const most = Math.max(...heights), [width, height] = SIZE, { left, right, top, bottom } = FRAME;
  const x = (d) => left + ((d - low) / (high - low)) * (width - left - right);
  const y = (h) => height - bottom - (h / most) * (height - top - bottom);
  const bars = heights.map((h, k) => `<rect x="${x(edges[k]) + 0.5}" y="${y(h)}" width="${Math.max(0.5, x(edges[k + 1]) - x(edges[k]) - 1)}" height="${y(0) - y(h)}"/>`);
  const ticks = round(low, high, 5).map((d) => `<text x="${x(d)}" y="${height - bottom + 18}" text-anchor="middle">${number(d)}</text><path d="M${x(d)} ${y(0)}v5"/>`);
  const levels = round(0, most, 4).map((h) => `<text x="${left - 8}" y="${y(h) + 4}" text-anchor="end">${number(h)}</text><path d="M${left} ${y(h)}h-5"/>`);
  const words = `Histogram of the diameters of ${diameters.length} whole grains, from ${number(Math.min(...diameters))} to ${number(Math.max(...diameters))} ${unit}, mean ${number(mean)} ${unit}`;
  return `<svg class="ml-histogram" role="img" aria-label="${words}" viewBox="0 0 ${width} ${height}">
<g fill="#0072b2">${bars.join("")}</g><path d="M${left} ${top}V${y(0)}H${width - right}"/>${ticks.join("")}${levels.join("")}
<path stroke-dasharray="5 4" d="M${x(mean)} ${top}V${y(0)}"/>
<text x="${(left + width - right) / 2}" y="${height - 8}" text-anchor="middle">equivalent circle diameter (${unit})</text>
<text transform="translate(14 ${(top + height - bottom) / 2}) rotate(-90)" text-anchor="middle">grains (weighted)</text></svg>`;
}

/* Up to `count` round numbers from low to high. */
function round(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high * (1 + 1e-9); k++) ticks.push(k * step);
  return ticks;
}
