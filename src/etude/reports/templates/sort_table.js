"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.querySelector("tbody.rows"), headers = [...table.querySelectorAll("thead tr:last-child th")];
  const sortKey = (row, i) => { const cell = row.cells[i]; return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value; };
  const compare = (a, b, direction) => {
    if ((a === "") !== (b === "")) return a === "" ? 1 : -1;  // rows without a score are last in both directions
    const x = Number(a), y = Number(b);
    return direction * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y);
  };
  headers.forEach((header, i) => header.querySelector("button")?.addEventListener("click", () => {
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of headers) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    body.append(...[...body.rows].sort((a, b) => compare(sortKey(a, i), sortKey(b, i), direction)));
  }));
}
for (const input of document.querySelectorAll(".filter input")) {
  const rows = [...document.getElementById(input.dataset.table).querySelector("tbody.rows").rows];
  const count = input.parentElement.querySelector(".row-count");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  });
}
