// A click on a heading sorts its table: by numbers where all begin with one, else as text; again: the other way round.
const value = (row, column) => {
  const text = row.cells[column].textContent.trim().replace(/−/g, "-");
  const number = parseFloat((text.match(/^[-+]?[\d.][\d,.]*(e[-+]?\d+)?/i) || [""])[0].replace(/,/g, ""));
  return [text === "", number, text];
};
for (const table of document.querySelectorAll("table.sortable")) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map(row => [value(row, column), row]);
      const numbers = rows.every(([[empty, number]]) => empty || !isNaN(number));
      rows.sort(([a], [b]) => a[0] - b[0] ||
        (down ? -1 : 1) * (numbers ? a[1] - b[1] : a[2].localeCompare(b[2], "en", {numeric: true})));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  }
}
// A link opens what it leads to; paper shows everything
const reveal = () => { for (let at = document.getElementById(location.hash.slice(1)); at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true; };
addEventListener("hashchange", reveal);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => { each.open = true; }));
reveal();
