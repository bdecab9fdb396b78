/* Typed arrays without the lists that `from` and `filter` of JavaScript make on the way: of 16 megapixels these
   would fill the memory. */

/* A Uint8Array, or another, of `size` values, each computed from its place. */
export function tabulate(size, of, kind = Uint8Array) {
  const out = new kind(size);
  for (let i = 0; i < size; i++) out[i] = of(i);
  return out;
}

/* One of several channels that lie pixel by pixel. */
export function channel(data, channels, k = 0) {
  return tabulate(data.length / channels, (i) => data[i * channels + k], data.constructor);
}
