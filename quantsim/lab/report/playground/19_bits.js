// The stored bits of a cell, as switches: those of its code and of the fields that it shares with its block.
(() => {
  "use strict";
  const { bitRoles, codeToBits } = window.quantsim.elements;
  const { element, fill } = window.quantsim.text;

  const POWER_ROLES = Array(8).fill("exponent");
  const rolesOf = (stored) => (stored.kind === "power" ? POWER_ROLES : bitRoles(stored));

  class BitEditor {
    /** Shows bits in `host`; `flipped(part, bit)` is told of every press. */
    constructor(host, { words, flipped }) {
      this.host = host;
      this.words = words;
      this.flipped = flipped;
      this.shape = "";
      this.rows = new Map();
    }

    /** Bits of the code and of the fields of a cell; `original` has them as the quantizer stored them. */
    show(stored, original, cell) {
      const parts = { code: stored.plan.codeElement, ...stored.elements };
      const shape = stored.plan.coding + Object.entries(parts).map(([part, e]) => part + e.name).join();
      if (shape !== this.shape) this.build(parts);
      this.shape = shape;
      for (const part of Object.keys(parts)) {
        this.update(part, bitsOf(stored, cell, part), bitsOf(original, cell, part));
      }
    }

    build(parts) {
      this.rows.clear();
      this.host.replaceChildren(...Object.entries(parts).map(([part, stored]) => this.rowOf(part, stored)));
    }

    rowOf(part, stored) {
      const roles = rolesOf(stored);
      const name = this.words["bits_" + part];
      const buttons = roles.map((role, i) => this.buttonOf(part, roles.length - 1 - i, role, name));
      this.rows.set(part, buttons);
      const groups = [...new Set(roles)].map((role) => {
        const own = buttons.filter((_, i) => roles[i] === role);
        const label = element("small", { text: this.words["role_" + role] });
        return element("span", { class: `pg-bits-group pg-bits-${role}` }, ...own, label);
      });
      const title = element("span", { class: "pg-bits-name", text: `${name} (${stored.name})` });
      const group = { class: "pg-bits-row", role: "group", "aria-label": `${name} (${stored.name})` };
      return element("div", group, title, element("span", { class: "pg-bits" }, ...groups));
    }

    buttonOf(part, bit, role, name) {
      const button = element("button", { type: "button", class: "pg-bit", "data-part": part, "data-bit": bit });
      button.dataset.label = fill(this.words.bit, { name, bit, role: this.words["role_" + role] });
      button.addEventListener("click", () => this.flipped(part, bit));
      return button;
    }

    update(part, bits, original) {
      this.rows.get(part).forEach((button, i, { length }) => {
        const bit = length - 1 - i;
        const value = (bits >>> bit) & 1;
        button.textContent = value;
        button.setAttribute("aria-pressed", String(value === 1));
        button.setAttribute("aria-label", `${button.dataset.label}: ${value}`);
        button.classList.toggle("pg-flipped", ((bits ^ original) >>> bit) & 1);
      });
    }
  }

  /** The bits of a part, as a number that is not negative. */
  function bitsOf(stored, cell, part) {
    if (part === "code") return codeToBits(stored.codes[cell], stored.plan.codeElement);
    const bits = stored.fields[part];
    return bits[bits.length === 1 ? 0 : stored.blockOf[cell]];
  }

  window.quantsim.bits = { BitEditor, bitsOf };
})();
