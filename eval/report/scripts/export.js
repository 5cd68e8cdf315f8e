// Every table as CSV and LaTeX, every figure as SVG: made from the page itself and saved by the browser.

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: `${type};charset=utf-8` }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function button(label, title, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  made.title = title;
  made.setAttribute("aria-label", title);
  made.addEventListener("click", action);
  return made;
}

function cellText(cell) {
  const copy = cell.cloneNode(true);
  copy.querySelectorAll("sub").forEach((sub) => sub.replaceWith(`_${sub.textContent}`));
  return copy.textContent.replace(/\s+/g, " ").trim();
}

// Rows of fields, all of one length. exact: the full numbers that cells carry in data-cells, one or more each; else the text that
// is shown. An empty list leaves a cell out of both. A heading over several fields that names but one becomes "x from", "x to".
function tableFields(table, exact) {
  const rows = [...table.rows].filter((row) => !row.classList.contains("heading")).map((row) => {
    let place = 0;
    return [...row.cells].map((cell) => {
      place += cell.colSpan;
      return { first: place - cell.colSpan, end: place, head: row.parentNode === table.tHead, fields: cellFields(cell, exact) };
    });
  });
  const widths = [];
  for (const { first, end, fields } of rows.flat()) {
    if (end - first === 1) widths[first] = Math.max(widths[first] ?? 0, fields.length);
  }
  const room = ({ first, end }) => widths.slice(first, end).reduce((sum, width) => sum + width, 0);
  return rows.map((row) => row.flatMap((cell) => spread(cell.fields, room(cell), cell.head)));
}

function cellFields(cell, exact) {
  const carried = cell.dataset.cells === undefined ? null : JSON.parse(cell.dataset.cells);
  return carried && (exact || carried.length === 0) ? carried : [cellText(cell)];
}

function spread(fields, room, head) {
  const [name] = fields;
  if (head && fields.length === 1 && room === 2) return [`${name} from`, `${name} to`];
  if (head && fields.length === 1 && room > 2) return Array.from({ length: room }, (_, index) => `${name} ${index + 1}`);
  return [...fields, ...Array(Math.max(0, room - fields.length)).fill("")];
}

// RFC 4180. Numbers get a plain minus; text that a spreadsheet would take for a formula gets an apostrophe.
function csvField(value) {
  const field = value === null || value === "–" ? "" : String(value);
  const number = field.replace(/^−/, "-").replace(/(?<=\d),(?=\d{3})/g, "");
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(number)) return number;
  const safe = /^[=+\-@\t\r]/.test(field) ? `'${field}` : field;
  return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
}

const tableCsv = (table) => tableFields(table, true).map((row) => row.map(csvField).join(",") + "\r\n").join("");

const LATEX = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "_": "\\_", "%": "\\%",
  "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
  "−": "$-$", "→": "$\\to$", "–": "--", "√": "$\\surd$", "·": "$\\cdot$", "…": "\\dots{}",
};
const latexField = (value) => String(value ?? "").replace(/[\\{}$&#_%~^<>|−→–√·…]/g, (sign) => LATEX[sign]);

function tableLatex(table) {
  const [head, ...body] = tableFields(table, false);
  const numeric = (column) => body.every((row) => /^[−+<\s]*[\d.,]|^–?$/.test(row[column] ?? ""));
  const columns = head.map((_, column) => (column > 0 && numeric(column) ? "r" : "l")).join("");
  const line = (row) => `${row.map(latexField).join(" & ")} \\\\`;
  return [`\\begin{tabular}{${columns}}`, "\\toprule", line(head), "\\midrule", ...body.map(line), "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

// A drawing that stands alone: variables become the colours of the light page, whatever the reader looks at.
async function figureSvg(view) {
  const drawing = await view.toSVG();
  const probe = document.createElement("span");
  probe.style.colorScheme = "light";
  document.body.append(probe);
  const resolved = (color) => {
    probe.style.color = color;
    return getComputedStyle(probe).color;
  };
  const standing = drawing.replace(/var\(--[\w-]+\)/g, resolved).replace(/currentColor/g, resolved("var(--ink)"));
  probe.remove();
  return standing;
}

function tools(...buttons) {
  const made = document.createElement("p");
  made.className = "tools";
  made.append(...buttons);
  return made;
}

function offerSvg(figure, view, name) {
  const action = async () => save(`${name}.svg`, "image/svg+xml", await figureSvg(view));
  figure.querySelector(".drawing").after(tools(button("SVG", `Save the figure ${name} as SVG`, action)));
}

function offerTable(table, name) {
  const csv = button("CSV", `Save the table ${name} as CSV`, () => save(`${name}.csv`, "text/csv", tableCsv(table)));
  const latex = button("LaTeX", `Save the table ${name} as LaTeX`, () => save(`${name}.tex`, "application/x-tex", tableLatex(table)));
  (table.closest(".scroll") ?? table).after(tools(csv, latex));
}

document.querySelectorAll("main section").forEach((section) => {
  const tables = [...section.querySelectorAll("table")].filter((table) => table.tHead);
  tables.forEach((table, index) => {
    const figure = table.closest("figure");
    const name = figure ? figure.id.replace(/^figure-/, "") : section.id + (tables.length > 1 ? `-${index + 1}` : "");
    offerTable(table, name);
  });
});
