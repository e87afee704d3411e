// Rows against who answered them. What the reader chose outlives the table, which may be made anew.
const matrixChoice = { which: "", view: "all", label: "", words: "", pattern: "", page: 0 };
function startMatrix() {
  const table = document.getElementById("matrix-table");
  if (!table) return;
  const PAGE = 50;
  const body = table.tBodies[0];
  const which = document.getElementById("matrix-which");
  const view = document.getElementById("matrix-view");
  const label = document.getElementById("matrix-label");
  const search = document.getElementById("matrix-text");
  const count = document.getElementById("matrix-count");
  const pager = document.getElementById("matrix-pager");
  const patterns = document.getElementById("matrix-patterns");
  const chosen = matrixChoice;
  let shown = null;
  let rows = [];

  const tests = {
    all: () => true,
    differ: (row) => row.pattern.includes("✓") && row.pattern.includes("✗"),
    wrong: (row) => !row.pattern.includes("✓"),
    right: (row) => !row.pattern.includes("✗"),
  };

  function marks(text) {
    return make("i", { "aria-hidden": "true" }, ...[...text].map((m) => make("span", { class: m === "✓" ? "ok" : "no", text: m })));
  }

  function matching() {
    const words = chosen.words.trim().toLowerCase();
    return rows.filter((row) => tests[chosen.view](row) && (!chosen.pattern || row.pattern === chosen.pattern)
      && (chosen.label === "" || shown.labels[row.gold] === chosen.label) && (!words || row.text.toLowerCase().includes(words)));
  }

  function choose(changes) {
    Object.assign(chosen, { page: 0 }, changes);
    draw();
  }

  function bar(share) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", "100%");
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("width", `${Math.max(0.5, 100 * share)}%`);
    rect.setAttribute("height", "12");
    rect.setAttribute("rx", "2");
    svg.append(rect);
    return svg;
  }

  function openRow(row) {
    const parts = [make("pre", { text: row.text, dir: "auto" })];
    if (row.missing) parts.push(make("p", { class: "quiet", text: `${row.missing.toLocaleString("en")} more characters are left out here.` }));
    parts.push(make("p", {}, row.changes.length ? "Right answer: " : "Right label: ", make("b", { text: shown.labels[row.gold], dir: "auto" })));
    shown.columns.forEach((column, place) => {
      const answer = row.answers[place];
      const right = row.right[place];
      parts.push(make("h3", {}, `${column.name}: `, make("bdi", { text: shown.labels[answer] }), " ",
        make("span", { class: right ? "ok" : "no", text: right ? "✓ right" : "✗ wrong" })));
      if (column.about) parts.push(make("p", { class: "quiet" }, `${column.about}: `, make("bdi", { text: column.text })));
      if (row.changes[place]?.length) {
        parts.push(make("p", { dir: "auto" }, ...row.changes[place].map(([kind, text]) =>
          make(kind === "-" ? "del" : kind === "+" ? "ins" : "span", { text }))));
      }
      for (const [index, share] of row.likely[place]) {
        const kind = index === row.gold ? "gold" : index === answer ? "said" : "";
        parts.push(make("div", { class: `prob ${kind}` }, make("span", { text: shown.labels[index], dir: "auto" }), bar(share),
          make("span", { text: `${percent(share)}%` })));
      }
    });
    openPanel(`Row ${row.id}`, ...parts);
  }

  function draw() {
    const found = matching();
    const pages = Math.ceil(found.length / PAGE);
    chosen.page = Math.min(chosen.page, Math.max(0, pages - 1));
    const page = chosen.page;
    count.textContent = `${found.length} of ${rows.length} rows${shown.note ? `, ${shown.note}` : ""}`;
    body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((row) => make("tr", {},
      make("td", {}, make("button", { type: "button", class: "open", text: row.text.slice(0, 160) || "(empty)", dir: "auto", on: () => openRow(row) })),
      make("td", { class: "gold", text: shown.labels[row.gold], dir: "auto" }),
      ...row.answers.map((answer, place) => make("td", {
        class: `cell ${row.right[place] ? "ok" : "no"}`, text: row.right[place] ? "✓" : "✗",
        "data-tip": `${shown.columns[place].name}: ${shown.labels[answer]}`,
        "aria-label": row.right[place] ? "right" : "wrong",
      })))));
    pager.replaceChildren();
    if (pages > 1) {
      pager.append(
        make("button", { type: "button", text: "Back", disabled: page === 0, on: () => choose({ page: page - 1 }) }),
        make("span", { text: `page ${page + 1} of ${pages}` }),
        make("button", { type: "button", text: "Next", disabled: page === pages - 1, on: () => choose({ page: page + 1 }) }));
    }
    for (const button of patterns.children) button.setAttribute("aria-pressed", String(button.dataset.pattern === chosen.pattern));
  }

  // Who answered, the labels and the patterns of the chosen table.
  function start() {
    if (!Object.hasOwn(DATA.tables, chosen.which)) chosen.which = Object.keys(DATA.tables)[0];
    shown = DATA.tables[chosen.which];
    rows = shown.rows.map((row) => ({ ...row, pattern: row.right.map((ok) => (ok ? "✓" : "✗")).join("") }));
    const written = rows.some((row) => row.changes.length);
    table.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col", text: "Row" }), make("th", { scope: "col", text: written ? "Right answer" : "Label" }),
      ...shown.columns.map((column) => make("th", { scope: "col", class: "arm" }, column.prompt
        ? make("button", { type: "button", "data-prompt": column.prompt, "data-tip": `${column.about}\n${column.text}`, text: column.name })
        : column.name))));
    const labels = new Map();
    if (!written) for (const row of rows) labels.set(row.gold, (labels.get(row.gold) ?? 0) + 1);
    label.replaceChildren(make("option", { value: "", text: "any" }),
      ...[...labels].sort((a, b) => a[0] - b[0]).map(([index, size]) =>
        make("option", { value: shown.labels[index], text: `${shown.labels[index].slice(0, 40)} (${size})` })));
    const sizes = new Map();
    for (const row of rows) sizes.set(row.pattern, (sizes.get(row.pattern) ?? 0) + 1);
    patterns.replaceChildren(...[...sizes].sort((a, b) => b[1] - a[1]).map(([text, size]) => {
      const told = [...text].map((m, i) => `${shown.columns[i].name} ${m === "✓" ? "right" : "wrong"}`);
      return make("button", {
        type: "button", "data-pattern": text, "data-tip": told.join("\n"), "aria-label": `${told.join(", ")}: ${size} row${size === 1 ? "" : "s"}`,
        on: () => choose({ pattern: chosen.pattern === text ? "" : text }),
      }, marks(text), make("span", { text: size }));
    }));
    if (!sizes.has(chosen.pattern)) chosen.pattern = "";
    if (![...label.options].some((option) => option.value === chosen.label)) chosen.label = "";
    [which.value, view.value, label.value, search.value] = [chosen.which, chosen.view, chosen.label, chosen.words];
    draw();
  }

  which.addEventListener("change", () => {
    Object.assign(chosen, { which: which.value, pattern: "", page: 0 });
    start();
  });
  view.addEventListener("change", () => choose({ view: view.value }));
  label.addEventListener("change", () => choose({ label: label.value }));
  search.addEventListener("input", () => choose({ words: search.value }));
  start();
}
startMatrix();
