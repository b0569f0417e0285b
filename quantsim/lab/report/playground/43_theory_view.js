// Predictions on the page: one format on one population, answered at once; charts fill in behind the answer.
(() => {
  "use strict";
  const { Chart } = window.quantsim.chart;
  const { MAGNITUDES, Predictions, RATES, powerOf, toDecibels } = window.quantsim.predictions;
  const { decibels, fill, number, percent } = window.quantsim.text;
  const { drawCurve, drawFamilies } = window.quantsim.theoryCharts;

  const SLICE = 8; // milliseconds of work between two looks at the reader

  class TheoryView {
    constructor(root, facts, words) {
      Object.assign(this, { root, words, predictions: new Predictions(facts), work: 0 });
      this.slider("magnitude", MAGNITUDES, 20);
      this.slider("rate", RATES, 0.01);
      this.curve = new Chart(this.part("curve"), { width: 560, height: 330, left: 62, bottom: 44 });
      this.families = new Chart(this.part("families"), { width: 560, height: 330, left: 92, bottom: 44 });
      for (const name of ["format", "family"]) this.part(name).addEventListener("change", () => this.changed());
      this.changed();
    }

    part(name) {
      return this.root.querySelector(`[data-theory=${name}]`);
    }

    /** A slider over the places of a list. */
    slider(name, list, first) {
      const node = this.part(name);
      node.max = list.length - 1;
      node.value = list.indexOf(first);
      node.addEventListener("input", () => this.changed());
    }

    get state() {
      return {
        spec: this.part("format").value,
        family: this.part("family").value,
        rate: RATES[Number(this.part("rate").value)],
        magnitude: MAGNITUDES[Number(this.part("magnitude").value)],
      };
    }

    changed() {
      const live = this.predictions.isLive(this.state.spec);
      if (!live) this.part("rate").value = 0;
      this.part("rate").disabled = !live;
      this.part("magnitude").disabled = this.state.rate === 0;
      this.part("tabulated").hidden = live;
      this.showNumbers();
      this.draw();
      this.fill();
    }

    showNumbers() {
      const { predictions, words } = this;
      const { spec, family, rate, magnitude } = this.state;
      const relMse = predictions.relMse(spec, family, rate, magnitude);
      const [measured] = predictions.measured(spec, family, rate, magnitude);
      const shown = {
        sqnr: decibels(toDecibels(relMse)),
        "rel-rms": percent(Math.sqrt(relMse)),
        rms: number(Math.sqrt(relMse * powerOf(rate, magnitude)), 4),
        bits: number(predictions.bits(spec)),
        measured: measured ? this.measuredText(measured) : words.not_measured,
        "rate-value": rate > 0 ? percent(rate) : words.none,
        "magnitude-value": rate > 0 ? fill(words.sigmas, { n: number(magnitude) }) : words.none,
      };
      for (const [name, text] of Object.entries(shown)) this.part(name).textContent = text;
      for (const name of ["rate", "magnitude"]) this.part(name).setAttribute("aria-valuetext", shown[`${name}-value`]);
    }

    /** A measured error in decibels, with two standard errors. */
    measuredText({ rel_mse: relMse, se }) {
      const spread = (2 * se * 10) / (Math.LN10 * relMse);
      return fill(this.words.measured_value, { sqnr: toDecibels(relMse).toFixed(2), spread: number(spread, 1) });
    }

    /** Predict what the charts lack, in slices; a later change makes an earlier filling stop. */
    fill() {
      const wanted = this.wanted();
      const { spec } = this.state;
      const work = ++this.work;
      const slice = () => {
        if (work !== this.work) return;
        const end = performance.now() + SLICE;
        while (wanted.length && performance.now() < end) this.predictions.relMse(spec, ...wanted.shift());
        this.draw();
        if (wanted.length) setTimeout(slice, 0);
      };
      setTimeout(slice, 0);
    }

    /** Populations that the charts show. */
    wanted() {
      const { family, rate, magnitude } = this.state;
      const { families } = this.predictions;
      const bare = families.map((name) => [name, 0, 0]);
      if (!(rate > 0)) return bare;
      const curve = MAGNITUDES.map((m) => [family, rate, m]);
      return [...bare, ...curve, ...families.map((name) => [name, rate, magnitude])];
    }

    draw() {
      const { predictions, state, words } = this;
      drawCurve(this.curve, predictions, state, words);
      drawFamilies(this.families, predictions, state, words);
      const named = { spec: state.spec, family: words["family_" + state.family], rms: this.part("rms").textContent };
      this.curve.svg.setAttribute("aria-label", fill(words.curve_alt, named));
      this.families.svg.setAttribute("aria-label", fill(words.families_alt, named));
    }
  }

  window.quantsim.theoryView = { TheoryView };
})();
