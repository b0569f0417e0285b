// Two charts of predictions: over the magnitude of outliers, and over families of weights.
(() => {
  "use strict";
  const { LARGEST, LEAST, MAGNITUDES, powerOf, toDecibels } = window.quantsim.predictions;
  const { number } = window.quantsim.text;

  const MARGIN = 1.5; // decibels beside the outermost point

  /** Rms error, in standard deviations of the bulk, over the magnitude of the outliers. */
  function drawCurve(chart, predictions, { spec, family, rate, magnitude }, words) {
    const rms = (m, relMse) => Math.sqrt(relMse * powerOf(rate, m));
    const struck = rate > 0 ? MAGNITUDES.map((m) => [m, rms(m, predictions.seen(spec, family, rate, m))]) : [];
    const line = struck.filter(([, v]) => v > 0);
    const bare = Math.sqrt(predictions.seen(spec, family, 0, 0));
    const values = [...line.map(([, v]) => v), bare].filter((v) => v > 0);
    const low = 10 ** Math.floor(Math.log10(Math.min(...values, 0.1)));
    const labels = { xLabel: words.x_magnitude, yLabel: words.y_rms, yText: (v) => number(v, 1) };
    chart.begin({ ends: [LEAST, LARGEST], log: true }, { ends: [low, 2], log: true }, labels);
    chart.line([[LEAST, 1], [LARGEST, 1]], "pg-line-limit");
    if (bare > 0) chart.line([[LEAST, bare], [LARGEST, bare]], "pg-line-bare");
    chart.line(line, "pg-line");
    for (const m of rate > 0 ? MAGNITUDES : []) {
      const [found] = predictions.measured(spec, family, rate, m);
      if (found) chart.diamond(m, rms(m, found.rel_mse), "pg-measured", 9);
    }
    const here = rms(magnitude, predictions.seen(spec, family, rate, magnitude));
    if (rate > 0 && here > 0) chart.dot(magnitude, here, "pg-here");
  }

  /** SQNR of every family: without outliers a circle, with them a disc, measured a diamond. */
  function drawFamilies(chart, predictions, { spec, family, rate, magnitude }, words) {
    const rows = predictions.families.map((name) => ({
      name,
      bare: toDecibels(predictions.seen(spec, name, 0, 0)),
      struck: rate > 0 ? toDecibels(predictions.seen(spec, name, rate, magnitude)) : NaN,
      measured: measuredOf(predictions, spec, name, rate, magnitude),
    }));
    const known = rows.flatMap(({ bare, struck, measured }) => [bare, struck, ...measured]).filter(Number.isFinite);
    const ends = [Math.min(...known) - MARGIN, Math.max(...known) + MARGIN];
    const labels = { xLabel: words.x_sqnr, xText: (v) => number(v, 3) };
    chart.begin({ ends }, { ends: [rows.length - 0.5, -0.5] }, labels);
    rows.forEach((row, place) => drawRow(chart, place, row, ends));
    rows.forEach(({ name }, place) => {
      const chosen = name === family ? "pg-chosen" : "";
      chart.text(chart.left - 10, chart.y.at(place) + 4, words["family_" + name], "end", chosen);
    });
  }

  function measuredOf(predictions, spec, name, rate, magnitude) {
    const bare = predictions.measured(spec, name, 0, 0);
    const struck = rate > 0 ? predictions.measured(spec, name, rate, magnitude) : [];
    return [...bare, ...struck].map((p) => toDecibels(p.rel_mse));
  }

  function drawRow(chart, place, { bare, struck, measured }, ends) {
    chart.line(ends.map((x) => [x, place]), "pg-gridline");
    if (Number.isFinite(bare) && Number.isFinite(struck)) chart.line([[bare, place], [struck, place]], "pg-link");
    if (Number.isFinite(bare)) chart.dot(bare, place, "pg-bare");
    if (Number.isFinite(struck)) chart.dot(struck, place, "pg-here");
    for (const x of measured) chart.diamond(x, place, "pg-measured");
  }

  window.quantsim.theoryCharts = { drawCurve, drawFamilies };
})();
