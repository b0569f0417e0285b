// Arithmetic of float32, one rounding for each operation, as the quantizers of the package compute.
//
// JavaScript has float64. A sum, product or quotient of two float32 numbers that is rounded to float64 and then to
// float32 is the one that is rounded once (Figueroa, 1995: 53 >= 2 * 24 + 2). Numbers below 2^-126 are flushed to zero
// before an operation and after it, as XLA does on CPU; they differ from each other in their bits alone.
(() => {
  "use strict";
  const SMALLEST = 2 ** -126;
  // Between this and 2^-126 a result of 24 digits rounds up to 2^-126, and is not too small.
  const ROUNDS_UP = 2 ** -126 - 2 ** -151;
  const words = new Uint32Array(1);
  const floats = new Float32Array(words.buffer);

  /** Zero, with the sign of x, for a subnormal x. */
  function flush(x) {
    return Math.abs(x) < SMALLEST ? x * 0 : x;
  }

  /** The float32 that a float64 result rounds to. */
  function rounded(x) {
    return Math.abs(x) < ROUNDS_UP ? x * 0 : Math.fround(x);
  }

  const add = (a, b) => rounded(flush(a) + flush(b));
  const subtract = (a, b) => rounded(flush(a) - flush(b));
  const multiply = (a, b) => rounded(flush(a) * flush(b));
  const divide = (a, b) => rounded(flush(a) / flush(b));

  /** 1 / d, and 0 where d is 0. */
  function reciprocal(d) {
    return flush(d) === 0 ? 0 : divide(1, d);
  }

  /** Bit pattern of a float32, 0 … 2^32 - 1. */
  function bitsOf(x) {
    floats[0] = x;
    return words[0];
  }

  /** The float32 of a bit pattern. */
  function fromBits(bits) {
    words[0] = bits;
    return floats[0];
  }

  /** floor(log2 |x|) of normal numbers, -127 for zero and subnormals. */
  function exponentOf(x) {
    return ((bitsOf(x) >>> 23) & 0xff) - 127;
  }

  /** 2^exponent, for exponents of normal float32 numbers. */
  function powerOfTwo(exponent) {
    return fromBits((exponent + 127) << 23);
  }

  /** Nearest integer, ties to even; a zero keeps the sign of x. */
  function roundEven(x) {
    const below = Math.floor(x);
    const rest = x - below;
    const up = rest > 0.5 || (rest === 0.5 && below % 2 !== 0);
    return withSign(up ? below + 1 : below, x);
  }

  /** Nearest integer, ties away from zero. */
  function roundAway(x) {
    return withSign(Math.sign(x) * Math.floor(Math.abs(x) + 0.5), x);
  }

  function withSign(value, x) {
    return value === 0 && (x < 0 || Object.is(x, -0)) ? -0 : value;
  }

  function clip(x, low, high) {
    return x < low ? low : x > high ? high : x;
  }

  /** Largest magnitude, told by the bits, so that subnormals count. */
  function absmax(values) {
    let top = 0;
    for (const x of values) top = Math.max(top, Math.abs(x));
    return top;
  }

  /** The neighbour of a float32 that is not zero, toward minus infinity. */
  function nextBelow(x) {
    return fromBits(x > 0 ? bitsOf(x) - 1 : bitsOf(x) + 1);
  }

  window.quantsim = window.quantsim || {};
  window.quantsim.float32 = {
    absmax,
    add,
    bitsOf,
    clip,
    divide,
    exponentOf,
    flush,
    fromBits,
    multiply,
    nextBelow,
    powerOfTwo,
    reciprocal,
    roundAway,
    roundEven,
    rounded,
    subtract,
  };
})();
