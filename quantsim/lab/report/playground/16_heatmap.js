// Heat maps of a matrix on a canvas. Colours differ in lightness as well as in hue, for every kind of colour vision.
(() => {
  "use strict";
  const THEMES = {
    light: { low: [24, 90, 168], high: [190, 78, 12], lost: [112, 20, 110] },
    dark: { low: [116, 184, 250], high: [247, 158, 88], lost: [240, 150, 230] },
  };
  const LEAST = 1e-4; // part of the rms weight below which an error is drawn as none

  /** Colours of the page as it is now: its background and what maps lead away from it. */
  function theme(node) {
    const style = getComputedStyle(node);
    const paper = rgbOf(style.getPropertyValue("--bg"));
    const dark = paper[0] + paper[1] + paper[2] < 384;
    return {
      ...THEMES[dark ? "dark" : "light"],
      paper,
      fg: style.getPropertyValue("--fg").trim(),
      bg: style.getPropertyValue("--bg").trim(),
      accent: style.getPropertyValue("--accent").trim(),
    };
  }

  const probe = document.createElement("canvas").getContext("2d");

  /** Red, green and blue of any opaque colour of CSS. */
  function rgbOf(color) {
    probe.fillStyle = "#fff";
    probe.fillStyle = color.trim();
    return [1, 3, 5].map((i) => parseInt(probe.fillStyle.slice(i, i + 2), 16));
  }

  const mixed = (from, to, share) => from.map((c, i) => c + (to[i] - c) * share);

  /** -1 … 1 from one hue through the paper to the other; NaN is the colour of what is lost. */
  function signed(x, colors) {
    if (Number.isNaN(x)) return colors.lost;
    return mixed(colors.paper, x < 0 ? colors.low : colors.high, Math.min(Math.abs(x), 1) ** 0.8);
  }

  /** Size of an error, as a part of the rms weight, on a logarithmic scale from 10^-4 to 1. */
  function lost(x, colors) {
    if (Number.isNaN(x)) return colors.lost;
    const decades = Math.log10(Math.max(Math.abs(x), LEAST) / LEAST) / -Math.log10(LEAST);
    return mixed(colors.paper, colors.lost, Math.min(decades, 1));
  }

  /** One map: cells in rows and columns, painted from numbers by a colour rule. */
  class HeatMap {
    constructor(canvas, rows, columns) {
      this.canvas = canvas;
      this.rows = rows;
      this.columns = columns;
      this.small = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
      this.image = new ImageData(columns, rows);
    }

    /** Paint values; `marks` are outlines: { cells, color, width }. */
    paint(values, rule, colors, marks = []) {
      const context = this.fitted();
      values.forEach((x, cell) => this.image.data.set([...rule(x, colors), 255], 4 * cell));
      this.small.getContext("2d").putImageData(this.image, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(this.small, 0, 0, this.canvas.width, this.canvas.height);
      this.rule(context, colors);
      for (const mark of marks) this.outline(context, mark);
    }

    /** The drawing context, with a pixel of the canvas for each of the screen. */
    fitted() {
      const width = Math.max(Math.round(this.canvas.clientWidth * window.devicePixelRatio), this.columns);
      const height = Math.round((width * this.rows) / this.columns);
      if (this.canvas.width !== width) this.canvas.width = width;
      if (this.canvas.height !== height) this.canvas.height = height;
      return this.canvas.getContext("2d");
    }

    /** Thin lines between cells. */
    rule(context, colors) {
      const [width, height] = [this.canvas.width, this.canvas.height];
      context.fillStyle = colors.bg;
      context.globalAlpha = 0.55;
      for (let i = 1; i < this.columns; i++) context.fillRect(Math.round((i * width) / this.columns), 0, 1, height);
      for (let i = 1; i < this.rows; i++) context.fillRect(0, Math.round((i * height) / this.rows), width, 1);
      context.globalAlpha = 1;
    }

    /** A frame around cells that form a rectangle. */
    outline(context, { cells, color, width }) {
      const [first, last] = [cells[0], cells[cells.length - 1]];
      const [w, h] = [this.canvas.width / this.columns, this.canvas.height / this.rows];
      const line = width * window.devicePixelRatio;
      const [x, y] = [(first % this.columns) * w, Math.floor(first / this.columns) * h];
      const across = ((last % this.columns) - (first % this.columns) + 1) * w;
      const down = (Math.floor(last / this.columns) - Math.floor(first / this.columns) + 1) * h;
      context.strokeStyle = color;
      context.lineWidth = line;
      context.strokeRect(x + line / 2, y + line / 2, across - line, down - line);
    }

    /** The cell under a pointer. */
    cellAt(event) {
      const box = this.canvas.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
      const row = Math.floor(((event.clientY - box.top) / box.height) * this.rows);
      if (column < 0 || row < 0 || column >= this.columns || row >= this.rows) return null;
      return row * this.columns + column;
    }
  }

  window.quantsim.heatmap = { HeatMap, lost, signed, theme };
})();
