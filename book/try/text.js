/* Numbers as text, as Python writes them: halves are rounded to even digits, where JavaScript rounds them up. */

/* The value, moved towards zero by the least bit where it lies exactly between two numbers of `decimals` decimals
   (negative: tens, hundreds, ...) of which the one nearer to zero is even. */
function evenly(value, decimals) {
  const shifted = Math.abs(value) * 10 ** decimals, lower = Math.floor(shifted);
  const exact = Number.isInteger(value * 2 ** Math.max(decimals + 1, 0)); // else no half in binary
  return shifted - lower === 0.5 && exact && lower % 2 === 0 ? value * (1 - 2 ** -52) : value;
}

/* Python's f"{value:.{decimals}f}". */
export function fixed(value, decimals) { return evenly(value, decimals).toFixed(decimals); }

/* The value at a number of significant digits, without an exponent and without trailing zeros:
   numpy.format_float_positional(value, digits, unique=False, fractional=False, trim="-"). */
export function significant(value, digits) {
  if (value === 0) return Object.is(value, -0) ? "-0" : "0";
  const decimals = digits - 1 - Number(value.toExponential().split("e")[1]);
  return positional(evenly(value, decimals).toPrecision(digits));
}

/* A number that JavaScript wrote, without an exponent and without trailing zeros. */
export function positional(text) {
  const [, sign, whole, part = "", exponent = "0"] = /^(-?)(\d+)\.?(\d*)(?:e([+-]\d+))?$/.exec(text);
  const point = whole.length + Number(exponent), all = whole + part;
  const before = point > 0 ? all.slice(0, point).padEnd(point, "0") : "0";
  const after = (point > 0 ? all.slice(point) : "0".repeat(-point) + all).replace(/0+$/, "");
  return sign + (before.replace(/^0+(?=\d)/, "")) + (after ? `.${after}` : "");
}
