/* Colour becomes grey by its first principal component: `grey_weights` and `grey_of` of
   microlab/data/transforms.py. Change both. */

import C from "./constants.js";

/* Weights of red, green and blue that show most of an image's contrast; `colours` are pixel by pixel. */
export function greyWeights(colours) {
  const n = colours.length / 3;
  const mean = [0, 0, 0], products = [[0, 0, 0], [0, 0, 0], [0, 0, 0]];
  for (let i = 0; i < colours.length; i++) mean[i % 3] += colours[i] / n;
  for (let i = 0; i < colours.length; i += 3) {
    for (let a = 0; a < 3; a++) {
      for (let b = 0; b < 3; b++) products[a][b] += (colours[i + a] - mean[a]) * (colours[i + b] - mean[b]);
    }
  }
  const { value, vector: first } = largestEigenvector(products);
  if (value === 0) return C.transforms.LUMINANCE; // one colour everywhere
  // Signed so that grey rises with luminance: by its covariance with it.
  const luminance = products.map((row) => dot(row, C.transforms.LUMINANCE));
  const sum = first.reduce((total, w) => total + Math.abs(w), 0) * (dot(first, luminance) < 0 ? -1 : 1);
  return first.map((w) => Math.fround(w / sum));
}

/* Grey levels in [0, 1] of colours in [0, 1]. */
export function greyOf(colours, weights) {
  const darkest = weights.reduce((sum, w) => sum + Math.min(w, 0), 0);
  const grey = new Float32Array(colours.length / 3);
  for (let i = 0, j = 0; i < grey.length; i++, j += 3) {
    const sum = colours[j] * weights[0] + colours[j + 1] * weights[1] + colours[j + 2] * weights[2];
    grey[i] = Math.min(Math.max(sum - darkest, 0), 1);
  }
  return grey;
}

/* Of a symmetric matrix, by Jacobi's rotations. */
function largestEigenvector(matrix) {
  const a = matrix.map((row) => row.slice()), v = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  for (let sweep = 0; sweep < 30; sweep++) {
    for (const [p, q] of [[0, 1], [0, 2], [1, 2]]) {
      if (a[p][q] === 0) continue;
      const angle = 0.5 * Math.atan2(2 * a[p][q], a[p][p] - a[q][q]);
      const c = Math.cos(angle), s = Math.sin(angle);
      for (const m of [a, v]) {
        for (const row of m) [row[p], row[q]] = [c * row[p] + s * row[q], c * row[q] - s * row[p]];
      }
      for (let k = 0; k < 3; k++) [a[p][k], a[q][k]] = [c * a[p][k] + s * a[q][k], c * a[q][k] - s * a[p][k]];
    }
  }
  const k = [0, 1, 2].reduce((best, i) => (a[i][i] > a[best][best] ? i : best));
  return { value: a[k][k], vector: v.map((row) => row[k]) };
}

function dot(a, b) { return a.reduce((sum, value, k) => sum + value * b[k], 0); }
