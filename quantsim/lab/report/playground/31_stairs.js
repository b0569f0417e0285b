// What weights become, as stairs of levels and thresholds, and the mean squared error under one scale, in closed form.
//
// Between two thresholds the level is fixed, so the error is a parabola; beyond a threshold a it gains
// c0 + c1 (x - a), whose mean is c0 U_0(a) + c1 U_1(a).
(() => {
  "use strict";
  const { decode } = window.quantsim.elements;

  /** Levels of an element, increasing, zero once. */
  function levelsOf(element) {
    if (element.kind === "codebook") return Array.from(element.values);
    if (element.kind === "integer") {
      return Array.from({ length: element.high - element.low + 1 }, (_, i) => element.low + i);
    }
    const codes = Array.from({ length: 2 ** element.bits }, (_, code) => decode(code, element));
    const finite = codes.filter((v) => Math.abs(v) <= element.high).map((v) => v + 0);
    return [...new Set(finite)].sort((a, b) => a - b);
  }

  /** Levels of a float with the range of float32, from 2^-24 to 2^40: what lies outside has no part in the error. */
  function levelsOfWide(element) {
    const [first, last] = [-24, 40];
    const steps = 2 ** element.mantissa_bits;
    const positive = [];
    for (let exponent = first; exponent < last; exponent++) {
      for (let i = 0; i < steps; i++) positive.push(2 ** exponent * (1 + i / steps));
    }
    return [...positive.map((v) => -v).reverse(), 0, ...positive];
  }

  /** One side of zero: the level at 0+ and those above, and the thresholds between them. */
  function side(levels) {
    const middles = levels.slice(1).map((v, i) => (v + levels[i]) / 2);
    const first = middles.filter((m) => m <= 0).length;
    return { levels: Float64Array.from(levels.slice(first)), thresholds: Float64Array.from(middles.slice(first)) };
  }

  /** Both sides of zero, the second mirrored; and whether they are alike. */
  function stairs(levels) {
    const [positive, negative] = [side(levels), side(levels.map((v) => -v).reverse())];
    const alike = positive.levels.every((v, i) => v === negative.levels[i]) &&
      positive.levels.length === negative.levels.length;
    return { positive, negative, alike };
  }

  /** E[(level - X)^2; 0 < X <= upto] under scales of the weights and of the codes. */
  function meanOfSide({ levels, thresholds }, value, code, family, upto) {
    const start = levels[0] * value;
    let sum = start * start * family.upper(0, 0) - 2 * start * family.upper(0, 1) + family.upper(0, 2);
    if (!(upto < Infinity)) upto = Infinity;
    let [end0, end1] = [start * start - 2 * start * upto + upto * upto, 2 * upto - 2 * start];
    for (let i = 0; i < thresholds.length; i++) {
      const at = thresholds[i] * code;
      if (at >= upto) break;
      const gap = (levels[i + 1] - levels[i]) * value;
      const c0 = 2 * gap * (((levels[i + 1] + levels[i]) / 2) * value - at);
      sum -= 2 * gap * family.fast(at, 1);
      if (c0 !== 0) sum += c0 * family.fast(at, 0);
      end0 += c0 - 2 * gap * (upto - at);
      end1 -= 2 * gap;
    }
    if (upto === Infinity) return sum;
    return sum - end0 * family.upper(upto, 0) - end1 * family.upper(upto, 1) - family.upper(upto, 2);
  }

  /** E[(level - X)^2; |X| <= upto] under these scales. */
  function meanWithin(both, value, code, family, upto) {
    const positive = meanOfSide(both.positive, value, code, family, upto);
    return positive + (both.alike ? positive : meanOfSide(both.negative, value, code, family, upto));
  }

  /** (level - x)^2 of one magnitude x on a side. */
  function costAt({ levels, thresholds }, value, code, x) {
    let [low, high] = [0, thresholds.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (thresholds[middle] * code < x) low = middle + 1;
      else high = middle;
    }
    const e = levels[low] * value - x;
    return Math.abs(e) <= 2 ** -47 * x ? 0 : e * e;
  }

  window.quantsim.stairs = { costAt, levelsOf, levelsOfWide, meanWithin, stairs };
})();
