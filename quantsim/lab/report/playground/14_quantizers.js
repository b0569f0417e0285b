// Quantizers of a matrix: from a choice of format, granularity and scale format to codes, fields and weights.
(() => {
  "use strict";
  const f32 = window.quantsim.float32;
  const { bitsToCode, codeToBits, decode, endCodes, prepared } = window.quantsim.elements;
  const { codings } = window.quantsim;

  /** Reads the facts that data.py exports. */
  class Catalogue {
    constructor(facts) {
      this.facts = facts;
      this.elements = Object.fromEntries(Object.entries(facts.elements).map(([name, e]) => [name, prepared(e)]));
      this.formats = new Map(facts.formats.map((f) => [f.name, f]));
    }

    /** Everything that a quantizer needs to know: its spec, its coding and the elements that it stores. */
    plan(name, granularity, scaleFormat) {
      const format = this.formats.get(name);
      const free = format.size === null;
      const scale = format.scale_format ?? scaleFormat;
      const spec = free ? specOf(name, granularity, scaleFormat, this.facts.exact_scale) : name;
      const blocks = format.coding === "cast" ? 1 : free ? this.facts.granularities[granularity] : format.size;
      return {
        ...format,
        spec,
        blocks,
        element: this.elements[format.element],
        codeElement: this.elements[format.codes],
        scaleElement: this.elements[scale],
        tensorElement: this.elements[this.facts.exact_scale],
        table: format.table && Float32Array.from(format.table),
        divisors: format.divisors && Float32Array.from(format.divisors),
      };
    }
  }

  /** The spec that `quantsim` takes: "int8:*" per row with f16 scales is int8:channel:absmax:f16. */
  function specOf(name, granularity, scaleFormat, exact) {
    const [head, rule] = name.split(":*");
    const given = head + ":" + granularity;
    if (scaleFormat === exact) return given + rule;
    return given + (rule || ":absmax") + ":" + scaleFormat;
  }

  /** For each cell the block whose scale it shares, and the cells of each block. */
  function blocksOf(size, rows, columns) {
    const blockOf = new Uint16Array(rows * columns);
    const inRow = typeof size === "number" ? Math.ceil(columns / size) : 1;
    for (let cell = 0; cell < blockOf.length; cell++) {
      const [row, column] = [Math.floor(cell / columns), cell % columns];
      if (size === "row") blockOf[cell] = row;
      else if (typeof size === "number") blockOf[cell] = size === 1 ? cell : row * inRow + Math.floor(column / size);
    }
    const cells = [];
    blockOf.forEach((block, cell) => (cells[block] ??= []).push(cell));
    return { blockOf, cells };
  }

  /** Codes, stored fields and the units that were rounded, of a matrix. */
  function quantize(plan, w, rows, columns) {
    const coding = codings[plan.coding];
    const { blockOf, cells } = blocksOf(plan.blocks, rows, columns);
    const shared = coding.shared ? coding.shared(w, plan) : {};
    const stored = { plan, blockOf, cells, codes: new Int32Array(w.length), units: new Float32Array(w.length) };
    stored.elements = { ...coding.fields(plan), ...(coding.sharedFields ? coding.sharedFields(plan) : {}) };
    stored.fields = {};
    for (const name of Object.keys(coding.fields(plan))) stored.fields[name] = new Uint32Array(cells.length);
    for (const [name, bits] of Object.entries(shared)) stored.fields[name] = Uint32Array.of(bits);
    cells.forEach((members, block) => {
      const found = coding.search(Float32Array.from(members, (cell) => w[cell]), plan, shared);
      members.forEach((cell, i) => {
        stored.codes[cell] = found.codes[i];
        stored.units[cell] = found.units[i];
      });
      for (const [name, bits] of Object.entries(found.fields)) stored.fields[name][block] = bits;
    });
    return stored;
  }

  /** What the fields of a block mean: scales as float32, zero points and power-of-two scales as whole numbers. */
  function fieldValues(stored, block) {
    const values = {};
    for (const [name, bits] of Object.entries(stored.fields)) {
      const element = stored.elements[name];
      const one = bits[bits.length === 1 ? 0 : block];
      values[name] = element.kind === "float" ? decode(one, element) : one;
    }
    return values;
  }

  /** Weights of codes and fields, as a reader of the stored numbers finds them. */
  function dequantize(stored) {
    const coding = codings[stored.plan.coding];
    const values = new Float32Array(stored.codes.length);
    stored.cells.forEach((members, block) => {
      const fields = fieldValues(stored, block);
      for (const cell of members) values[cell] = coding.value(stored.codes[cell], fields, stored.plan);
    });
    return values;
  }

  /** The largest magnitude that a code of a block can mean. */
  function reachOf(stored, block) {
    const coding = codings[stored.plan.coding];
    const fields = fieldValues(stored, block);
    const ends = endCodes(stored.plan.codeElement).map((code) => coding.value(code, fields, stored.plan));
    return Math.max(...ends.map(Math.abs));
  }

  /** e = dequantized - original, rounded once; the sum with 0 makes a -0 of the dequantized 0, as in the package. */
  function errors(w, values) {
    return Float32Array.from(w, (x, i) => f32.subtract(f32.add(values[i], 0), x));
  }

  /** What the code or a field of a cell becomes when one bit flips; bit 0 is the lowest. */
  function flip(stored, cell, part, bit) {
    if (part === "code") {
      const element = stored.plan.codeElement;
      stored.codes[cell] = bitsToCode((codeToBits(stored.codes[cell], element) ^ (1 << bit)) >>> 0, element);
      return;
    }
    const bits = stored.fields[part];
    const place = bits.length === 1 ? 0 : stored.blockOf[cell];
    bits[place] = (bits[place] ^ (1 << bit)) >>> 0;
  }

  /** Relative error, as error_stats has it: of all weights, or of those that `counts` keeps. */
  function statistics(w, values, counts = () => true) {
    let [noise, power, largest] = [0, 0, 0];
    w.forEach((x, cell) => {
      if (!counts(cell)) return;
      const e = f32.subtract(values[cell], x);
      noise += e * e;
      power += x * x;
      largest = Math.max(largest, Math.abs(e));
    });
    const rms = Math.sqrt(noise / power);
    return { rel_rms: rms, sqnr_db: -20 * Math.log10(rms), max_abs: largest };
  }

  window.quantsim.quantizers = {
    Catalogue,
    blocksOf,
    dequantize,
    errors,
    fieldValues,
    flip,
    quantize,
    reachOf,
    statistics,
  };
})();
