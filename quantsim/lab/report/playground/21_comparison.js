// The same matrix with one scale for the tensor, for each row and for each block, side by side.
(() => {
  "use strict";
  const { HeatMap, lost } = window.quantsim.heatmap;
  const { dequantize, errors, quantize, statistics } = window.quantsim.quantizers;
  const { decibels, fill, number, percent } = window.quantsim.text;

  /** Distinct codes that cells have. */
  const distinct = (stored, cells) => new Set(cells.map((cell) => stored.codes[cell])).size;

  /** How many codes there are. */
  function codesOf(plan) {
    const { codeElement: element } = plan;
    if (element.kind === "codebook") return element.values.length;
    return element.kind === "integer" ? element.high - element.low + 1 : 2 ** element.bits;
  }

  /** What one quantizer does to all weights but one, and to those that share their scale with it. */
  function fate(plan, w, [rows, columns], apart) {
    const stored = quantize(plan, w, rows, columns);
    const values = dequantize(stored);
    const sharing = stored.cells[stored.blockOf[apart]].filter((cell) => cell !== apart);
    const all = Array.from(w.keys()).filter((cell) => cell !== apart);
    return {
      plan,
      errors: errors(w, values),
      others: statistics(w, values, (cell) => cell !== apart),
      sharing: sharing.length,
      sharedCodes: distinct(stored, sharing),
      codes: distinct(stored, all),
      possible: codesOf(plan),
      block: stored.cells[stored.blockOf[apart]],
    };
  }

  class Comparison {
    /** `host` holds a figure for each granularity, with a canvas and places for its numbers. */
    constructor(host, rows, columns, words) {
      this.words = words;
      this.shape = [rows, columns];
      this.figures = [...host.querySelectorAll("figure")].map((figure) => ({
        figure,
        map: new HeatMap(figure.querySelector("canvas"), rows, columns),
      }));
    }

    /** Granularities that are shown: all, a row, and blocks of the chosen size, or of 16. */
    static granularities(chosen, sizes) {
      return ["tensor", "channel", sizes[chosen] < sizes.block32 ? chosen : "block16"];
    }

    show(fates, unit, colors) {
      fates.forEach((fate, i) => this.showOne(this.figures[i], fate, unit, colors));
    }

    showOne({ figure, map }, fate, unit, colors) {
      const marks = [{ cells: fate.block, color: colors.fg, width: 1.5 }];
      map.paint(fate.errors.map((e) => e / unit), lost, colors, marks);
      const { words } = this;
      figure.querySelector("[data-of=name]").textContent = fill(words.compared, { spec: fate.plan.spec });
      const shown = {
        sqnr_db: decibels(fate.others.sqnr_db),
        rel_rms: percent(fate.others.rel_rms),
        sharing: number(fate.sharing),
        shared: fill(words.of, { some: fate.sharedCodes, all: fate.possible }),
        codes: fill(words.of, { some: fate.codes, all: fate.possible }),
      };
      for (const [name, text] of Object.entries(shown)) figure.querySelector(`[data-of=${name}]`).textContent = text;
      const alt = { spec: fate.plan.spec, sqnr: shown.sqnr_db };
      map.canvas.setAttribute("aria-label", fill(words.compared_alt, alt));
    }
  }

  window.quantsim.comparison = { Comparison, codesOf, fate };
})();
