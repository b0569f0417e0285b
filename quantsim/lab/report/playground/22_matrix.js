// The matrix on the page: controls, four maps, the selected cell in numbers and bits, three granularities.
(() => {
  "use strict";
  const { lines } = window.quantsim.arithmetic;
  const { BitEditor } = window.quantsim.bits;
  const { CellGrid } = window.quantsim.cellGrid;
  const { Comparison, fate } = window.quantsim.comparison;
  const csv = window.quantsim.csv;
  const { HeatMap, lost, signed, theme } = window.quantsim.heatmap;
  const { MatrixModel } = window.quantsim.matrixModel;
  const { decibels, element, fill, number, percent } = window.quantsim.text;

  const DECADES = 100; // steps of the slider in a factor of ten
  const MAPS = ["original", "code", "dequantized", "error"];

  class MatrixView {
    constructor(root, facts, words) {
      this.root = root;
      this.words = words;
      this.facts = facts;
      this.model = new MatrixModel(facts);
      const { rows, columns } = this.model;
      this.maps = MAPS.map((name) => new HeatMap(this.part(`map-${name}`), rows, columns));
      this.grid = new CellGrid(this.part("grid"), rows, columns, { words, chosen: (cell) => this.select(cell) });
      this.bits = new BitEditor(this.part("bits"), { words, flipped: (part, bit) => this.flip(part, bit) });
      this.comparison = new Comparison(this.part("comparison"), rows, columns, words);
      this.hovered = null;
      this.listen();
      this.select(0);
      this.changed();
    }

    part(name) {
      return this.root.querySelector(`[data-part=${name}]`);
    }

    // --- what a reader does -------------------------------------------------------------------------------------------

    listen() {
      const { model } = this;
      this.on("source", "change", (node) => model.source(node.value));
      for (const name of ["format", "granularity", "scale"]) {
        this.on(name, "change", (node) => model.choose({ [name]: node.value }));
      }
      this.on("magnitude", "input", (node) => model.drag(10 ** (Number(node.value) / DECADES)));
      this.on("outlier", "click", () => model.drag(1000));
      this.on("put-back-weights", "click", () => model.putBackWeights());
      this.on("put-back-bits", "click", () => model.putBackBits());
      this.part("csv").addEventListener("click", () => this.download());
      this.maps.forEach((map) => this.watch(map));
      new ResizeObserver(() => this.draw()).observe(this.part("grid"));
      window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
      new MutationObserver(() => this.draw()).observe(document.documentElement, { attributes: true });
    }

    on(name, event, act) {
      const node = this.part(name);
      node.addEventListener(event, () => {
        act(node);
        this.changed();
      });
    }

    watch(map) {
      const area = map.canvas.parentElement;
      area.addEventListener("pointermove", (event) => event.pointerType !== "touch" && this.hover(map.cellAt(event)));
      area.addEventListener("pointerleave", () => this.hover(null));
      area.addEventListener("click", (event) => {
        const cell = map.cellAt(event);
        if (cell === null) return;
        this.hovered = null;
        this.select(cell, { focus: true });
      });
    }

    hover(cell) {
      if (cell === this.hovered) return;
      this.hovered = cell;
      this.draw();
    }

    select(cell, { focus = false } = {}) {
      this.model.cell = cell;
      this.hovered = null;
      this.grid.select(cell, { focus });
      this.compare();
      this.draw();
      this.say(this.told());
    }

    flip(part, bit) {
      this.hovered = null;
      this.model.flip(part, bit);
      this.draw();
      this.say(this.told());
    }

    download() {
      const { columns, stored, values, w } = this.model;
      csv.download(csv.table(w, stored, values, columns), `quantsim-${stored.plan.spec.replaceAll(":", "-")}.csv`);
    }

    // --- what the page shows ------------------------------------------------------------------------------------------

    changed() {
      const { model } = this;
      const free = model.plan.size === null;
      for (const name of ["granularity", "scale"]) this.part(name).disabled = !free;
      this.part("fixed").hidden = free;
      this.compare();
      this.draw();
      this.say(this.told());
    }

    /** The fates of all other weights, in the format as it is chosen and in three granularities. */
    compare() {
      const { model } = this;
      const { granularity, scale } = model.choice;
      const cuts = Comparison.granularities(granularity, this.facts.granularities);
      const shape = [model.rows, model.columns];
      const plans = cuts.map((cut) => model.catalogue.plan(model.plan.compared, cut, scale));
      this.fates = plans.map((plan) => fate(plan, model.w, shape, model.cell));
      this.before = fate(model.plan, model.original, shape, model.cell);
      this.after = fate(model.plan, model.w, shape, model.cell);
    }

    draw() {
      const { model } = this;
      const colors = theme(this.root);
    for (const name of ["low", "high", "lost"]) this.root.style.setProperty(`--pg-${name}`, `rgb(${colors[name]})`);
      const cell = this.hovered ?? model.cell;
      this.drawMaps(cell, colors);
      this.comparison.show(this.fates, model.unit, colors);
      this.showCell(cell);
      this.showSlider();
      this.showSentence();
      this.showNumbers();
    }

    drawMaps(cell, colors) {
      const { model } = this;
      const block = model.stored.cells[model.stored.blockOf[cell]];
      const marks = [{ cells: block, color: colors.fg, width: 1.5 }];
      if (cell !== model.cell) marks.push({ cells: [model.cell], color: colors.accent, width: 2 });
      marks.push({ cells: [cell], color: colors.fg, width: 3 });
      const [original, code, dequantized, error] = this.maps;
      original.paint(model.w.map((x) => x / model.range), signed, colors, marks);
      code.paint(this.levels(), signed, colors, marks);
      dequantized.paint(model.values.map((x) => x / model.range), signed, colors, marks);
      error.paint(model.errors.map((x) => x / model.unit), lost, colors, marks);
    }

    /** Where each code lies between the last levels of its block. */
    levels() {
      const { values, stored } = this.model;
      const levels = new Float32Array(values.length);
      for (const members of stored.cells) {
        const top = members.length > 1 ? members.reduce((m, c) => Math.max(m, Math.abs(values[c]) || 0), 0) : this.model.range;
        for (const cell of members) levels[cell] = top ? values[cell] / top : 0;
      }
      return levels;
    }

    showCell(cell) {
      const { model, words } = this;
      const place = { row: Math.floor(cell / model.columns) + 1, column: (cell % model.columns) + 1 };
      this.part("place").textContent = fill(words.cell, place);
      this.part("sharing").textContent = fill(words.sharing, { n: model.stored.cells[model.stored.blockOf[cell]].length });
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
      const place = Math.round(DECADES * Math.log10(Math.max(magnitude, 1e-3)));
      slider.value = place;
      const text = fill(words.magnitude_value, { w: number(model.w[model.cell]), times: number(magnitude / model.unit, 3) });
      slider.setAttribute("aria-valuetext", text);
      this.part("magnitude-value").textContent = text;
      this.part("put-back-weights").disabled = model.edited.size === 0;
    }

    /** What one weight does to all others, in a sentence. */
    showSentence() {
      const { after, before, model, words } = this;
      const { sharing, sharedCodes, possible } = after;
      const facts = {
        w: number(model.w[model.cell]),
        n: sharing,
        some: sharedCodes,
        all: possible,
        before: decibels(before.others.sqnr_db),
        after: decibels(after.others.sqnr_db),
      };
      const sentence = sharing === 0 ? words.sentence_alone : model.edited.size ? words.sentence_dragged : words.sentence;
      this.part("sentence").textContent = fill(sentence, facts);
    }

    showNumbers() {
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

    say(text) {
      this.part("live").textContent = text;
    }
  }

  window.quantsim.matrix = { MatrixView };
})();
