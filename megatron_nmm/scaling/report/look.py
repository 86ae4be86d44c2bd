"""How the report looks, on light and dark pages, on paper and on a telephone; and how its table of runs is sorted."""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --soft: #57606a; --line: #d0d7de; --box: #f6f8fa;
  --link: #0a58ca; --warn: #fff4d6; --edge: #d4a72c; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #15181d; --ink: #e6e8eb; --soft: #a0a7b1; --line: #3a414b; --box: #1d2127; --link: #7cb7ff;
    --warn: #33290f; --edge: #b98a1f; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
.page { max-width: 1160px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.5rem 0 0.3rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 0.6rem; padding-top: 0.6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.08rem; margin: 1.6rem 0 0.4rem; }
p, li { max-width: 76ch; }
a { color: var(--link); }
.lead, .soft, figcaption, caption, footer { color: var(--soft); }
nav { background: var(--box); border: 1px solid var(--line); border-radius: 8px; padding: 0.7rem 1rem;
  margin: 1.2rem 0; }
nav ol { columns: 2 16rem; margin: 0.2rem 0; padding-left: 1.4rem; }
figure { margin: 1.2rem 0 1.8rem; }
.drawing, .wide { overflow-x: auto; }
.drawing svg { display: block; width: 100%; height: auto; }
figcaption { font-size: 0.92rem; margin-top: 0.4rem; max-width: 90ch; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; margin: 0.6rem 0 1rem; }
caption { text-align: left; padding: 0 0 0.35rem; font-weight: 600; }
th, td { padding: 0.32rem 0.75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td.words, th.words { text-align: left; }
tbody th { font-weight: 500; }
thead th { background: var(--box); border-bottom: 2px solid var(--line); vertical-align: bottom; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.warning { background: var(--warn); border-left: 4px solid var(--edge); border-radius: 4px; padding: 0.5rem 1rem;
  margin: 0.8rem 0; }
.warning h3 { margin: 0.2rem 0; }
.warning ul { margin: 0.3rem 0; padding-left: 1.2rem; }
.law { font-family: "DejaVu Serif", Georgia, serif; font-style: italic; }
small { color: var(--soft); font-size: 0.86em; }
details { border: 1px solid var(--line); border-radius: 6px; padding: 0.4rem 0.9rem; margin: 0.7rem 0; }
summary { cursor: pointer; font-weight: 600; }
li, code, .words { overflow-wrap: anywhere; }
code { font-family: "DejaVu Sans Mono", ui-monospace, monospace; font-size: 0.88em; }
@media (max-width: 560px) {
  body { font-size: 15px; } h1 { font-size: 1.5rem; } .page { padding: 0.8rem 0.8rem 3rem; } nav ol { columns: 1; }
  th, td { padding: 0.3rem 0.5rem; } }
@media print {
  body { font-size: 10.5pt; background: none; } .page { max-width: none; padding: 0; } nav { display: none; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; } .wide, .drawing { overflow: visible; }
  .drawing svg { min-width: 0 !important; } table { font-size: 8pt; }
  table.sortable { font-size: 6.5pt; } th, td { padding: 0.12rem 0.3rem; } th, .words { white-space: normal; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = cell => cell.dataset.key ?? cell.textContent;
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((one, two) => key(one.cells[column]).localeCompare(key(two.cells[column]), "en", { numeric: false }));
    const numbers = rows.every(row => !isNaN(key(row.cells[column])));
    if (numbers) rows.sort((one, two) => key(one.cells[column]) - key(two.cells[column]));
    table.tBodies[0].append(...(down ? rows.reverse() : rows));
  }));
}
"""
