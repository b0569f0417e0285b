// The matrix in numbers and words: the arithmetic and the bits of a cell, the whole, and one sentence.
(() => {
  "use strict";
  const { lines } = window.quantsim.arithmetic;
  const { BitEditor } = window.quantsim.bits;
  const { decibels, element, fill, number, percent } = window.quantsim.text;

  const DECADE = 100; // steps of the slider in a factor of ten

  class Readout {
    constructor(root, model, words, flipped) {
      Object.assign(this, { root, model, words });
      this.bits = new BitEditor(this.part("bits"), { words, flipped });
    }

    part(name) {
      return this.root.querySelector(`[data-part=${name}]`);
    }

    /** Everything of a cell, and what the selected weight does to all others: their fates before and after. */
    show(cell, before, after) {
      this.showCell(cell);
      this.showSlider();
      this.showSentence(before, after);
      this.showNumbers(after);
    }

    showCell(cell) {
      const { model, words } = this;
      const place = { row: Math.floor(cell / model.columns) + 1, column: (cell % model.columns) + 1 };
      this.part("place").textContent = fill(words.cell, place);
      const block = model.stored.cells[model.stored.blockOf[cell]];
      this.part("sharing").textContent = fill(words.sharing, { n: block.length });
      const pairs = lines(model.stored, model.w, model.values, cell);
      this.part("arithmetic").replaceChildren(
        ...pairs.map(([name, text]) =>
          element("div", {}, element("dt", { text: words["line_" + name] }), element("dd", { text })),
        ),
      );
      this.bits.show(model.stored, model.unflipped, cell);
      this.part("put-back-bits").disabled = model.flips === 0;
      this.part("flipped").hidden = model.flips === 0;
    }

    showSlider() {
      const { model, words } = this;
      const slider = this.part("magnitude");
      const magnitude = Math.abs(model.w[model.cell]);
      const place = Math.round(DECADE * Math.log10(Math.max(magnitude, 1e-3)));
      slider.value = place;
      const shown = { w: number(model.w[model.cell]), times: number(magnitude / model.unit, 3) };
      const text = fill(words.magnitude_value, shown);
      slider.setAttribute("aria-valuetext", text);
      this.part("magnitude-value").textContent = text;
      this.part("put-back-weights").disabled = model.edited.size === 0;
    }

    /** What one weight does to all others, in a sentence. */
    showSentence(before, after) {
      const { model, words } = this;
      const { sharing, sharedCodes, possible } = after;
      const facts = {
        w: number(model.w[model.cell]),
        n: sharing,
        some: sharedCodes,
        all: possible,
        before: decibels(before.others.sqnr_db),
        after: decibels(after.others.sqnr_db),
      };
      const shared = model.edited.size ? words.sentence_dragged : words.sentence;
      this.part("sentence").textContent = fill(sharing === 0 ? words.sentence_alone : shared, facts);
    }

    showNumbers(after) {
      const { model } = this;
      const { rel_rms, sqnr_db, max_abs } = model.statistics;
      const shown = {
        spec: model.stored.plan.spec,
        bits_per_weight: number(model.bitsPerWeight),
        sqnr_db: decibels(sqnr_db),
        rel_rms: percent(rel_rms),
        max_abs: number(max_abs, 4),
      };
      for (const [name, text] of Object.entries(shown)) this.part(`total-${name}`).textContent = text;
      const used = { some: after.codes, all: after.possible };
      this.part("histogram").setAttribute("aria-label", fill(this.words.histogram_alt, used));
    }

    /** The selected cell in words, for those who hear it. */
    told() {
      const { cell, columns, errors, stored, values, w } = this.model;
      return fill(this.words.told, {
        row: Math.floor(cell / columns) + 1,
        column: (cell % columns) + 1,
        w: number(w[cell]),
        code: stored.codes[cell],
        value: number(values[cell]),
        error: number(errors[cell]),
      });
    }
  }

  window.quantsim.readout = { DECADE, Readout };
})();
