// The table of test rows against arms. What the reader chose outlives the table, which may be made anew.
const matrixChoice = { view: "all", label: "", words: "", pattern: "", page: 0 };
function startMatrix() {
  const table = document.getElementById("matrix-table");
  if (!table) return;
  const PAGE = 50;
  const body = table.tBodies[0];
  const view = document.getElementById("matrix-view");
  const label = document.getElementById("matrix-label");
  const search = document.getElementById("matrix-text");
  const count = document.getElementById("matrix-count");
  const pager = document.getElementById("matrix-pager");
  const patterns = document.getElementById("matrix-patterns");
  const rows = DATA.rows.map((row) => ({ ...row, pattern: row.right.map((ok) => (ok ? "✓" : "✗")).join("") }));
  const chosen = matrixChoice;

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
      && (chosen.label === "" || row.gold === Number(chosen.label)) && (!words || row.text.toLowerCase().includes(words)));
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
    parts.push(make("p", {}, row.changes.length ? "Right answer: " : "Right label: ", make("b", { text: DATA.labels[row.gold], dir: "auto" })));
    DATA.arms.forEach((arm, place) => {
      const answer = row.answers[place];
      const right = row.right[place];
      parts.push(make("h3", {}, `${arm}: `, make("bdi", { text: DATA.labels[answer] }), " ",
        make("span", { class: right ? "ok" : "no", text: right ? "✓ right" : "✗ wrong" })));
      if (row.changes[place]?.length) {
        parts.push(make("p", { dir: "auto" }, ...row.changes[place].map(([kind, text]) =>
          make(kind === "-" ? "del" : kind === "+" ? "ins" : "span", { text }))));
      }
      for (const [index, share] of row.likely[place]) {
        const kind = index === row.gold ? "gold" : index === answer ? "said" : "";
        parts.push(make("div", { class: `prob ${kind}` }, make("span", { text: DATA.labels[index], dir: "auto" }), bar(share),
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
    count.textContent = `${found.length} of ${rows.length} rows`;
    body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((row) => make("tr", {},
      make("td", {}, make("button", { type: "button", class: "open", text: row.text.slice(0, 160) || "(empty)", dir: "auto", on: () => openRow(row) })),
      make("td", { class: "gold", text: DATA.labels[row.gold], dir: "auto" }),
      ...row.answers.map((answer, place) => make("td", {
        class: `cell ${row.right[place] ? "ok" : "no"}`, text: row.right[place] ? "✓" : "✗",
        "data-tip": `${DATA.arms[place]}: ${DATA.labels[answer]}`,
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

  const sizes = new Map();
  for (const row of rows) sizes.set(row.pattern, (sizes.get(row.pattern) ?? 0) + 1);
  for (const [text, size] of [...sizes].sort((a, b) => b[1] - a[1])) {
    const told = [...text].map((m, i) => `${DATA.arms[i]} ${m === "✓" ? "right" : "wrong"}`);
    patterns.append(make("button", {
      type: "button", "data-pattern": text, "data-tip": told.join("\n"), "aria-label": `${told.join(", ")}: ${size} rows`,
      on: () => choose({ pattern: chosen.pattern === text ? "" : text }),
    }, marks(text), make("span", { text: size })));
  }
  if (!sizes.has(chosen.pattern)) chosen.pattern = "";
  if (![...label.options].some((option) => option.value === chosen.label)) chosen.label = "";
  [view.value, label.value, search.value] = [chosen.view, chosen.label, chosen.words];
  view.addEventListener("change", () => choose({ view: view.value }));
  label.addEventListener("change", () => choose({ label: label.value }));
  search.addEventListener("input", () => choose({ words: search.value }));
  draw();
}
startMatrix();
