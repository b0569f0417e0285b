(() => {
  "use strict";
  // The ledger: filtered by text, verdict, document and study; saved as CSV or JSON, what is shown.
  const holder = document.getElementById("ledger-data");
  if (!holder) {
    return;
  }
  const words = JSON.parse(document.getElementById("strings").textContent).ledger;
  const entries = JSON.parse(holder.textContent);
  const rows = [...document.getElementById("ledger-rows").rows];
  const texts = rows.map((row, at) => `${row.textContent} ${Object.values(entries[at]).join(" ")}`.toLowerCase());
  const form = document.getElementById("ledger-filters");
  const text = document.getElementById("ledger-text");
  const chosen = ["verdict", "document", "study"].map((name) => [name, document.getElementById(`ledger-${name}`)]);
  let shown = entries;

  function matches(entry, at) {
    const asked = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    return asked.every((word) => texts[at].includes(word)) && chosen.every(([name, field]) => !field.value || entry[name] === field.value);
  }

  function filter() {
    shown = entries.filter((entry, at) => {
      rows[at].hidden = !matches(entry, at);
      return !rows[at].hidden;
    });
    document.getElementById("ledger-count").textContent = words.shown.replace("{shown}", shown.length).replace("{all}", entries.length);
    document.getElementById("ledger-none").hidden = shown.length > 0;
  }

  function quoted(value) {
    const cell = value === undefined || value === null ? "" : String(value);
    return /[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  }

  function asCsv(list) {
    const columns = [...new Set(entries.flatMap((entry) => Object.keys(entry)))];
    return [columns, ...list.map((entry) => columns.map((name) => entry[name]))].map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
  }

  function save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  document.getElementById("ledger-csv").addEventListener("click", () => save("claims.csv", "text/csv", asCsv(shown)));
  document.getElementById("ledger-json").addEventListener("click", () => save("claims.json", "application/json", `${JSON.stringify(shown, null, 1)}\n`));
  // A link to a statement that a filter hides shows all of them again.
  window.addEventListener("hashchange", () => {
    const row = document.getElementById(window.location.hash.slice(1));
    if (row && row.hidden) {
      form.reset();
    }
  });
})();
