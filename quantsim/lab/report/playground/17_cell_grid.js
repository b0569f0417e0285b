// The grid that keyboards and screen readers walk through: one cell for each weight, laid over the first map.
(() => {
  "use strict";
  const { element, fill } = window.quantsim.text;

  class CellGrid {
    /** `host` becomes the grid; `chosen(cell)` is told of every move. */
    constructor(host, rows, columns, { words, chosen }) {
      this.rows = rows;
      this.columns = columns;
      this.chosen = chosen;
      this.current = 0;
      this.cells = [];
      for (let row = 0; row < rows; row++) host.append(this.rowOf(row, words));
      this.cells[0].tabIndex = 0;
      host.addEventListener("keydown", (event) => this.pressed(event));
      host.addEventListener("focusin", (event) => this.focused(event.target));
    }

    rowOf(row, words) {
      const line = element("div", { role: "row", class: "pg-row" });
      for (let column = 0; column < this.columns; column++) {
        const label = fill(words.cell, { row: row + 1, column: column + 1 });
        const cell = element("div", { role: "gridcell", tabindex: "-1", "aria-label": label });
        this.cells.push(cell);
        line.append(cell);
      }
      return line;
    }

    focused(target) {
      const cell = this.cells.indexOf(target);
      if (cell >= 0 && cell !== this.current) this.chosen(cell);
    }

    /** Make a cell the one that Tab reaches; `focus` moves the focus there too. */
    select(cell, { focus = false } = {}) {
      this.cells[this.current].tabIndex = -1;
      this.cells[this.current].removeAttribute("aria-selected");
      this.current = cell;
      this.cells[cell].tabIndex = 0;
      this.cells[cell].setAttribute("aria-selected", "true");
      if (focus) this.cells[cell].focus({ preventScroll: true });
    }

    pressed(event) {
      const to = this.target(event);
      if (to === null) return;
      event.preventDefault();
      this.cells[to].focus({ preventScroll: true });
    }

    /** Where a key leads: arrows a cell, Home and End in the row, with Control in the matrix, pages a quarter of it. */
    target({ key, ctrlKey }) {
      const [row, column] = [Math.floor(this.current / this.columns), this.current % this.columns];
      const at = (r, c) =>
        Math.min(Math.max(r, 0), this.rows - 1) * this.columns + Math.min(Math.max(c, 0), this.columns - 1);
      switch (key) {
        case "ArrowLeft": return at(row, column - 1);
        case "ArrowRight": return at(row, column + 1);
        case "ArrowUp": return at(row - 1, column);
        case "ArrowDown": return at(row + 1, column);
        case "PageUp": return at(row - this.rows / 4, column);
        case "PageDown": return at(row + this.rows / 4, column);
        case "Home": return at(ctrlKey ? 0 : row, 0);
        case "End": return at(ctrlKey ? this.rows : row, this.columns);
        default: return null;
      }
    }
  }

  window.quantsim.cellGrid = { CellGrid };
})();
