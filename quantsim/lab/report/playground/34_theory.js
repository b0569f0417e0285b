// The error that theory predicts: E[e^2] / E[w^2] of an infinite population, from its density and a format's facts.
(() => {
  "use strict";
  const { Blocks } = window.quantsim.blocks;
  const { prepared, snap } = window.quantsim.elements;
  const { familyOf, magnitude } = window.quantsim.families;
  const { AbsmaxLaw, InTensor, PowerLaw } = window.quantsim.scaleLaws;
  const { levelsOf, levelsOfWide, meanWithin, stairs } = window.quantsim.stairs;

  const SMOOTH = 8; // mantissa bits from which the error within a binade is step^2 / 12
  // Numbers of weights beyond the largest of a tensor, between which its distribution is cut into cells.
  const EXPECTED = [1e-9, 1e-5, 1e-3, 0.01, 0.05, 0.15, 0.4, 0.8, 1.4, 2.2, 4, 8, 45];
  const FINER = 12; // parts of such a cell
  const NEVER = 1e-9; // a probability that is left out

  /** A cast: no scale, so bulk and outliers err each for themselves. */
  class Cast {
    constructor(element, family) {
      this.element = element;
      const fine = element.mantissa_bits >= SMOOTH;
      const levels = () => stairs(element.exponent_bits === 8 ? levelsOfWide(element) : levelsOf(element));
      this.bulk = fine ? noiseOf(element, family) : meanWithin(levels(), 1, 1, family, Infinity);
    }

    mse(rate, M) {
      const x = Math.fround(M);
      return (1 - rate) * this.bulk + rate * (snap(x, this.element) - x) ** 2;
    }
  }

  /** Of floats with too many levels to follow: uniform noise in every binade, and what saturates. */
  function noiseOf({ mantissa_bits: m, min_exponent: least, high }, family) {
    let sum = family.upper(high, 2);
    for (let exponent = -40; 2 ** exponent < Math.min(high, 2 ** 40); exponent++) {
      const share = family.upper(2 ** exponent, 0) - family.upper(Math.min(2 ** (exponent + 1), high), 0);
      sum += (share * 4 ** (Math.max(exponent, least) - m)) / 12;
    }
    return 2 * sum;
  }

  /** Blocks in a tensor that has a scale too: a mean over the largest magnitude of the other blocks. */
  class TwoLevel {
    constructor(law, stored, family, n, both) {
      Object.assign(this, { law, stored, family, n, both, others: law.total - n });
      const edges = EXPECTED.map((count) => magnitude(family, count / this.others)).reverse();
      this.cells = edges.slice(1).map((b, i) => this.cellOf(edges[i], b));
      this.known = { M: NaN, blocks: null };
    }

    /** A cell of that magnitude. Outliers see its scale as one number, so for them it is cut finer. */
    cellOf(a, b) {
      const parts = Array.from({ length: FINER }, (_, i) => {
        const [from, to] = [a + ((b - a) * i) / FINER, a + ((b - a) * (i + 1)) / FINER];
        return { a: from, b: to, law: new InTensor(this.law, this.stored, (from + to) / 2) };
      });
      return { a, b, parts, blocks: this.blocksUnder((a + b) / 2) };
    }

    blocksUnder(top) {
      return new Blocks(this.family, this.n, this.both, new InTensor(this.law, this.stored, top));
    }

    /** P(all others <= x), outliers at M included or not. */
    below(x, rate, included) {
      return Math.exp(this.others * Math.log((1 - rate) * (1 - 2 * this.family.fast(x, 0)) + (included ? rate : 0)));
    }

    /** Probability that the largest of the others lies between a and b, but not at M. */
    between(a, b, rate, M) {
      const middle = Math.min(Math.max(M, a), b);
      const under = this.below(middle, rate, false) - this.below(a, rate, false);
      return under + this.below(b, rate, true) - this.below(middle, rate, true);
    }

    mse(rate, M) {
      let [sum, mass] = [0, 0];
      for (const { a, b, blocks, parts } of this.cells) {
        const share = this.between(a, b, rate, M);
        if (!(share > NEVER)) continue;
        mass += share;
        sum += share * (rate > 0 ? blocks.besideOutliers(rate, M) : blocks.total);
        if (!(rate > 0)) continue;
        for (const part of parts) {
          sum += this.between(part.a, part.b, rate, M) * blocks.atOutliers(rate, M, part.law);
        }
      }
      const at = rate > 0 ? this.below(M, rate, true) - this.below(M, rate, false) : 0;
      if (at > NEVER) {
        if (this.known.M !== M) this.known = { M, blocks: this.blocksUnder(M) };
        [sum, mass] = [sum + at * this.known.blocks.mse(rate, M), mass + at];
      }
      return sum / mass;
    }
  }

  class Theory {
    /** `facts` are those of data.py: families and formats. */
    constructor(facts) {
      this.families = new Map(facts.families.map((f) => [f.name, familyOf(f)]));
      this.formats = new Map(facts.formats.map((f) => [f.spec, f]));
      this.scales = facts.scales;
      this.prepared = new Map();
    }

    /** What of a prediction does not depend on outliers; kept. */
    errorsOf(spec, name) {
      const key = `${spec} ${name}`;
      if (!this.prepared.has(key)) {
        this.prepared.set(key, this.prepare(this.formats.get(spec), this.families.get(name)));
      }
      return this.prepared.get(key);
    }

    prepare({ element: facts, law, size }, family) {
      const element = prepared(facts);
      if (law.kind === "cast") return new Cast(element, family);
      const stored = law.stored ? this.scales[law.stored] : null;
      const both = stairs(levelsOf(element));
      if (law.kind === "two_level") return new TwoLevel(law, stored, family, size, both);
      return new Blocks(family, size, both, law.kind === "power" ? new PowerLaw(law) : new AbsmaxLaw(law, stored));
    }

    /** Mean squared error of a format of the list, in squared standard deviations of the bulk. */
    mse(spec, family, rate = 0, M = 1) {
      return this.errorsOf(spec, family).mse(rate, M);
    }

    /** E[e^2] / E[w^2]. */
    relMse(spec, family, rate = 0, M = 1) {
      return this.mse(spec, family, rate, M) / (1 - rate + rate * M * M);
    }
  }

  window.quantsim.theory = { Theory };
})();
