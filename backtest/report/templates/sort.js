for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const numeric = [...body.rows].every((r) => !isNaN(r.cells[i]?.dataset.o ?? 0));
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numeric;
    const key = (row) => row.cells[i] && row.cells[i].dataset.o;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const by = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
      return down ? -by : by;
    };
    body.append(...[...body.rows].sort(order));
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }));
}
for (const kind of ["beforeprint", "afterprint"]) {
  addEventListener(kind, () => document.querySelectorAll("details").forEach((d) => { d.open = kind === "beforeprint"; }));
}
