// Laws of a scale: from the largest magnitude t of a block to the scale of codes and of weights.
//
// A law has `breaks(low, high)`, where the scale jumps, and `cases(t, known)`: pairs of scales with their probability.
// The rounding of a fine scale format is spread evenly within its step, by two places that are exact for its square.
(() => {
  "use strict";
  const FINE = 7; // mantissa bits from which it is
  const PLACES = [-0.5 / Math.sqrt(3), 0.5 / Math.sqrt(3)];
  const FEW_SCALES = 256; // that are followed one by one

  const one = (scale) => [{ code: scale, value: scale, share: 1 }];
  const floorLog2 = (x) => {
    const exponent = Math.floor(Math.log2(x));
    return 2 ** exponent > x ? exponent - 1 : 2 ** (exponent + 1) <= x ? exponent + 1 : exponent;
  };

  /** Nearest integer, ties to even. */
  function rint(x) {
    const below = Math.floor(x);
    const rest = x - below;
    return rest > 0.5 || (rest === 0.5 && below % 2) ? below + 1 : below;
  }

  /** Scale t / reach, stored in a float format or exact. */
  class AbsmaxLaw {
    constructor({ reach, codes_exact: codesExact, signed }, stored) {
      Object.assign(this, { reach, codesExact, signed, stored, alike: false });
    }

    /** Of blocks so alike that their stored scales take few values, these are followed; `quantile` of their maxima. */
    follow(quantile) {
      if (this.stored === null) return;
      const [low, high] = [1e-9, 1 - 1e-9].map(quantile);
      this.alike = (high - low) * 2 ** this.stored.mantissa_bits < FEW_SCALES * low;
    }

    breaks(low, high) {
      if (this.stored === null) return [];
      const { mantissa_bits: m, min_exponent: least, high: last } = this.stored;
      const coarse = m < FINE || this.alike;
      const found = [last * this.reach];
      const first = Math.max(floorLog2(low / this.reach), least);
      for (let exponent = first; exponent <= floorLog2(high / this.reach); exponent++) {
        found.push(2 ** exponent * this.reach);
        for (let i = 0; coarse && i < 2 ** m; i++) found.push(2 ** exponent * (1 + (i + 0.5) / 2 ** m) * this.reach);
      }
      for (let i = 0; i < 2 ** Math.min(m, FINE); i++) found.push((i + 0.5) * 2 ** (least - m) * this.reach);
      return found.filter((t) => t > low && t < high);
    }

    cases(t, known) {
      const exact = t / this.reach;
      if (this.stored === null) return one(exact);
      const { mantissa_bits: m, min_exponent: least, high } = this.stored;
      const quantum = 2 ** (Math.max(floorLog2(exact), least) - m);
      const spread = !known && !this.alike && exact / quantum >= 2 ** FINE;
      const scales = spread ? PLACES.map((p) => exact + p * quantum) : [rint(exact / quantum) * quantum];
      return scales.map((scale) => {
        const value = Math.min(scale, high);
        return { code: this.codesExact ? exact : value, value, share: 1 / scales.length };
      });
    }

    /** Whether the scale is the same on the whole of an interval between breaks. */
    stands() {
      return this.stored !== null && (this.stored.mantissa_bits < FINE || this.alike) && !this.codesExact;
    }
  }

  /** Scale 2^(floor(log2(t / edge)) + shift), as in the MX formats. */
  class PowerLaw {
    constructor({ edge, shift }) {
      Object.assign(this, { edge, shift, signed: false });
    }

    follow() {}

    breaks(low, high) {
      const found = [];
      for (let exponent = floorLog2(low / this.edge); exponent <= floorLog2(high / this.edge); exponent++) {
        found.push(this.edge * 2 ** exponent);
      }
      return found.filter((t) => t > low && t < high);
    }

    cases(t) {
      return one(2 ** (floorLog2(t / this.edge) + this.shift));
    }

    stands() {
      return true;
    }
  }

  /** The scale of a block in a tensor whose other blocks have the largest magnitude `top`, as in NVFP4. */
  class InTensor {
    constructor({ reach }, stored, top) {
      this.inner = new AbsmaxLaw({ reach, codes_exact: false, signed: false }, stored);
      Object.assign(this, { reach, stored, top, signed: false });
    }

    follow() {}

    unit(top) {
      return top / this.reach / this.stored.high;
    }

    breaks(low, high) {
      const unit = this.unit(this.top);
      const inner = this.inner.breaks(low / unit, this.top / unit).map((t) => t * unit);
      return [...inner, this.top].filter((t) => t > low && t < high);
    }

    cases(t, known) {
      const unit = this.unit(Math.max(t, this.top));
      const [found] = this.inner.cases(t / unit, known);
      return one(found.value * unit);
    }

    stands(low) {
      return low < this.top;
    }
  }

  window.quantsim.scaleLaws = { AbsmaxLaw, InTensor, PowerLaw };
})();
