// What the matrix is at the moment: weights, the chosen quantizer, what it stores, and which bits were flipped.
(() => {
  "use strict";
  const { Catalogue, dequantize, errors, flip, quantize, statistics } = window.quantsim.quantizers;

  class MatrixModel {
    constructor(facts) {
      this.catalogue = new Catalogue(facts);
      this.rows = facts.matrix.rows;
      this.columns = facts.matrix.columns;
      this.choice = { format: facts.formats[0].name, granularity: "tensor", scale: facts.exact_scale };
      this.cell = 0;
      this.source(Object.keys(facts.matrix.sources)[0]);
    }

    /** Weights of one of the matrices that the page holds. */
    source(name) {
      this.weights(Float32Array.from(this.catalogue.facts.matrix.sources[name]));
    }

    /** Any weights. */
    weights(w) {
      this.original = w;
      this.w = w.slice();
      this.edited = new Set();
      this.unit = Math.sqrt(w.reduce((sum, x) => sum + x * x, 0) / w.length) || 1;
      this.range = w.reduce((top, x) => Math.max(top, Math.abs(x)), 0) || 1;
      this.requantize();
    }

    /** Another format, granularity or scale format. */
    choose(changes) {
      Object.assign(this.choice, changes);
      this.requantize();
    }

    get plan() {
      const { format, granularity, scale } = this.choice;
      return this.catalogue.plan(format, granularity, scale);
    }

    requantize() {
      this.stored = quantize(this.plan, this.w, this.rows, this.columns);
      this.unflipped = { ...this.stored, codes: this.stored.codes.slice(), fields: {} };
      for (const [name, bits] of Object.entries(this.stored.fields)) this.unflipped.fields[name] = bits.slice();
      this.flips = 0;
      this.decode();
    }

    decode() {
      this.values = dequantize(this.stored);
      this.errors = errors(this.w, this.values);
    }

    /** Give the selected weight another magnitude; it keeps its sign. */
    drag(magnitude) {
      const sign = this.original[this.cell] < 0 ? -1 : 1;
      this.w[this.cell] = sign * magnitude;
      this.edited.add(this.cell);
      this.requantize();
    }

    /** Every weight as it was. */
    putBackWeights() {
      this.weights(this.original);
    }

    /** Flip a bit of the code of the selected cell, or of what its block stores. */
    flip(part, bit) {
      flip(this.stored, this.cell, part, bit);
      this.flips += 1;
      this.decode();
    }

    /** Every bit as the quantizer stored it. */
    putBackBits() {
      this.requantize();
    }

    /** Bits that all codes and fields take, a weight. */
    get bitsPerWeight() {
      const { codes, elements, fields, plan } = this.stored;
      const shared = Object.entries(fields).map(([name, bits]) => Math.ceil((elements[name].bits * bits.length) / 8));
      const own = Math.ceil((plan.codeElement.bits * codes.length) / 8);
      return (8 * (own + shared.reduce((sum, n) => sum + n, 0))) / codes.length;
    }

    get statistics() {
      return statistics(this.w, this.values);
    }
  }

  window.quantsim.matrixModel = { MatrixModel };
})();
