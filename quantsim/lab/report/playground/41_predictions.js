// Predictions and measurements that the page shows, and the outliers that its sliders reach.
(() => {
  "use strict";
  const { Theory } = window.quantsim.theory;

  const STEPS = [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
  const LEAST = 2; // standard deviations of the bulk
  const LARGEST = 1000;

  /** Magnitudes of outliers, in standard deviations of the bulk. */
  const MAGNITUDES = [1, 10, 100].flatMap((unit) => STEPS.map((step) => step * unit)).filter((m) => m >= LEAST);
  MAGNITUDES.push(LARGEST);

  /** Shares of outliers: none, and 1, 2 and 5 of every power of ten. */
  const RATES = [0, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1];

  class Predictions {
    constructor(facts) {
      this.theory = new Theory(facts);
      this.families = facts.families.map(({ name }) => name);
      this.points = facts.points;
      this.known = new Map();
    }

    /** Whether the page follows a format itself, or has a table of the package. */
    isLive(spec) {
      return this.theory.formats.get(spec).rel_mse === undefined;
    }

    bits(spec) {
      return this.theory.formats.get(spec).bits;
    }

    /** E[e^2] / E[w^2], kept; NaN where the table has none. */
    relMse(spec, family, rate, magnitude) {
      if (!this.isLive(spec)) return this.tabulated(spec, family, rate);
      const key = keyOf(spec, family, rate, magnitude);
      if (!this.known.has(key)) this.known.set(key, this.theory.relMse(spec, family, rate, magnitude));
      return this.known.get(key);
    }

    /** The same where it is known already, else NaN. */
    seen(spec, family, rate, magnitude) {
      if (!this.isLive(spec)) return this.tabulated(spec, family, rate);
      return this.known.get(keyOf(spec, family, rate, magnitude)) ?? NaN;
    }

    tabulated(spec, family, rate) {
      return rate > 0 ? NaN : this.theory.formats.get(spec).rel_mse[family];
    }

    /** What the study measured of a format on this population. */
    measured(spec, family, rate, magnitude) {
      return this.points.filter(
        (p) => p.spec === spec && p.family === family && p.rate === rate && (rate === 0 || p.magnitude === magnitude),
      );
    }
  }

  function keyOf(spec, family, rate, magnitude) {
    return [spec, family, rate, rate > 0 ? magnitude : 0].join();
  }

  /** E[w^2], in squared standard deviations of the bulk. */
  const powerOf = (rate, magnitude) => 1 - rate + rate * magnitude * magnitude;
  const toDecibels = (relMse) => -10 * Math.log10(relMse);

  window.quantsim.predictions = { LARGEST, LEAST, MAGNITUDES, Predictions, RATES, powerOf, toDecibels };
})();
