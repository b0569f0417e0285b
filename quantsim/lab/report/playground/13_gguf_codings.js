// Codings of GGUF's formats: codes come from the exact scale of a block, which is stored as float16 afterwards.
(() => {
  "use strict";
  const f32 = window.quantsim.float32;
  const { pattern, snap } = window.quantsim.elements;
  const { add, divide, multiply, reciprocal, subtract } = f32;
  const LARGEST = f32.fromBits(0x7f7fffff);

  const mapped = (block, f) => Float32Array.from(block, f);

  /** Float16 of a scale, saturating. */
  function f16Bits(x, plan) {
    return pattern(snap(x, plan.scaleElement), plan.scaleElement);
  }

  /** Weights beyond what a scale can hold count as the limit. */
  const within = (block, plan) => mapped(block, (w) => f32.clip(w, -plan.limit, plan.limit));

  /** The weight of largest magnitude with its sign; of equally large ones the first. */
  function extremeOf(block) {
    const top = f32.absmax(block);
    const first = block.find((w) => f32.flush(Math.abs(w)) === f32.flush(top));
    return f32.flush(first) < 0 ? -top : top;
  }

  const absmax = {
    fields: (plan) => ({ scale: plan.scaleElement }),
    search(given, plan) {
      const block = within(given, plan);
      const d = divide(f32.absmax(block), plan.codeElement.high);
      const units = mapped(block, (w) => multiply(w, reciprocal(d)));
      const codes = Array.from(units, (u) => f32.roundAway(u) + 0);
      return { codes, units, fields: { scale: f16Bits(d, plan) } };
    },
    value: (code, fields) => multiply(code, fields.scale),
  };

  const symmetric = {
    fields: (plan) => ({ scale: plan.scaleElement }),
    half: (plan) => (plan.codeElement.high + 1) / 2,
    search(given, plan) {
      const block = within(given, plan);
      const half = symmetric.half(plan);
      const d = divide(extremeOf(block), -half);
      const units = mapped(block, (w) => add(multiply(w, reciprocal(d)), half + 0.5));
      const codes = Array.from(units, (u) => Math.trunc(Math.min(u, 2 * half - 1)) + 0);
      return { codes, units, fields: { scale: f16Bits(d, plan) } };
    },
    value: (code, fields, plan) => multiply(code - symmetric.half(plan), fields.scale),
  };

  /** Smallest and largest weight; -0 lies below 0. */
  function endsOf(block) {
    let [low, high] = [block[0], block[0]];
    for (const w of block) {
      if (w < low || (w === low && Object.is(w, -0))) low = w;
      if (w > high || (w === high && Object.is(high, -0))) high = w;
    }
    return [low, high];
  }

  const affine = {
    fields: (plan) => ({ scale: plan.scaleElement, minimum: plan.scaleElement }),
    search(given, plan) {
      const block = within(given, plan);
      const top = plan.codeElement.high;
      const [low, high] = endsOf(block);
      const d = divide(Math.min(subtract(high, low), LARGEST), top);
      const units = mapped(block, (w) => add(multiply(subtract(w, low), reciprocal(d)), 0.5));
      const codes = Array.from(units, (u) => Math.trunc(Math.min(u, top)) + 0);
      return { codes, units, fields: { scale: f16Bits(d, plan), minimum: f16Bits(low, plan) } };
    },
    value: (code, fields) => add(multiply(code, fields.scale), fields.minimum),
  };


  /** Place in the table of the level next to x; in the middle of two the upper one. */
  function placeOf(x, table) {
    let place = 0;
    for (let i = 1; i < table.length; i++) if (x >= (table[i] + table[i - 1]) / 2) place = i;
    return place;
  }

  /** Sums of w^2 c w and of w^2 c^2, with the levels c that the factor gives; in order. */
  function sumsOf(block, factor, table) {
    let [product, square] = [0, 0];
    block.forEach((w, i) => {
      const level = table[placeOf(multiply(factor, w), table)];
      const weighed = multiply(multiply(w, w), level);
      product = i ? add(product, multiply(weighed, w)) : multiply(weighed, w);
      square = i ? add(square, multiply(weighed, level)) : multiply(weighed, level);
    });
    return [product, square];
  }

  /** The least-squares scale of the trial that explains the block best, of equals the first. */
  function bestScale(block, plan) {
    const top = extremeOf(block);
    if (Math.abs(top) < Math.fround(plan.tiny)) return 0;
    let [best, scale] = [-Infinity, 0];
    plan.divisors.forEach((divisor, trial) => {
      const factor = trial ? divide(divisor, top) : divide(1, divide(top, divisor));
      const [product, square] = sumsOf(block, factor, plan.table);
      if (square > 0 && multiply(product, product) > multiply(best, square)) {
        scale = divide(product, square);
        best = multiply(scale, product);
      }
    });
    return scale;
  }

  const table = {
    fields: (plan) => ({ scale: plan.scaleElement }),
    search(given, plan) {
      const block = within(given, plan);
      const scale = bestScale(block, plan);
      const units = mapped(block, (w) => multiply(reciprocal(scale), w));
      const codes = Array.from(units, (u) => placeOf(u, plan.table));
      return { codes, units, fields: { scale: f16Bits(scale, plan) } };
    },
    value: (code, fields, plan) => multiply(fields.scale, plan.table[code]),
  };

  Object.assign(window.quantsim.codings, { absmax, affine, symmetric, table });
})();
