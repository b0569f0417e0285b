// The arithmetic that makes one cell, written out: scale, quotient, rounding, product, error.
(() => {
  "use strict";
  const f32 = window.quantsim.float32;
  const { decode } = window.quantsim.elements;
  const { fieldValues } = window.quantsim.quantizers;
  const { number } = window.quantsim.text;

  const times = (a, b) => `${number(a)} × ${number(b)}`;
  const over = (a, b) => `${number(a)} / ${number(b)}`;
  const power = (exponent) => `2^${number(exponent)}`;
  const inBrackets = (x) => (x < 0 || Object.is(x, -0) ? `(${number(x)})` : number(x));

  /** Everything that a line may need of a cell. */
  function factsOf(stored, w, values, cell) {
    const block = stored.blockOf[cell];
    const members = Float32Array.from(stored.cells[block], (c) => w[c]);
    const { plan } = stored;
    return {
      plan,
      w: w[cell],
      code: stored.codes[cell],
      unit: stored.units[cell],
      value: values[cell],
      error: f32.subtract(f32.add(values[cell], 0), w[cell]),
      fields: fieldValues(stored, block),
      top: f32.absmax(members),
      ends: [Math.min(...members), Math.max(...members)],
      level: plan.coding === "table" ? plan.table[stored.codes[cell]] : decode(stored.codes[cell], plan.codeElement),
    };
  }

  /** A scale as it is computed, and as it is stored where that differs. */
  function scaleLine(computation, exact, { plan, fields }) {
    const { bits, name } = plan.scaleElement;
    const stored = bits < 32 ? `, ${name}: ${number(fields.scale)}` : "";
    return ["scale", `${computation} = ${number(exact)}${stored}`];
  }

  function scaledLines(facts) {
    const { plan, w, unit, level, value, fields, top } = facts;
    const { reach } = plan.element;
    return [
      scaleLine(over(top, reach), top / reach, facts),
      ["units", `${over(w, fields.scale)} = ${number(unit)}`],
      ["rounded", `${number(unit)} → ${number(level)}`],
      ["dequantized", `${times(level, fields.scale)} = ${number(value)}`],
    ];
  }

  const castLines = ({ w, level }) => [["rounded", `${number(w, 9)} → ${number(level, 9)}`]];

  function minmaxLines(facts) {
    const { plan, w, unit, code, value, fields, ends } = facts;
    const [low, high] = [Math.min(0, ends[0]), Math.max(0, ends[1])];
    const last = plan.codeElement.high;
    return [
      scaleLine(`(${number(high)} − ${inBrackets(low)}) / ${last}`, (high - low) / last, facts),
      ["zero", `${over(-low, fields.scale)} → ${fields.zero}`],
      ["units", `${over(w, fields.scale)} = ${number(unit)}`],
      ["rounded", `${number(unit)} → ${number(f32.roundEven(unit) + 0)}, + ${fields.zero} → ${code}`],
      ["dequantized", `(${code} − ${fields.zero}) × ${number(fields.scale)} = ${number(value)}`],
    ];
  }

  function mxLines({ plan, w, unit, level, value, fields, top }) {
    const exponent = fields.scale - 127;
    const fraction = plan.element.kind === "integer" ? 2 ** (plan.element.bits - 2) : 1;
    const shown = fraction > 1 ? `${number(level)} / ${fraction}` : number(level);
    return [
      ["scale", `${number(top)} → ${power(exponent)}`],
      ["units", `${number(w)} / ${power(exponent)} = ${number(unit / fraction)}`],
      ["rounded", `${number(unit / fraction)} → ${shown}`],
      ["dequantized", `${shown} × ${power(exponent)} = ${number(value)}`],
    ];
  }

  function nvfp4Lines({ plan, w, unit, level, value, fields, top }) {
    const two = fields.tensor !== undefined;
    const step = two ? f32.multiply(fields.scale, fields.tensor) : fields.scale;
    const reach = two ? `(${times(plan.element.high, fields.tensor)})` : number(plan.element.high);
    return [
      ["scale", `${number(top)} / ${reach} → ${plan.scaleElement.name}: ${number(fields.scale)}`],
      ...(two ? [["step", `${times(fields.scale, fields.tensor)} = ${number(step)}`]] : []),
      ["units", `${over(w, step)} = ${number(unit)}`],
      ["rounded", `${number(unit)} → ${number(level)}`],
      ["dequantized", `${times(level, step)} = ${number(value)}`],
    ];
  }

  // GGUF divides by the exact scale, and multiplies by the one that is stored.

  function absmaxLines(facts) {
    const { plan, w, unit, code, value, fields, top } = facts;
    const exact = top / plan.codeElement.high;
    return [
      scaleLine(over(top, plan.codeElement.high), exact, facts),
      ["units", `${over(w, exact)} = ${number(unit)}`],
      ["rounded", `${number(unit)} → ${code}`],
      ["dequantized", `${times(code, fields.scale)} = ${number(value)}`],
    ];
  }

  function symmetricLines(facts) {
    const { plan, w, unit, code, value, fields, ends } = facts;
    const half = (plan.codeElement.high + 1) / 2;
    const extreme = -ends[0] > ends[1] ? ends[0] : ends[1];
    return [
      scaleLine(`${number(extreme)} / (−${half})`, extreme / -half, facts),
      ["units", `${number(w)} / ${inBrackets(extreme / -half)} + ${half + 0.5} = ${number(unit)}`],
      ["cut", `${number(unit)} → ${code}`],
      ["dequantized", `(${code} − ${half}) × ${inBrackets(fields.scale)} = ${number(value)}`],
    ];
  }

  function affineLines(facts) {
    const { plan, w, unit, code, value, fields, ends } = facts;
    const [low, high] = ends;
    const last = plan.codeElement.high;
    const scale = (high - low) / last;
    return [
      scaleLine(`(${number(high)} − ${inBrackets(low)}) / ${last}`, scale, facts),
      ["units", `(${number(w)} − ${inBrackets(low)}) / ${number(scale)} + 0.5 = ${number(unit)}`],
      ["cut", `${number(unit)} → ${code}`],
      ["dequantized", `${code} × ${number(fields.scale)} + ${inBrackets(fields.minimum)} = ${number(value)}`],
    ];
  }

  const tableLines = ({ plan, unit, code, level, value, fields }) => [
    ["searched", `${plan.divisors.length} → ${plan.scaleElement.name}: ${number(fields.scale)}`],
    ["units", number(unit)],
    ["rounded", `${number(unit)} → ${number(level)} = table[${code}]`],
    ["dequantized", `${times(level, fields.scale)} = ${number(value)}`],
  ];

  const LINES = {
    absmax: absmaxLines,
    affine: affineLines,
    cast: castLines,
    minmax: minmaxLines,
    mx: mxLines,
    nvfp4: nvfp4Lines,
    scaled: scaledLines,
    symmetric: symmetricLines,
    table: tableLines,
  };

  /** Pairs of a word's name and its arithmetic, from the scale to the error. */
  function lines(stored, w, values, cell) {
    const facts = factsOf(stored, w, values, cell);
    const error = ["error", `${number(facts.value)} − ${inBrackets(facts.w)} = ${number(facts.error)}`];
    return [...LINES[facts.plan.coding](facts), error];
  }

  window.quantsim.arithmetic = { lines };
})();
