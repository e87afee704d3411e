// The table of test rows against arms.
(() => {
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
  const rows = DATA.rows.map((row) => ({ ...row, pattern: row.answers.map((a) => (a === row.gold ? "✓" : "✗")).join("") }));
  let page = 0;
  let pattern = "";

  const tests = {
    all: () => true,
    differ: (row) => row.pattern.includes("✓") && row.pattern.includes("✗"),
    wrong: (row) => !row.pattern.includes("✓"),
    right: (row) => !row.pattern.includes("✗"),
  };

  function marks(text) {
    return make("i", { "aria-hidden": "true" }, ...[...text].map((m) => make("span", { class: m === "✓" ? "ok" : "no", text: m })));
  }

  function chosen() {
    const words = search.value.trim().toLowerCase();
    return rows.filter((row) => tests[view.value](row) && (!pattern || row.pattern === pattern)
      && (label.value === "" || row.gold === Number(label.value)) && (!words || row.text.toLowerCase().includes(words)));
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
    parts.push(make("p", {}, "Right label: ", make("b", { text: DATA.labels[row.gold], dir: "auto" })));
    DATA.arms.forEach((arm, place) => {
      const answer = row.answers[place];
      const right = answer === row.gold;
      parts.push(make("h3", {}, `${arm}: `, make("bdi", { text: DATA.labels[answer] }), " ",
        make("span", { class: right ? "ok" : "no", text: right ? "✓ right" : "✗ wrong" })));
      for (const [index, share] of row.likely[place]) {
        const kind = index === row.gold ? "gold" : index === answer ? "said" : "";
        parts.push(make("div", { class: `prob ${kind}` }, make("span", { text: DATA.labels[index], dir: "auto" }), bar(share),
          make("span", { text: `${percent(share)}%` })));
      }
    });
    openPanel(`Row ${row.id}`, ...parts);
  }

  function draw() {
    const found = chosen();
    page = Math.min(page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
    count.textContent = `${found.length} of ${rows.length} rows`;
    body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((row) => make("tr", {},
      make("td", {}, make("button", { type: "button", class: "open", text: row.text.slice(0, 160) || "(empty)", dir: "auto", on: () => openRow(row) })),
      make("td", { class: "gold", text: DATA.labels[row.gold], dir: "auto" }),
      ...row.answers.map((answer, place) => make("td", {
        class: `cell ${answer === row.gold ? "ok" : "no"}`, text: answer === row.gold ? "✓" : "✗",
        "data-tip": `${DATA.arms[place]}: ${DATA.labels[answer]}`,
        "aria-label": answer === row.gold ? "right" : "wrong",
      })))));
    const pages = Math.ceil(found.length / PAGE);
    pager.replaceChildren();
    if (pages > 1) {
      pager.append(
        make("button", { type: "button", text: "Back", disabled: page === 0, on: () => { page -= 1; draw(); } }),
        make("span", { text: `page ${page + 1} of ${pages}` }),
        make("button", { type: "button", text: "Next", disabled: page === pages - 1, on: () => { page += 1; draw(); } }));
    }
    for (const button of patterns.children) button.setAttribute("aria-pressed", String(button.dataset.pattern === pattern));
  }

  const sizes = new Map();
  for (const row of rows) sizes.set(row.pattern, (sizes.get(row.pattern) ?? 0) + 1);
  for (const [text, size] of [...sizes].sort((a, b) => b[1] - a[1])) {
    const told = [...text].map((m, i) => `${DATA.arms[i]} ${m === "✓" ? "right" : "wrong"}`);
    patterns.append(make("button", {
      type: "button", "data-pattern": text, "data-tip": told.join("\n"), "aria-label": `${told.join(", ")}: ${size} rows`,
      on: () => { pattern = pattern === text ? "" : text; page = 0; draw(); },
    }, marks(text), make("span", { text: size })));
  }
  for (const control of [view, label]) control.addEventListener("change", () => { page = 0; draw(); });
  search.addEventListener("input", () => { page = 0; draw(); });
  draw();
})();
