"use strict";
// Everything from outside is set through textContent: nothing here builds markup out of text.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") element.textContent = value;
    else if (name === "on") element.addEventListener("click", value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function percent(value) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(1);
}

// Theme: the system's unless the reader chose one.
const themeButton = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}
function nameTheme() {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
}
try {
  const stored = localStorage.getItem("cotune-theme");
  if (stored === "dark" || stored === "light") document.documentElement.dataset.theme = stored;
} catch { /* Pages from disk may have no storage. */ }
themeButton.hidden = false;
nameTheme();
systemDark.addEventListener("change", nameTheme);
themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("cotune-theme", document.documentElement.dataset.theme); } catch { /* As above. */ }
  nameTheme();
});

// Tips on hovering and on focus.
const tip = document.getElementById("tip");
function showTip(target, x, y) {
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6));
  const top = y + 18 + box.height > innerHeight ? Math.max(6, y - box.height - 12) : y + 18;
  tip.style.transform = `translate(${left}px, ${top}px)`;
}
document.addEventListener("pointermove", (event) => {
  const target = event.target.closest?.("[data-tip]");
  if (target) showTip(target, event.clientX, event.clientY);
  else tip.hidden = true;
});
document.addEventListener("pointerleave", () => { tip.hidden = true; });
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
document.addEventListener("focusin", (event) => {
  const target = event.target.closest?.("[data-tip]");
  if (!target || !target.matches(":focus-visible")) return;
  const box = target.getBoundingClientRect();
  showTip(target, box.right, box.top);
});
document.addEventListener("focusout", () => { tip.hidden = true; });

// The panel at the side.
const panel = document.getElementById("panel");
function openPanel(title, ...children) {
  panel.replaceChildren(
    make("div", { class: "panel-head" },
      make("h2", { id: "panel-title", text: title, dir: "auto" }),
      make("button", { type: "button", text: "Close", on: () => panel.close() })),
    ...children);
  tip.hidden = true;
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
}
panel.addEventListener("click", (event) => {
  if (event.target === panel && event.clientX < panel.getBoundingClientRect().left) panel.close();
});

function factTable(pairs) {
  return make("table", { class: "facts" }, ...pairs.map(([name, value]) =>
    make("tr", {}, make("th", { text: name }), make("td", { text: value }))));
}

function scoreCell(found, column) {
  switch (column) {
    case "score": return make("td", { text: percent(found.score) });
    case "95% interval": return make("td", { text: found.ci ? `${percent(found.ci[0])} to ${percent(found.ci[1])}` : "–" });
    case "log-loss": return make("td", { text: found.log_loss === null ? "–" : found.log_loss.toFixed(3) });
    case "adapter": return make("td", {}, make("code", { text: found.adapter.slice(0, 12) }));
    default: return make("td", { text: found[column] });
  }
}

function openPrompt(id) {
  const prompt = Object.hasOwn(DATA.prompts, id) ? DATA.prompts[id] : null;
  if (!prompt) return;
  const parts = [];
  const facts = prompt.facts.map((pair) => pair);
  facts.push(["Id", id]);
  if (prompt.tag) facts.unshift(["Role", prompt.tag === "seed" ? "the seed prompt" : "the winner"]);
  parts.push(factTable(facts));
  parts.push(make("h3", { text: "The prompt" }), make("pre", { text: prompt.text, dir: "auto" }));
  if (prompt.missing) parts.push(make("p", { class: "quiet", text: `${prompt.missing.toLocaleString("en")} more characters are left out here.` }));
  if (prompt.parent) {
    parts.push(make("h3", { text: "What changed from its parent" }));
    if (prompt.diff) {
      const tags = { "=": "span", "-": "del", "+": "ins" };
      parts.push(make("pre", { id: "diff", dir: "auto" }, ...prompt.diff.map(([step, text]) => make(tags[step], { text }))));
    } else {
      parts.push(make("p", { class: "quiet", text: "The texts are too long to be compared here." }));
    }
    parts.push(make("p", {}, ...prompt.parents.map((parent) =>
      make("button", { type: "button", text: `Open parent ${parent}`, on: () => openPrompt(parent) }))));
  }
  parts.push(make("h3", { text: DATA.dev.title }));
  if (prompt.scores.length) {
    parts.push(make("div", { class: "scroll" }, make("table", { class: "panel-scores" },
      make("tr", {}, ...["", ...DATA.dev.columns].map((text) => make("th", { text }))),
      ...prompt.scores.map((s) => make("tr", {}, make("td", { text: s.what }), ...DATA.dev.columns.map((name) => scoreCell(s, name)))))));
  } else {
    parts.push(make("p", { class: "quiet", text: "It was not scored." }));
  }
  openPanel(prompt.title, ...parts);
}
document.addEventListener("click", (event) => {
  const target = event.target.closest?.("[data-prompt]");
  if (target) openPrompt(target.dataset.prompt);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== " ") return;
  const target = event.target.closest?.("circle[data-prompt]");
  if (!target) return;
  event.preventDefault();
  openPrompt(target.dataset.prompt);
});

// Selects that show one of several views.
function switchView(select) {
  const views = document.querySelector(`[data-choices="${select.dataset.switch}"]`).children;
  for (const view of views) view.hidden = view.dataset.choice !== select.value;
}
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-switch]")) switchView(event.target);
});

function showCopyButtons() {
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
}
showCopyButtons();
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  const text = button.closest(".copy").querySelector("pre");
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } catch {
    getSelection().selectAllChildren(text);
  }
});

// The section one reads is marked in the bar.
const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
const inView = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) inView[entry.isIntersecting ? "add" : "delete"](entry.target.id);
  const first = [...links.keys()].find((id) => inView.has(id));
  for (const [id, link] of links) link.classList.toggle("here", id === first);
  if (!first) return;
  const bar = document.querySelector("nav");
  bar.scrollLeft += links.get(first).getBoundingClientRect().left - bar.getBoundingClientRect().left - 20;
}, { rootMargin: "-70px 0px -75% 0px" });
for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
