// How many weights have which code: bars over the place of a code between the last levels.
(() => {
  "use strict";
  const BINS = 65;
  const HEIGHT = 0.3; // of the width

  class Histogram {
    constructor(canvas) {
      this.canvas = canvas;
    }

    /** Bars of places from -1 to 1, the tallest as high as the canvas. */
    paint(places, colors) {
      const counts = new Array(BINS).fill(0);
      for (const x of places) if (x >= -1 && x <= 1) counts[Math.round(((x + 1) / 2) * (BINS - 1))] += 1;
      const top = Math.max(...counts, 1);
      const { canvas } = this;
      canvas.width = Math.max(Math.round(canvas.clientWidth * window.devicePixelRatio), BINS);
      canvas.height = Math.round(canvas.width * HEIGHT);
      const context = canvas.getContext("2d");
      const width = canvas.width / BINS;
      context.fillStyle = colors.accent;
      counts.forEach((count, bin) => {
        const height = count && Math.max((count / top) * (canvas.height - 2), 2);
        context.fillRect(bin * width, canvas.height - height - 1, Math.max(width - 1, 1), height);
      });
      context.fillStyle = colors.fg;
      context.fillRect(0, canvas.height - 1, canvas.width, 1);
    }
  }

  window.quantsim.histogram = { Histogram };
})();
