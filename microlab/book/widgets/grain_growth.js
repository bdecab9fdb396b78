/* Grain growth in the browser: the equations and the scheme of microlab/simulate/phasefield.py, without any library.

     d eta_i / dt = eta_i (1 + eta_i^2 - 2 phi) + kappa lap(eta_i),     phi = sum_j eta_j^2

   (L = gamma = dx = 1.) Explicit Euler, five-point Laplacian, periodic, one field for each grain. A field is computed
   only in the blocks of 4 x 4 pixels near its grain; elsewhere it has fallen below CUTOFF and counts as 0.
   The controls are in panel.js. */

const BLOCK = 4;
const CUTOFF = 1e-3; // a field is followed one block beyond this; its tail there enters phi squared
const FOLLOW = 5; // steps between two looks at where a field is; it moves less than a block in between
const DT = 0.1;

export class GrainGrowth {
  /* `seeds` are positions [y, x] in pixels of a square of `size` pixels, a multiple of 4. */
  constructor(size, seeds, kappa = 1) {
    if (size % BLOCK || size < 3 * BLOCK) throw new Error(`size must be a multiple of 4 and 12 or more, got ${size}`);
    this.size = size;
    this.kappa = kappa;
    this.steps = 0;
    this.n = seeds.length;
    this.phi = new Float32Array(size * size);
    const field = () => new Float32Array(size * size);
    this.eta = Array.from(seeds, field);
    this.next = Array.from(seeds, field);
    const map = tessellate(size, seeds);
    if (this.n) map.forEach((grain, i) => { this.eta[grain][i] = 1; });
    const all = Array.from({ length: (size / BLOCK) ** 2 }, (_, block) => block);
    this.active = this.eta.map(() => all); // for each grain, its blocks
    this.follow();
  }

  get time() { return this.steps * DT; }

  step() {
    const { size, phi, kappa } = this, coupling = DT * kappa;
    this.sumOfSquares();
    for (let g = 0; g < this.n; g++) {
      const eta = this.eta[g], next = this.next[g];
      for (const block of this.active[g]) {
        const [y0, x0] = this.corner(block);
        for (let y = y0; y < y0 + BLOCK; y++) {
          const row = y * size, up = (y ? y - 1 : size - 1) * size, down = (y + 1 < size ? y + 1 : 0) * size;
          let left = eta[row + (x0 ? x0 - 1 : size - 1)], e = eta[row + x0];
          for (let x = x0; x < x0 + BLOCK; x++) {
            const right = eta[row + (x + 1 < size ? x + 1 : 0)];
            const laplacian = eta[up + x] + eta[down + x] + left + right - 4 * e;
            next[row + x] = e + DT * e * (1 + e * e - 2 * phi[row + x]) + coupling * laplacian;
            left = e;
            e = right;
          }
        }
      }
    }
    [this.eta, this.next] = [this.next, this.eta];
    this.steps += 1;
    if (this.steps % FOLLOW === 0) this.follow();
  }

  /* phi of the fields as they are now. */
  sumOfSquares() {
    const { size, phi } = this;
    phi.fill(0);
    for (let g = 0; g < this.n; g++) {
      const eta = this.eta[g];
      for (const block of this.active[g]) {
        const [y0, x0] = this.corner(block);
        for (let y = y0; y < y0 + BLOCK; y++) {
          for (let i = y * size + x0; i < y * size + x0 + BLOCK; i++) phi[i] += eta[i] * eta[i];
        }
      }
    }
    return phi;
  }

  /* Keep the blocks where a field lives and those around them; clear the others. */
  follow() {
    const { size } = this, across = size / BLOCK;
    for (let g = 0; g < this.n; g++) {
      const kept = new Set();
      for (const block of this.active[g]) {
        if (!this.lives(this.eta[g], block)) continue;
        const y = Math.floor(block / across), x = block % across;
        for (const dy of [across - 1, 0, 1]) {
          for (const dx of [across - 1, 0, 1]) kept.add(((y + dy) % across) * across + ((x + dx) % across));
        }
      }
      for (const block of this.active[g]) {
        if (kept.has(block)) continue;
        const [y0, x0] = this.corner(block);
        for (let y = y0; y < y0 + BLOCK; y++) {
          this.eta[g].fill(0, y * size + x0, y * size + x0 + BLOCK);
          this.next[g].fill(0, y * size + x0, y * size + x0 + BLOCK);
        }
      }
      this.active[g] = [...kept];
    }
  }

  lives(eta, block) {
    const { size } = this, [y0, x0] = this.corner(block);
    for (let y = y0; y < y0 + BLOCK; y++) {
      for (let i = y * size + x0; i < y * size + x0 + BLOCK; i++) if (eta[i] > CUTOFF) return true;
    }
    return false;
  }

  corner(block) {
    const across = this.size / BLOCK;
    return [Math.floor(block / across) * BLOCK, (block % across) * BLOCK];
  }

  /* The grain map (-1 without grains), areas in pixels shared in the proportions eta_i^2 / phi, how many grains own
     a pixel, and the mean diameter of the circles of their areas. */
  measure() {
    const { size } = this, phi = this.sumOfSquares();
    const map = new Int16Array(size * size).fill(-1), largest = new Float32Array(size * size);
    const areas = new Array(this.n).fill(0);
    for (let g = 0; g < this.n; g++) {
      const eta = this.eta[g];
      for (const block of this.active[g]) {
        const [y0, x0] = this.corner(block);
        for (let y = y0; y < y0 + BLOCK; y++) {
          for (let i = y * size + x0; i < y * size + x0 + BLOCK; i++) {
            areas[g] += (eta[i] * eta[i]) / phi[i];
            if (eta[i] > largest[i]) { largest[i] = eta[i]; map[i] = g; }
          }
        }
      }
    }
    const living = [...new Set(map)].filter((g) => g >= 0);
    const diameters = living.map((g) => Math.sqrt((4 * areas[g]) / Math.PI));
    const diameter = living.length ? diameters.reduce((a, b) => a + b, 0) / living.length : 0;
    return { map, areas, grains: living.length, diameter };
  }
}

/* Every pixel's nearest seed in the periodic square; empty seeds give -1. */
export function tessellate(size, seeds) {
  const map = new Int16Array(size * size).fill(-1);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      let nearest = Infinity;
      seeds.forEach(([sy, sx], g) => {
        let dy = Math.abs(y - sy), dx = Math.abs(x - sx);
        dy = Math.min(dy, size - dy);
        dx = Math.min(dx, size - dx);
        if (dy * dy + dx * dx < nearest) { nearest = dy * dy + dx * dx; map[y * size + x] = g; }
      });
    }
  }
  return map;
}

/* Numbers in [0, 1) that are the same for the same start (mulberry32). */
export function random(start) {
  let a = start >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
