// Families of weights, all symmetric with variance 1: density, tail and upper partial moments, in float64.
//
// U_k(x) = E[max(X - x, 0)^k] for x >= 0, with U_0(x) = P(X > x). Every error of rounding is a sum of these.
(() => {
  "use strict";
  const SQRT_2PI = Math.sqrt(2 * Math.PI);

  /** erfc(z) e^(z^2) for z >= 0: the series of erf below 2, Lentz's continued fraction above. */
  function erfcx(z) {
    if (z < 2) {
      let [term, sum] = [1, 1];
      for (let k = 1; term > 1e-17 * sum; k++) sum += term *= (2 * z * z) / (2 * k + 1);
      return Math.exp(z * z) - (2 * z * sum) / Math.sqrt(Math.PI);
    }
    let fraction = z;
    for (let k = 60; k > 0; k--) fraction = z + k / 2 / fraction;
    return 1 / (fraction * Math.sqrt(Math.PI));
  }

  const normal = {
    pdf: (x) => Math.exp((-x * x) / 2) / SQRT_2PI,
    upper(x, k) {
      if (x > 38) return 0;
      const mills = Math.sqrt(Math.PI / 2) * erfcx(x / Math.SQRT2);
      return normal.pdf(x) * [mills, 1 - x * mills, (1 + x * x) * mills - x][k];
    },
  };

  const LAPLACE = Math.SQRT1_2; // mean magnitude
  const laplace = {
    pdf: (x) => Math.exp(-x / LAPLACE) / (2 * LAPLACE),
    upper: (x, k) => 0.5 * [1, 1, 2][k] * LAPLACE ** k * Math.exp(-x / LAPLACE),
    simple: true,
  };

  const EDGE = Math.sqrt(3);
  const uniform = {
    pdf: (x) => (x <= EDGE ? 0.5 / EDGE : 0),
    upper: (x, k) => Math.max(EDGE - x, 0) ** (k + 1) / ((k + 1) * 2 * EDGE),
    breaks: [EDGE],
    simple: true,
  };

  /** Regularized incomplete beta function I_x(a, b) for small x, by its series; `norm` is 1 / B(a, b). */
  function betaSeries(x, a, b, norm) {
    let [term, sum] = [1, 1 / a];
    for (let k = 1; Math.abs(term) > 1e-17 * sum && k < 500; k++) {
      term *= ((k - b) / k) * x;
      sum += term / (a + k);
    }
    return norm * x ** a * sum;
  }

  /** Gamma(a + 1/2) / (Gamma(a) sqrt(pi)) = 1 / B(a, 1/2) for whole and half a, by steps of 1 from 1/2 or 1. */
  function inverseBeta(a) {
    let [at, value] = a % 1 ? [0.5, 1 / Math.PI] : [1, 0.5];
    for (; at < a - 0.25; at++) value *= (at + 0.5) / at;
    return value;
  }

  /** Student's t with whole degrees of freedom. */
  function student(df) {
    const scale = Math.sqrt((df - 2) / df);
    const norm = inverseBeta(df / 2);
    const pdf0 = norm / Math.sqrt(df);
    const density = (z) => pdf0 * (1 + (z * z) / df) ** (-(df + 1) / 2);
    const above = (z) => {
      const share = df / (df + z * z);
      if (share < 0.5) return betaSeries(share, df / 2, 0.5, norm) / 2;
      return 0.5 - betaSeries(1 - share, 0.5, df / 2, norm) / 2;
    };
    const upper = (x, k) => {
      const z = x / scale;
      if (k === 0) return above(z);
      const first = ((df + z * z) / (df - 1)) * density(z) - z * above(z);
      if (k === 1) return scale * first;
      return (scale * scale * ((df + z * z) * above(z) - (df - 3) * z * first)) / (df - 2);
    };
    return { pdf: (x) => density(x / scale) / scale, upper };
  }

  /** Cubic between two places a step apart, from values and slopes there. */
  function hermite(u, [a, b], [da, db]) {
    const rise = b - a;
    return a + u * (da + u * (3 * rise - 2 * da - db + u * (da + db - 2 * rise)));
  }

  const END = 8; // of the table; far out power laws are interpolated in logarithms
  const STEPS = 512;
  const FAR_STEPS = 64; // in an octave
  const FARTHEST = 33; // octaves

  /** U_0 and U_1 at many places, from tables of closed forms that take long. */
  class Table {
    constructor(family, powerLaw) {
      this.family = family;
      const x = Array.from({ length: END * STEPS + 2 }, (_, i) => i / STEPS);
      this.density = Float64Array.from(x, (v) => -family.pdf(v) / STEPS);
      this.near = [0, 1].map((k) => Float64Array.from(x, (v) => family.upper(v, k)));
      this.fall = this.near[0].map((v) => -v / STEPS);
      this.far = powerLaw ? [0, 1].map((k) => this.farOf(k)) : null;
    }

    /** Logarithms of U_k at places of an even spacing in the logarithm, and their slopes. */
    farOf(k) {
      const value = [];
      const slope = [];
      for (let i = 0; i <= FARTHEST * FAR_STEPS + 1; i++) {
        const x = END * 2 ** (i / FAR_STEPS);
        const above = this.family.upper(x, k);
        const fall = k ? this.family.upper(x, 0) : this.family.pdf(x);
        value.push(Math.log(above));
        slope.push(((-x * fall) / above) * (Math.LN2 / FAR_STEPS));
      }
      return { value: Float64Array.from(value), slope: Float64Array.from(slope) };
    }

    /** U_k(x), k = 0 or 1. */
    upper(x, k) {
      if (x >= END) return this.beyond(x, k);
      const place = x * STEPS;
      const i = Math.floor(place);
      const [value, slope] = [this.near[k], k ? this.fall : this.density];
      return hermite(place - i, [value[i], value[i + 1]], [slope[i], slope[i + 1]]);
    }

    beyond(x, k) {
      const place = Math.log2(x / END) * FAR_STEPS;
      if (!this.far || place >= FARTHEST * FAR_STEPS) return this.family.upper(x, k);
      const i = Math.floor(place);
      const { value, slope } = this.far[k];
      return Math.exp(hermite(place - i, [value[i], value[i + 1]], [slope[i], slope[i + 1]]));
    }
  }

  /** A family by its facts, with its fast moments and where its magnitudes lie. */
  function familyOf({ name, df }) {
    const law = df ? student(df) : { normal, laplace, uniform }[name];
    const fast = law.simple ? law : new Table(law, Boolean(df));
    return { name, breaks: [], ...law, fast: (x, k) => fast.upper(x, k), tail: (x) => 2 * law.upper(x, 0) };
  }

  /** The magnitude that a weight exceeds with probability p, by bisection. */
  function magnitude(family, p) {
    let [low, high] = [0, 1];
    while (family.tail(high) > p) high *= 4;
    for (let i = 0; i < 60; i++) {
      const middle = (low + high) / 2;
      if (family.tail(middle) > p) low = middle;
      else high = middle;
    }
    return high;
  }

  window.quantsim.families = { erfcx, familyOf, magnitude };
})();
