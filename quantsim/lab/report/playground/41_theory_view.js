// Predictions on the page: one format on one population, over the size of outliers, and over families.
(() => {
  "use strict";
  const { Chart } = window.quantsim.chart;
  const { Theory } = window.quantsim.theory;
  const { decibels, fill, number, percent } = window.quantsim.text;

  const STEPS = [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
  const MAGNITUDES = [1, 10, 100].flatMap((unit) => STEPS.map((s) => s * unit)).filter((m) => m >= 2).concat(1000);
  const RATES = [0, ...[1e-5, 1e-4, 1e-3, 1e-2].flatMap((unit) => [1, 2, 5].map((s) => Number((s * unit).toPrecision(2)))), 0.1];
  const SLICE = 8; // milliseconds of work between two looks at the reader
  const toDecibels = (relMse) => -10 * Math.log10(relMse);

  class TheoryView {
    constructor(root, facts, words) {
      this.root = root;
      this.words = words;
      this.facts = facts;
      this.theory = new Theory(facts);
      this.known = new Map();
      this.work = 0;
      this.part("magnitude").max = MAGNITUDES.length - 1;
      this.part("rate").max = RATES.length - 1;
      this.part("magnitude").value = MAGNITUDES.indexOf(20);
      this.part("rate").value = RATES.indexOf(0.01);
      this.curve = new Chart(this.part("curve"), { width: 560, height: 330, left: 62, bottom: 44 });
      this.families = new Chart(this.part("families"), { width: 560, height: 330, left: 84, bottom: 44 });
      for (const name of ["format", "family"]) this.part(name).addEventListener("change", () => this.changed());
      for (const name of ["rate", "magnitude"]) this.part(name).addEventListener("input", () => this.changed());
      this.changed();
    }

    part(name) {
      return this.root.querySelector(`[data-theory=${name}]`);
    }

    get state() {
      return {
        spec: this.part("format").value,
        family: this.part("family").value,
        rate: RATES[Number(this.part("rate").value)],
        magnitude: MAGNITUDES[Number(this.part("magnitude").value)],
      };
    }

    /** Relative mean squared error, kept; of formats that the page cannot follow, from the package's table. */
    relMse(spec, family, rate, magnitude) {
      const table = this.theory.formats.get(spec).rel_mse;
      if (table) return rate > 0 ? NaN : table[family];
      const key = [spec, family, rate, rate > 0 ? magnitude : 0].join();
      if (!this.known.has(key)) this.known.set(key, this.theory.relMse(spec, family, rate, magnitude));
      return this.known.get(key);
    }

    changed() {
      const { spec } = this.state;
      const live = !this.theory.formats.get(spec).rel_mse;
      for (const name of ["rate", "magnitude"]) this.part(name).disabled = !live;
      if (!live) this.part("rate").value = 0;
      this.part("tabulated").hidden = live;
      this.part("magnitude").disabled = !live || this.state.rate === 0;
      this.showNumbers();
      this.fill();
    }

    showNumbers() {
      const { spec, family, rate, magnitude } = this.state;
      const { words } = this;
      const relMse = this.relMse(spec, family, rate, magnitude);
      const power = 1 - rate + rate * magnitude ** 2;
      const measured = this.pointsAt(family, rate, magnitude).find((p) => p.spec === spec);
      const shown = {
        sqnr: decibels(toDecibels(relMse)),
        "rel-rms": percent(Math.sqrt(relMse)),
        rms: number(Math.sqrt(relMse * power), 4),
        bits: number(this.theory.formats.get(spec).bits),
        measured: measured ? this.measuredText(measured) : words.not_measured,
        "rate-value": rate ? percent(rate) : words.none,
        "magnitude-value": rate ? fill(words.sigmas, { n: number(magnitude) }) : words.none,
      };
      for (const [name, text] of Object.entries(shown)) this.part(name).textContent = text;
      this.part("rate").setAttribute("aria-valuetext", shown["rate-value"]);
      this.part("magnitude").setAttribute("aria-valuetext", shown["magnitude-value"]);
    }

    /** A measured error in decibels, with two standard errors. */
    measuredText({ rel_mse: relMse, se }) {
      const spread = (2 * se * 10) / (Math.LN10 * relMse);
      return fill(this.words.measured_value, { sqnr: toDecibels(relMse).toFixed(2), spread: number(spread, 1) });
    }

    /** Points of the study whose population is this one. */
    pointsAt(family, rate, magnitude) {
      return this.facts.points.filter(
        (p) => p.family === family && p.rate === rate && (rate === 0 || p.magnitude === magnitude),
      );
    }

    // --- charts, filled in while nothing else is to be done -------------------------------------------------------------

    /** Predict what the charts lack, in slices; a later change makes an earlier filling stop. */
    fill() {
      const { spec, family, rate, magnitude } = this.state;
      const wanted = this.facts.families.map(({ name }) => [name, 0, 0]);
      if (rate > 0) {
        wanted.push(...MAGNITUDES.map((m) => [family, rate, m]));
        wanted.push(...this.facts.families.map(({ name }) => [name, rate, magnitude]));
      }
      const work = ++this.work;
      const slice = () => {
        if (work !== this.work) return;
        const end = performance.now() + SLICE;
        while (wanted.length && performance.now() < end) this.relMse(spec, ...wanted.shift());
        this.draw(this.state);
        if (wanted.length) setTimeout(slice, 0);
      };
      this.draw(this.state);
      setTimeout(slice, 0);
    }

    /** What is known already. */
    seen(spec, family, rate, magnitude) {
      const table = this.theory.formats.get(spec).rel_mse;
      if (table) return rate > 0 ? undefined : table[family];
      return this.known.get([spec, family, rate, rate > 0 ? magnitude : 0].join());
    }

    draw(state) {
      this.drawCurve(state);
      this.drawFamilies(state);
    }

    /** Rms error, in standard deviations of the bulk, over the magnitude of the outliers. */
    drawCurve({ spec, family, rate, magnitude }) {
      const { words, curve } = this;
      const rms = (m, relMse) => Math.sqrt(relMse * (1 - rate + rate * m * m));
      const found = MAGNITUDES.map((m) => [m, this.seen(spec, family, rate, m)]).filter(([, v]) => v > 0 && rate > 0);
      const line = found.map(([m, v]) => [m, rms(m, v)]);
      const bare = Math.sqrt(this.seen(spec, family, 0, 0) ?? NaN);
      const all = [...line.map(([, v]) => v), bare].filter((v) => v > 0);
      const low = 10 ** Math.floor(Math.log10(Math.min(...all, 0.1)));
      const axes = { xLabel: words.x_magnitude, yLabel: words.y_rms, yText: (v) => number(v, 1) };
      curve.begin({ ends: [2, 1000], log: true }, { ends: [low, 2], log: true }, axes);
      curve.line([[2, 1], [1000, 1]], "pg-line-limit");
      if (bare > 0) curve.line([[2, bare], [1000, bare]], "pg-line-bare");
      curve.line(line, "pg-line");
      for (const p of this.facts.points) {
        if (p.spec !== spec || p.family !== family || p.rate !== rate || !rate) continue;
        curve.diamond(p.magnitude, rms(p.magnitude, p.rel_mse), "pg-measured", 9);
      }
      const here = this.seen(spec, family, rate, magnitude);
      if (rate > 0 && here > 0) curve.dot(magnitude, rms(magnitude, here), "pg-here");
      const alt = { spec, family: words["family_" + family], rms: this.part("rms").textContent };
      curve.svg.setAttribute("aria-label", fill(words.curve_alt, alt));
    }

    /** SQNR of every family: without outliers a circle, with them a disc, measured a diamond. */
    drawFamilies({ spec, family, rate, magnitude }) {
      const { words, families } = this;
      const names = this.facts.families.map(({ name }) => name);
      const rows = names.map((name) => ({
        name,
        bare: this.seen(spec, name, 0, 0),
        struck: rate > 0 ? this.seen(spec, name, rate, magnitude) : undefined,
        measured: [...this.pointsAt(name, 0, 0), ...this.pointsAt(name, rate, magnitude)].filter((p) => p.spec === spec),
      }));
      const all = rows.flatMap(({ bare, struck, measured }) => [bare, struck, ...measured.map((p) => p.rel_mse)]);
      const decibel = all.filter((v) => v > 0).map(toDecibels);
      const ends = [Math.min(...decibel) - 1.5, Math.max(...decibel) + 1.5];
      families.begin({ ends }, { ends: [names.length - 0.5, -0.5] }, { xLabel: words.x_sqnr, xText: (v) => number(v, 3) });
      rows.forEach(({ name, bare, struck, measured }, row) => {
        families.line([[ends[0], row], [ends[1], row]], "pg-gridline");
        const label = families.add("text", { x: families.left - 10, y: families.y.at(row) + 4, "text-anchor": "end", class: "pg-axis" }, words["family_" + name]);
        label.classList.toggle("pg-chosen", name === family);
        if (bare > 0 && struck > 0) families.line([[toDecibels(bare), row], [toDecibels(struck), row]], "pg-link");
        if (bare > 0) families.dot(toDecibels(bare), row, "pg-bare");
        if (struck > 0) families.dot(toDecibels(struck), row, "pg-here");
        for (const p of measured) families.diamond(toDecibels(p.rel_mse), row, "pg-measured");
      });
      families.svg.setAttribute("aria-label", fill(words.families_alt, { spec }));
    }
  }

  window.quantsim.theoryView = { TheoryView };
})();
