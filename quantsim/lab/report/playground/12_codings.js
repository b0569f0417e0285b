// How a block becomes codes and stored fields, and these weights: one coding for each way that the formats have.
//
// A coding has `fields`, what is stored beside the codes of a block; `search(block, plan, shared)`, which finds codes,
// the bits of the fields and the units that were rounded; and `value(code, fields, plan)`, the weight of a code. Every
// operation is in the order of the package's quantizers.
(() => {
  "use strict";
  const f32 = window.quantsim.float32;
  const { decode, encode, pattern, snap } = window.quantsim.elements;
  const { divide, multiply, subtract } = f32;
  const E8M0 = { kind: "power", name: "e8m0", bits: 8 };
  const E8M0_NAN = 255;
  const SMALLEST = 2 ** -126;

  const mapped = (block, f) => Float32Array.from(block, f);

  /** w / s, and 0 in a block whose stored scale is 0. */
  function unitsOf(block, scale) {
    return f32.flush(scale) === 0 ? new Float32Array(block.length) : mapped(block, (w) => divide(w, scale));
  }

  // --- casts: no scale ---

  const cast = {
    fields: () => ({}),
    search(block, plan) {
      return { codes: Array.from(block, (w) => encode(w, plan.element)), units: block, fields: {} };
    },
    value: (code, _, plan) => decode(code, plan.element),
  };

  // --- one scale for a tensor, row or block ---

  const scaled = {
    fields: (plan) => ({ scale: plan.scaleElement }),
    search(block, plan) {
      const scale = snap(divide(f32.absmax(block), plan.element.reach), plan.scaleElement);
      const units = unitsOf(block, scale);
      const codes = Array.from(units, (u) => encode(u, plan.element));
      return { codes, units, fields: { scale: pattern(scale, plan.scaleElement) } };
    },
    value: (code, fields, plan) => multiply(decode(code, plan.element), fields.scale),
  };

  const minmax = {
    fields: (plan) => ({ scale: plan.scaleElement, zero: plan.codeElement }),
    search(block, plan) {
      const last = plan.codeElement.high;
      const [low, high] = [Math.min(0, ...block), Math.max(0, ...block)];
      // half of each, so that the difference does not overflow; of the first the compiler fuses product and difference
      const range = f32.rounded(0.5 * f32.flush(high) - multiply(0.5, low));
      const scale = snap(divide(range, last / 2), plan.scaleElement);
      const zero = Math.min(f32.roundEven(divide(-low, f32.flush(scale) === 0 ? 1 : scale)) + 0, last);
      const units = unitsOf(block, scale);
      const codes = Array.from(units, (u) => f32.clip(f32.roundEven(u) + zero, 0, last));
      return { codes, units, fields: { scale: pattern(scale, plan.scaleElement), zero } };
    },
    value: (code, fields) => multiply(code - fields.zero, fields.scale),
  };

  // --- microscaling ---

  const lastExponent = (element) => f32.exponentOf(element.high);
  const isFraction = (element) => element.kind === "integer";
  const impliedExponent = (element) => (isFraction(element) ? element.bits - 2 : 0);

  /** What is added to the bits of the maximum, so that the mantissas that raise the exponent carry into it. */
  function carryOf(rule, element) {
    const ones = 2 ** 23 - 1;
    const digits = isFraction(element) ? element.bits - 2 : element.mantissa_bits;
    const carries = { floor: 0, ceil: ones, even: 2 ** (22 - digits), rceil: ones - (f32.bitsOf(element.high) & ones) };
    return carries[rule];
  }

  /** x 2^exponent by two normal factors: as one number 2^-127 would be flushed to zero. */
  function timesPowerOfTwo(x, exponent) {
    const half = exponent >> 1;
    return multiply(multiply(x, f32.powerOfTwo(half)), f32.powerOfTwo(exponent - half));
  }

  const mx = {
    fields: () => ({ scale: E8M0 }),
    search(block, plan) {
      const { element } = plan;
      const bits = f32.bitsOf(f32.absmax(block));
      const normal = bits < 2 ** 23 ? 0 : bits;
      const emax = lastExponent(element) - impliedExponent(element);
      const scale = f32.clip(Math.floor((normal + carryOf(plan.rule, element)) / 2 ** 23) - emax, 0, 254 - emax);
      const units = mapped(block, (w) => timesPowerOfTwo(w, impliedExponent(element) - (scale - 127)));
      return { codes: Array.from(units, (u) => encode(u, element)), units, fields: { scale } };
    },
    value(code, fields, plan) {
      if (fields.scale === E8M0_NAN) return NaN;
      return timesPowerOfTwo(decode(code, plan.element), fields.scale - 127 - impliedExponent(plan.element));
    },
  };

  const nvfp4 = {
    fields: (plan) => ({ scale: plan.scaleElement }),
    sharedFields: (plan) => (plan.two_level ? { tensor: plan.tensorElement } : {}),
    shared(w, plan) {
      if (!plan.two_level) return {};
      const reach = plan.element.high * plan.scaleElement.high;
      return { tensor: f32.bitsOf(Math.max(divide(f32.absmax(w), reach), SMALLEST)) };
    },
    step: (fields) => (fields.tensor === undefined ? fields.scale : multiply(fields.scale, fields.tensor)),
    search(block, plan, shared) {
      const { element, scaleElement } = plan;
      const tensor = plan.two_level ? f32.fromBits(shared.tensor) : undefined;
      const reach = plan.two_level ? multiply(element.high, tensor) : element.high;
      const scale = encode(divide(f32.absmax(block), reach), scaleElement);
      const step = nvfp4.step({ scale: decode(scale, scaleElement), tensor });
      const units = step > 0 ? unitsOf(block, step) : new Float32Array(block.length);
      return { codes: Array.from(units, (u) => encode(u, element)), units, fields: { scale } };
    },
    value: (code, fields, plan) => multiply(decode(code, plan.element), nvfp4.step(fields)),
  };

  window.quantsim.codings = { cast, minmax, mx, nvfp4, scaled };
})();
