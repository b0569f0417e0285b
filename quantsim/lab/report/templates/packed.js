(() => {
  "use strict";
  // Pictures and rows lie compressed in one text; each is opened when it comes near, and a picture far away is let go.
  const holder = document.getElementById("packed");
  if (!holder) {
    return;
  }
  const places = JSON.parse(document.getElementById("packed-places").textContent);
  const NEAR = "1200px";

  function bytesOf(name) {
    const [first, last] = places[name];
    return Uint8Array.from(window.atob(holder.textContent.slice(first, last)), (character) => character.charCodeAt(0));
  }

  function show(picture) {
    picture.dataset.state = "shown";
    picture.src = URL.createObjectURL(new Blob([bytesOf(picture.dataset.packed)], { type: "image/webp" }));
  }

  function letGo(picture) {
    if (picture.dataset.state !== "shown") {
      return;
    }
    picture.dataset.state = "packed";
    URL.revokeObjectURL(picture.src);
    picture.removeAttribute("src");
  }

  const watcher = new IntersectionObserver(
    (found) => {
      for (const { target, isIntersecting } of found) {
        if (isIntersecting && target.dataset.state !== "shown") {
          show(target);
        } else if (!isIntersecting) {
          letGo(target);
        }
      }
    },
    { rootMargin: NEAR },
  );
  document.querySelectorAll("img[data-packed]").forEach((picture) => watcher.observe(picture));

  // --- rows -------------------------------------------------------------------------------------------------------

  const words = JSON.parse(document.getElementById("strings").textContent).studies;
  const PAGE = 50;

  async function rowsOf(name) {
    const stream = new Blob([bytesOf(`${name}.rows`)]).stream().pipeThrough(new DecompressionStream("gzip"));
    const text = await new Response(stream).text();
    return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  }

  function columnsOf(rows) {
    return [...new Set(rows.flatMap((row) => Object.keys(row)))];
  }

  function cellText(value) {
    if (value === null || value === undefined) {
      return "";
    }
    if (typeof value === "number" && !Number.isInteger(value)) {
      return String(Number(value.toPrecision(4)));
    }
    return typeof value === "object" ? JSON.stringify(value).slice(0, 60) : String(value);
  }

  function line(kind, cells) {
    const row = document.createElement("tr");
    for (const text of cells) {
      const cell = document.createElement(kind);
      if (kind === "th") {
        cell.scope = "col";
      }
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  }

  function filled(text, values) {
    return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  }

  function page(details, rows, first) {
    const columns = columnsOf(rows);
    const last = Math.min(first + PAGE, rows.length);
    const table = details.querySelector("table");
    table.tHead.replaceChildren(line("th", columns));
    table.tBodies[0].replaceChildren(...rows.slice(first, last).map((row) => line("td", columns.map((name) => cellText(row[name])))));
    const [previous, next] = ["previous", "next"].map((act) => details.querySelector(`[data-act="${act}"]`));
    previous.disabled = first === 0;
    next.disabled = last === rows.length;
    previous.onclick = () => page(details, rows, first - PAGE);
    next.onclick = () => page(details, rows, last);
    details.querySelector("output").textContent = filled(words.rows_shown, { first: first + 1, last, rows: rows.length });
  }

  function button(act, text) {
    const made = document.createElement("button");
    made.type = "button";
    made.dataset.act = act;
    made.textContent = text;
    return made;
  }

  async function showAll(details) {
    const rows = await rowsOf(details.dataset.rows);
    const said = document.createElement("output");
    details.querySelector('[data-act="all"]').replaceWith(button("previous", words.rows_previous), button("next", words.rows_next), said);
    page(details, rows, 0);
  }

  function quoted(value) {
    const cell = value === undefined || value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  }

  async function saveCsv(name) {
    const rows = await rowsOf(name);
    const columns = columnsOf(rows);
    const text = [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((row) => row.map(quoted).join(",")).join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${text}\r\n`], { type: "text/csv" }));
    link.download = `${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  document.querySelectorAll("details[data-rows]").forEach((details) => {
    details.querySelector('[data-act="all"]').addEventListener("click", () => showAll(details));
    details.querySelector('[data-act="csv"]').addEventListener("click", () => saveCsv(details.dataset.rows));
  });
})();
