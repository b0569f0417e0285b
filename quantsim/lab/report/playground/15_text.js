// Words of the page's language, and numbers as text.
(() => {
  "use strict";
  const MINUS = "\u2212";
  const PLAIN_BELOW = 1e6; // larger numbers are written with an exponent

  const readJson = (id) => JSON.parse(document.getElementById(id).textContent);

  /** "{n} weights" with its braces filled in. */
  function fill(template, values) {
    return template.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
  }

  /** A number in so many digits, without trailing zeros, with a real minus sign. */
  function number(x, digits = 5) {
    if (Number.isNaN(x)) return "NaN";
    if (!Number.isFinite(x)) return x > 0 ? "∞" : MINUS + "∞";
    let text = x.toPrecision(digits);
    if (text.includes("e+") && Math.abs(x) < PLAIN_BELOW) text = String(Number(text));
    if (text.includes(".")) text = text.replace(/0+(?=e|$)/, "").replace(/\.(?=e|$)/, "");
    if (Object.is(x, -0)) text = "-0";
    return text.replace("e+", "e").replaceAll("-", MINUS);
  }

  /** Decibels with one digit behind the point. */
  function decibels(x) {
    return Number.isFinite(x) ? x.toFixed(1).replace("-", MINUS) + " dB" : number(x) + " dB";
  }

  const percent = (x, digits = 3) => number(100 * x, digits) + " %";

  /** The fewest digits that give a float32 back, as a spreadsheet reads them. */
  function exact(x) {
    if (!Number.isFinite(x)) return String(x);
    for (let digits = 1; digits < 9; digits++) {
      const text = x.toPrecision(digits);
      if (Object.is(Math.fround(Number(text)), x)) return String(Number(text));
    }
    return String(Number(x.toPrecision(9)));
  }

  /** An element with classes, text and attributes. */
  function element(name, { text, ...attributes } = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    made.append(...children);
    return made;
  }

  window.quantsim.text = { decibels, element, exact, fill, number, percent, readJson };
})();
