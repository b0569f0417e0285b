// The matrix as a table for a spreadsheet: every number in the fewest digits that give its float32 back.
(() => {
  "use strict";
  const { decode } = window.quantsim.elements;
  const { errors } = window.quantsim.quantizers;
  const { exact } = window.quantsim.text;

  /** A stored field as text: scales as numbers, zero points as whole numbers, power-of-two scales as the power. */
  function fieldText(stored, name, cell) {
    const bits = stored.fields[name];
    const one = bits[bits.length === 1 ? 0 : stored.blockOf[cell]];
    const element = stored.elements[name];
    if (element.kind === "power") return one === 255 ? "NaN" : String(2 ** (one - 127));
    return element.kind === "float" ? exact(decode(one, element)) : String(one);
  }

  /** One line a cell: row, column, original, code, what its block stores, dequantized, error. */
  function table(w, stored, values, columns) {
    const fields = Object.keys(stored.fields);
    const error = errors(w, values);
    const lines = [["row", "column", "original", "code", ...fields, "dequantized", "error"]];
    w.forEach((x, cell) => {
      const place = [Math.floor(cell / columns) + 1, (cell % columns) + 1];
      const shared = fields.map((name) => fieldText(stored, name, cell));
      lines.push([...place, exact(x), stored.codes[cell], ...shared, exact(values[cell]), exact(error[cell])]);
    });
    return lines.map((line) => line.join(",")).join("\r\n") + "\r\n";
  }

  /** Hand text to the reader as a file. */
  function download(text, name) {
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  window.quantsim.csv = { download, table };
})();
