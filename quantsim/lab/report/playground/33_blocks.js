// The mean squared error of blocks whose scale follows from their largest weight, conditioned on the true maximum.
//
// A weight x of a block of n sees the maximum t of all. So the mean is the integral over t of
//     (n - 1) p(t) G(t)^(n-2) H(t) + p(t) G(t)^(n-1) c(t)
// with the density p of a magnitude, G(t) = P(|X| <= t), the error c(t) of the largest weight itself, and the error
// H(t) of smaller ones under the scale of t, in closed form. Outliers of one magnitude M are a point mass: what happens
// at M is added apart, and the bulk's integral, which does not depend on M, is kept as sums of its panels.
(() => {
  "use strict";
  const { magnitude } = window.quantsim.families;
  const { costAt, meanWithin } = window.quantsim.stairs;

  const NARROW = 2; // panels over which the tail falls by less take the fewer nodes
  const NOTHING = 1e-10; // part of the result that is left out
  const RARE = 1e-6; // a probability of maxima, below which kinks of their own error do not matter

  /** Nodes and weights of Gauss and Legendre on -1 … 1, by Newton's method. */
  function legendre(count) {
    return Array.from({ length: count }, (_, i) => {
      let [x, slope] = [Math.cos((Math.PI * (i + 0.75)) / (count + 0.5)), 0];
      for (let step = 0; step < 20; step++) {
        let [p, before] = [1, 0];
        for (let k = 0; k < count; k++) [p, before] = [((2 * k + 1) * x * p - k * before) / (k + 1), p];
        slope = (count * (x * p - before)) / (x * x - 1);
        x -= p / slope;
      }
      return { x, weight: 2 / ((1 - x * x) * slope * slope) };
    });
  }

  const FEW = legendre(3);
  const MORE = legendre(7);

  /** Magnitudes from where a family has its weights to as far as it reaches; kept with the family. */
  function scaleOf(family) {
    if (family.scale) return family.scale;
    const tails = [];
    for (let decade = -0.25; decade > -20; decade -= 0.5) tails.push(10 ** decade);
    for (let decade = -20; decade > -60; decade -= 4) tails.push(10 ** decade);
    family.scale = tails.map((p) => magnitude(family, p));
    return family.scale;
  }

  /** Ends of the panels: where the largest of n weights can be, as far as its square counts. */
  function edgesOf(family, n) {
    const far = scaleOf(family);
    const all = [...[0, 0.25, 0.5, 0.75].map((part) => part * far[0]), ...far, ...family.breaks];
    const edges = [...new Set(all)].sort((a, b) => a - b);
    const expected = edges.map((x) => n * family.tail(x));
    const power = edges.map((x, i) => x * x * Math.min(expected[i], 1));
    return edges.filter((_, i) => {
      const reached = i + 1 === edges.length || expected[i + 1] < 60 || n < 60;
      return reached && (i === 0 || power[i - 1] > NOTHING);
    });
  }

  class Blocks {
    /** Everything that does not depend on outliers. `both` are stairs in units of the scale. */
    constructor(family, n, both, law) {
      Object.assign(this, { family, n, law });
      this.both = law.signed ? { positive: both.negative, negative: both.positive, alike: both.alike } : both;
      law.follow((p) => magnitude(family, -Math.expm1(Math.log(p) / n)));
      this.panels = this.panelsOf();
      let total = 0;
      for (const panel of this.panels) {
        panel.nodes = this.nodesOf(panel.a, panel.b);
        panel.before = total;
        for (const node of panel.nodes) total += node.bulk;
      }
      this.total = total;
    }

    panelsOf() {
      let edges = edgesOf(this.family, this.n);
      const first = edges.find((x) => x > 0) * (edges[0] === 0 ? 2 ** -12 : 1);
      edges = sorted([...edges, ...this.law.breaks(first, edges.at(-1))]);
      const { positive, negative, alike } = this.both;
      const thresholds = alike ? positive.thresholds : [...positive.thresholds, ...negative.thresholds];
      const kinks = [];
      for (let i = 0; i + 1 < edges.length; i++) {
        const [a, b] = [edges[i], edges[i + 1]];
        if (a === 0 || !this.law.stands(a) || this.n * this.family.tail(a) < RARE) continue;
        const [{ code }] = this.law.cases((a + b) / 2, false);
        for (const at of thresholds) if (at * code > a && at * code < b) kinks.push(at * code);
      }
      edges = sorted([...edges, ...kinks]);
      return edges.slice(1).map((b, i) => ({ a: edges[i], b }));
    }

    ruleOf(a, b) {
      return a > 0 && this.family.fast(a, 0) < NARROW * this.family.fast(b, 0) ? FEW : MORE;
    }

    /** Nodes of a panel: t, its weight, the share of other weights, the errors H and c, and the bulk's integrand. */
    nodesOf(a, b) {
      return this.ruleOf(a, b).map(({ x, weight }) => {
        const t = (a + b) / 2 + ((b - a) / 2) * x;
        const width = (b - a) * weight * this.family.pdf(t); // of either sign
        const within = Math.log1p(-Math.min(this.family.tail(t), 1 - 1e-16));
        const { others, extreme } = this.errorsAt(t, false);
        const power = (this.n - 1) * Math.exp((this.n - 2) * within) * others;
        return { t, width, within, others, extreme, bulk: width * (power + Math.exp((this.n - 1) * within) * extreme) };
      });
    }

    /** H(t) and c(t), and what a weight of that size and the other sign errs. */
    errorsAt(t, known, law = this.law) {
      let [others, extreme, opposite] = [0, 0, 0];
      for (const { code, value, share } of law.cases(t, known)) {
        others += share * meanWithin(this.both, value, code, this.family, t);
        extreme += share * costAt(this.both.positive, value, code, t);
        opposite += share * costAt(this.both.negative, value, code, t);
      }
      return { others, extreme, opposite };
    }

    /** Mean squared error with outliers of a rate and a magnitude M, of either sign. */
    mse(rate, M) {
      if (!(rate > 0)) return this.total;
      return this.besideOutliers(rate, M) + this.atOutliers(rate, M);
    }

    /** The part of blocks whose maximum is no outlier. */
    besideOutliers(rate, M) {
      let [inside, outside] = [this.total, 0];
      const place = this.panels.findIndex(({ b }) => M < b);
      if (place >= 0) {
        const { a, b, before } = this.panels[place];
        inside = before;
        if (M > a) for (const node of this.nodesOf(a, M)) inside += node.bulk;
        for (const node of this.nodesOf(Math.max(a, M), b)) outside += this.beyond(node, rate);
        for (const panel of this.panels.slice(place + 1)) {
          for (const node of panel.nodes) outside += this.beyond(node, rate);
        }
      }
      return (1 - rate) ** this.n * inside + outside + this.belowOthers(rate, M);
    }

    /** The integrand where the maximum is larger than the outliers, without what these err. */
    beyond({ width, within, others, extreme }, rate) {
      const log = Math.log1p((1 - rate) * Math.expm1(within));
      const rest = (this.n - 1) * Math.exp((this.n - 2) * log) * (1 - rate) * others;
      return (1 - rate) * width * (rest + Math.exp((this.n - 1) * log) * extreme);
    }

    /** What outliers err in blocks with a larger weight: it saws as the scale grows, so panels end at its teeth. */
    belowOthers(rate, M) {
      let sum = 0;
      for (const { a, b } of this.panels) {
        if (b <= M || this.n * this.family.tail(Math.max(a, M)) < NOTHING) continue;
        const ends = [Math.max(a, M), ...this.teeth(Math.max(a, M), b, M), b];
        for (let i = 0; i + 1 < ends.length; i++) sum += this.sawn(ends[i], ends[i + 1], M, rate);
      }
      return sum;
    }

    /** Maxima between a and b at which M lies on a threshold. */
    teeth(a, b, M) {
      if (this.law.stands(a)) return [];
      const [{ code }] = this.law.cases(a, false);
      const { positive, negative, alike } = this.both;
      const found = [];
      for (const { thresholds } of alike ? [positive] : [positive, negative]) {
        for (const at of thresholds) {
          const t = (M * a) / (at * code);
          if (t > a && t < b) found.push(t);
        }
      }
      return sorted(found);
    }

    /** The integral over maxima between a and b, on which the level of M is the same. */
    sawn(a, b, M, rate) {
      let sum = 0;
      for (const { x, weight } of this.ruleOf(a, b)) {
        const t = (a + b) / 2 + ((b - a) / 2) * x;
        const log = Math.log1p(-(1 - rate) * Math.min(2 * this.family.fast(t, 0), 1));
        const power = (this.n - 1) * Math.exp((this.n - 2) * log) * rate;
        let cost = 0;
        for (const { code, value, share } of this.law.cases(t, false)) {
          const [up, down] = [costAt(this.both.positive, value, code, M), costAt(this.both.negative, value, code, M)];
          cost += (share * (up + down)) / 2;
        }
        sum += (1 - rate) * (b - a) * weight * this.family.pdf(t) * power * cost;
      }
      return sum;
    }

    /** Blocks whose maximum is an outlier. With a signed scale, of several a random one gives the sign. */
    atOutliers(rate, M, law = this.law) {
      const { n } = this;
      const { others, extreme, opposite } = this.errorsAt(M, true, law);
      const tail = this.family.tail(M);
      const low = Math.log((1 - rate) * (1 - tail));
      const high = Math.log1p(-(1 - rate) * tail);
      const gap = (k) => Math.exp(k * high) * -Math.expm1(k * (low - high));
      const alone = gap(n) / n;
      const ties = rate * Math.exp((n - 1) * high) - alone;
      const tied = this.law.signed ? (extreme + opposite) / 2 : extreme;
      return (1 - rate) * others * gap(n - 1) + alone * extreme + ties * tied;
    }
  }

  const sorted = (edges) => [...new Set(edges)].sort((a, b) => a - b);

  window.quantsim.blocks = { Blocks };
})();
