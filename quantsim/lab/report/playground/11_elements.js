// Elements: the nearest level of a format, its code, and the level of a code. Facts come from quantsim.formats.
(() => {
  "use strict";
  const f32 = window.quantsim.float32;
  const LARGEST_BITS = 0x7f7fffff;

  /** A format from its facts, with what is derived from them once. */
  function prepared(facts) {
    const element = { ...facts };
    if (facts.kind === "codebook") {
      element.values = Float32Array.from(facts.values);
      element.thresholds = thresholds(element.values);
    }
    return element;
  }

  /** For each pair of levels the largest float32 that is not nearer to the upper one: ties go down. */
  function thresholds(values) {
    const found = new Float32Array(values.length - 1);
    for (let i = 0; i < found.length; i++) {
      const middle = (values[i] + values[i + 1]) / 2;
      const near = Math.fround(middle);
      found[i] = near > middle ? f32.nextBelow(near) : near;
    }
    return found;
  }

  /** The level that x rounds to, saturating; ties to even. */
  function snap(x, element) {
    if (element.kind === "codebook") return element.values[search(x, element)];
    if (element.kind === "integer") return f32.clip(f32.roundEven(f32.flush(x)), element.low, element.high) + 0;
    return element.exponent_bits === 8 ? roundBits(x, element) : roundToGrid(x, element);
  }

  function search(x, element) {
    let code = 0;
    while (code < element.thresholds.length && element.thresholds[code] < x) code++;
    return code;
  }

  /** Multiples of 2^(max(exponent, smallest exponent) - mantissa bits), both factors exact. */
  function roundToGrid(x, element) {
    const within = f32.clip(x, element.low, element.high);
    const exponent = Math.max(f32.exponentOf(within), element.min_exponent) - element.mantissa_bits;
    const scaled = f32.roundEven(f32.multiply(within, f32.powerOfTwo(-exponent)));
    return f32.multiply(scaled, f32.powerOfTwo(exponent));
  }

  /** To fewer mantissa bits in the bit pattern, for formats with the exponent of float32; saturates. */
  function roundBits(x, element) {
    const drop = 23 - element.mantissa_bits;
    if (drop === 0) return x;
    const bits = f32.bitsOf(x);
    const magnitude = bits & 0x7fffffff;
    const up = (1 << (drop - 1)) - 1 + ((magnitude >>> drop) & 1);
    const kept = Math.min(((magnitude + up) >>> drop) << drop, (LARGEST_BITS >>> drop) << drop);
    return f32.fromBits(kept | (bits & 0x80000000));
  }

  /** Code of the level that x rounds to: an integer itself, the bit pattern of a float, a place in a codebook. */
  function encode(x, element) {
    if (element.kind === "codebook") return search(x, element);
    const level = snap(x, element);
    return element.kind === "integer" ? level : pattern(level, element);
  }

  /** Bit pattern of a level of a float. */
  function pattern(level, element) {
    const m = element.mantissa_bits;
    const bits = f32.bitsOf(level);
    if (element.exponent_bits === 8) return bits >>> (23 - m);
    const exponent = f32.exponentOf(level);
    const normal = ((exponent - element.min_exponent + 1) << m) | ((bits >>> (23 - m)) & ((1 << m) - 1));
    const small = f32.multiply(Math.abs(level), f32.powerOfTwo(m - element.min_exponent));
    const sign = element.signed && bits >>> 31 ? 1 << (element.exponent_bits + m) : 0;
    return (exponent < element.min_exponent ? small : normal) | sign;
  }

  /** Level of a code. */
  function decode(code, element) {
    if (element.kind === "codebook") return element.values[Math.min(code, element.values.length - 1)];
    if (element.kind === "integer") return code;
    if (element.exponent_bits === 8) return f32.fromBits(code << (23 - element.mantissa_bits));
    return floatOf(code, element);
  }

  function floatOf(code, element) {
    const m = element.mantissa_bits;
    const last = (1 << element.exponent_bits) - 1;
    const field = (code >>> m) & last;
    const mantissa = code & ((1 << m) - 1);
    const negative = element.signed && (code >>> (element.exponent_bits + m)) & 1;
    let magnitude = (field === 0 ? mantissa : mantissa + (1 << m)) *
      f32.powerOfTwo(Math.max(field, 1) - 1 + element.min_exponent - m);
    if (field === last && element.specials === "ieee") magnitude = mantissa ? NaN : Infinity;
    if (field === last && element.specials === "fn" && mantissa === (1 << m) - 1) magnitude = NaN;
    return negative ? -magnitude : magnitude;
  }

  /** Codes of the lowest and of the highest level. */
  function endCodes(element) {
    if (element.kind === "codebook") return [0, element.values.length - 1];
    if (element.kind === "integer") return [element.low, element.high];
    return [pattern(element.low, element), pattern(element.high, element)];
  }

  /** Which bits of a code mean what, from the first: "sign", "exponent", "mantissa", or "code". */
  function bitRoles(element) {
    if (element.kind === "float") {
      const roles = [...(element.signed ? ["sign"] : []), ...Array(element.exponent_bits).fill("exponent")];
      return [...roles, ...Array(element.mantissa_bits).fill("mantissa")];
    }
    const signed = element.kind === "integer" && element.low < 0;
    return Array.from({ length: element.bits }, (_, i) => (signed && i === 0 ? "sign" : "code"));
  }

  /** The bits of a code as a number that is not negative; integers in two's complement. */
  function codeToBits(code, element) {
    return element.bits === 32 ? code >>> 0 : code & (2 ** element.bits - 1);
  }

  /** The code of bits. */
  function bitsToCode(bits, element) {
    const signed = element.kind === "integer" && element.low < 0;
    return signed && bits >= 2 ** (element.bits - 1) ? bits - 2 ** element.bits : bits;
  }

  window.quantsim.elements = { bitRoles, bitsToCode, codeToBits, decode, encode, endCodes, pattern, prepared, snap };
})();
