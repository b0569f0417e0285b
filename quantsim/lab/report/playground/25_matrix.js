// The matrix on the page: what a reader does, four maps, three granularities side by side.
(() => {
  "use strict";
  const { CellGrid } = window.quantsim.cellGrid;
  const { Comparison, fate } = window.quantsim.comparison;
  const csv = window.quantsim.csv;
  const { HeatMap, lost, signed, theme } = window.quantsim.heatmap;
  const { Histogram } = window.quantsim.histogram;
  const { MatrixModel } = window.quantsim.matrixModel;
  const { reachOf } = window.quantsim.quantizers;
  const { DECADE, Readout } = window.quantsim.readout;

  const MAPS = ["original", "code", "dequantized", "error"];

  class MatrixView {
    constructor(root, facts, words) {
      this.root = root;
      this.words = words;
      this.facts = facts;
      this.model = new MatrixModel(facts);
      const { rows, columns } = this.model;
      this.maps = MAPS.map((name) => new HeatMap(this.part(`map-${name}`), rows, columns));
      const chosen = (cell) => this.select(cell);
      this.grid = new CellGrid(this.part("grid"), rows, columns, { words, chosen });
      this.readout = new Readout(root, this.model, words, (part, bit) => this.flip(part, bit));
      this.comparison = new Comparison(this.part("comparison"), rows, columns, words);
      this.histogram = new Histogram(this.part("histogram"));
      this.hovered = null;
      this.listen();
      this.select(0);
      this.changed();
    }

    part(name) {
      return this.root.querySelector(`[data-part=${name}]`);
    }

    // --- what a reader does ---

    listen() {
      const { model } = this;
      this.on("source", "change", (node) => model.source(node.value));
      for (const name of ["format", "granularity", "scale"]) {
        this.on(name, "change", (node) => model.choose({ [name]: node.value }));
      }
      this.on("magnitude", "input", (node) => model.drag(10 ** (Number(node.value) / DECADE)));
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
      area.addEventListener("pointermove", (event) => {
        if (event.pointerType !== "touch") this.hover(map.cellAt(event));
      });
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
      this.say(this.readout.told());
    }

    flip(part, bit) {
      this.hovered = null;
      this.model.flip(part, bit);
      this.draw();
      this.say(this.readout.told());
    }

    download() {
      const { columns, stored, values, w } = this.model;
      csv.download(csv.table(w, stored, values, columns), `quantsim-${stored.plan.spec.replaceAll(":", "-")}.csv`);
    }

    // --- what the page shows ---

    changed() {
      const { model } = this;
      const free = model.plan.size === null;
      for (const name of ["granularity", "scale"]) this.part(name).disabled = !free;
      this.part("fixed").hidden = free;
      this.compare();
      this.draw();
      this.say(this.readout.told());
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
      this.readout.show(cell, this.before, this.after);
    }

    drawMaps(cell, colors) {
      const { model } = this;
      const block = model.stored.cells[model.stored.blockOf[cell]];
      const marks = [{ cells: block, color: colors.fg, width: 1.5 }];
      if (cell !== model.cell) marks.push({ cells: [model.cell], color: colors.accent, width: 2 });
      marks.push({ cells: [cell], color: colors.fg, width: 3 });
      const [original, code, dequantized, error] = this.maps;
      original.paint(model.w.map((x) => x / model.range), signed, colors, marks);
      const levels = this.levels();
      code.paint(levels, signed, colors, marks);
      this.histogram.paint(levels.filter((_, i) => i !== model.cell), colors);
      dequantized.paint(model.values.map((x) => x / model.range), signed, colors, marks);
      error.paint(model.errors.map((x) => x / model.unit), lost, colors, marks);
    }

    /** Where each code lies between the last levels of its block; what has no scale, in the range of the weights. */
    levels() {
      const { range, stored, values } = this.model;
      const levels = new Float32Array(values.length);
      stored.cells.forEach((members, block) => {
        const reach = stored.plan.coding === "cast" ? range : reachOf(stored, block);
        for (const cell of members) levels[cell] = reach ? values[cell] / reach : 0;
      });
      return levels;
    }

    say(text) {
      this.part("live").textContent = text;
    }
  }

  window.quantsim.matrix = { MatrixView };
})();
