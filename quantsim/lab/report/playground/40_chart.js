// Small charts as SVG: axes, lines, points. Colours are those of the page.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";

  /** An SVG element. */
  function shape(name, attributes = {}, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** A scale from numbers to places; `log` for a logarithmic one. */
  class Axis {
    constructor([low, high], [from, to], log = false) {
      Object.assign(this, { low, high, from, to, log });
    }

    at(x) {
      const [v, low, high] = this.log ? [x, this.low, this.high].map(Math.log10) : [x, this.low, this.high];
      return this.from + ((v - low) / (high - low)) * (this.to - this.from);
    }

    /** Powers of ten, or about five round numbers. */
    ticks() {
      const found = [];
      if (this.log) {
        const last = Math.floor(Math.log10(this.high) + 1e-9);
        for (let e = Math.ceil(Math.log10(this.low) - 1e-9); e <= last; e++) found.push(10 ** e);
        return found;
      }
      const rough = (this.high - this.low) / 5;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
      for (let x = Math.ceil(this.low / step) * step; x <= this.high + 1e-9; x += step) found.push(x);
      return found;
    }
  }

  class Chart {
    /** An SVG of that size in units of its view box, with room for labels. */
    constructor(svg, { width, height, left, bottom }) {
      Object.assign(this, { svg, width, height, left, bottom, top: 12, right: 22 });
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    }

    get xs() {
      return [this.left, this.width - this.right];
    }

    get ys() {
      return [this.height - this.bottom, this.top];
    }

    /** Remove everything, then draw axes with their labels; an axis without label has no ticks. */
    begin(x, y, { xLabel, yLabel, xText = String, yText = String }) {
      this.x = new Axis(x.ends, this.xs, x.log);
      this.y = new Axis(y.ends, this.ys, y.log);
      this.svg.replaceChildren();
      const [bottom, top] = this.ys;
      const [left, right] = this.xs;
      for (const tick of this.x.ticks()) {
        this.add("line", { x1: this.x.at(tick), x2: this.x.at(tick), y1: bottom, y2: top, class: "pg-gridline" });
        this.text(this.x.at(tick), bottom + 18, xText(tick), "middle");
      }
      for (const tick of yLabel ? this.y.ticks() : []) {
        this.add("line", { x1: left, x2: right, y1: this.y.at(tick), y2: this.y.at(tick), class: "pg-gridline" });
        this.text(left - 8, this.y.at(tick) + 4, yText(tick), "end");
      }
      this.text((left + right) / 2, this.height - 6, xLabel, "middle");
      if (yLabel) {
        const transform = `translate(14 ${(top + bottom) / 2}) rotate(-90)`;
        this.add("text", { transform, "text-anchor": "middle", class: "pg-axis" }, yLabel);
      }
    }

    add(name, attributes, text) {
      const made = shape(name, attributes, text);
      this.svg.append(made);
      return made;
    }

    text(x, y, text, anchor, name = "") {
      this.add("text", { x, y, "text-anchor": anchor, class: `pg-axis ${name}` }, text);
    }

    line(points, name) {
      if (!points.length) return;
      const places = points.map(([x, y]) => `${this.x.at(x).toFixed(1)},${this.y.at(y).toFixed(1)}`);
      this.add("polyline", { points: places.join(" "), class: name });
    }

    dot(x, y, name, radius = 5) {
      this.add("circle", { cx: this.x.at(x), cy: this.y.at(y), r: radius, class: name });
    }

    /** A measured point: a diamond, so that it differs from predictions not by its colour alone. */
    diamond(x, y, name, size = 6) {
      const [cx, cy] = [this.x.at(x), this.y.at(y)];
      const corners = [[cx, cy - size], [cx + size, cy], [cx, cy + size], [cx - size, cy]];
      this.add("polygon", { points: corners.map((corner) => corner.join(",")).join(" "), class: name });
    }
  }

  window.quantsim.chart = { Chart };
})();
