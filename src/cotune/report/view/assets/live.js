"use strict";
// Renews the served page in place: what changed is exchanged, the rest stays as the reader left it.
(() => {
  const EVERY = 1000;
  const SLOW = 4000;
  const HELD_AT_MOST = 30000;
  const KEPT = "details, .scroll, pre";
  const main = document.querySelector("main");
  let shown = document.body.dataset.version;
  let timer = 0;
  let looking = false;
  let heldSince = 0;
  const served = new Map([...main.querySelectorAll(":scope > section")].map((section) => [section.id, section.innerHTML]));
  const intro = (page) => [...page.querySelectorAll("main > :not(section)")];
  const markup = (elements) => elements.map((element) => element.outerHTML).join("");
  let servedIntro = markup(intro(document));
  // Another version of cotune may make another page: it is loaded whole.
  const frame = (page) => [...page.querySelectorAll("style, script:not([type]), main > section")].map((e) => e.id || e.textContent).join("\n");
  let servedFrame = "";
  const choices = new Map();

  const badge = document.createElement("span");
  badge.id = "live";
  badge.setAttribute("role", "status");
  document.querySelector(".bar").insertBefore(badge, document.getElementById("theme"));
  const bar = document.createElement("div");
  bar.id = "live-error";
  bar.setAttribute("role", "alert");
  bar.hidden = true;
  document.body.append(bar);

  function tell(error, lost = false) {
    const ended = document.body.dataset.finished === "yes";
    badge.className = lost ? "lost" : ended ? "" : "on";
    const text = lost ? "Not connected" : ended ? "Ended" : "Live";
    if (badge.textContent !== text) badge.textContent = text;
    if (bar.textContent !== error) bar.textContent = error;
    bar.hidden = !error;
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-switch]")) choices.set(event.target.dataset.switch, event.target.value);
  });

  // A selection in the reader's hand is not taken away at once.
  function held() {
    const selection = getSelection();
    if (selection.isCollapsed || !main.contains(selection.anchorNode)) { heldSince = 0; return false; }
    heldSince ||= Date.now();
    return Date.now() - heldSince < HELD_AT_MOST;
  }

  // How to find an element again in a section that was made anew.
  function address(element) {
    const section = element.closest("main > section");
    if (!section) return null;
    const name = ["id", "data-prompt", "data-switch"].find((attribute) => element.hasAttribute(attribute));
    const selector = name ? `[${name}="${CSS.escape(element.getAttribute(name))}"]` : element.localName;
    const scope = element === section ? main : section;
    return { scope, selector, place: [...scope.querySelectorAll(selector)].indexOf(element) };
  }
  const find = (at) => at?.scope.querySelectorAll(at.selector)[at.place] ?? null;

  // The panel gives the focus back to what opened it, which may have been made anew under it.
  let lastFocus = null;
  main.addEventListener("focusin", (event) => { lastFocus = address(event.target); });
  document.addEventListener("close", () => {
    if (!main.contains(document.activeElement)) find(lastFocus)?.focus({ preventScroll: true });
  }, true);

  // The first thing that the reader sees begin below the bar stays where it is.
  function holdPlace() {
    const line = document.querySelector("header").getBoundingClientRect().bottom;
    if (scrollY === 0) return () => {};
    let nearest = null;
    let best = Infinity;
    for (const element of main.querySelectorAll(":scope > section, h2, h3, figure, table, button[data-prompt]")) {
      const box = element.getBoundingClientRect();
      const distance = box.top >= line ? box.top - line : 10000 + line - box.top;
      if (box.height && distance < best) [nearest, best] = [element, distance];
    }
    if (!nearest) return () => {};
    const at = address(nearest);
    const before = nearest.getBoundingClientRect().top;
    return () => {
      const now = find(at);
      if (now) scrollBy({ top: now.getBoundingClientRect().top - before, behavior: "instant" });
    };
  }

  function exchangeSection(section, fresh) {
    const kept = [...section.querySelectorAll(KEPT)].map((e) => [e.open, e.scrollLeft, e.scrollTop]);
    section.replaceChildren(...fresh.childNodes);
    [...section.querySelectorAll(KEPT)].forEach((element, place) => {
      const [open, left, top] = kept[place] ?? [];
      if (open !== undefined && element.localName === "details") element.open = open;
      if (left) element.scrollLeft = left;
      if (top) element.scrollTop = top;
    });
    for (const select of section.querySelectorAll("[data-switch]")) {
      const chosen = choices.get(select.dataset.switch);
      if (![...select.options].some((option) => option.value === chosen)) continue;
      select.value = chosen;
      switchView(select);
    }
  }

  function exchange(page) {
    const data = JSON.parse(page.getElementById("data").textContent);
    const sameRows = JSON.stringify(data.tables) === JSON.stringify(DATA.tables);
    Object.assign(DATA, data);
    const putBack = holdPlace();
    const focused = document.activeElement?.closest("main") ? address(document.activeElement) : null;
    for (const section of main.querySelectorAll(":scope > section")) {
      const fresh = page.getElementById(section.id);
      const text = fresh.innerHTML;
      if (text === served.get(section.id) && (section.id !== "matrix" || sameRows)) continue;
      served.set(section.id, text);
      exchangeSection(section, fresh);
      if (section.id === "matrix") startMatrix();
    }
    const freshIntro = intro(page);
    const text = markup(freshIntro);
    if (text !== servedIntro) {
      intro(document).forEach((element) => element.remove());
      main.prepend(...freshIntro);
      servedIntro = text;
    }
    showCopyButtons();
    document.getElementById("tip").hidden = true;
    document.title = page.title;
    document.body.dataset.finished = page.body.dataset.finished;
    putBack();
    const again = find(focused);
    if (again && again !== document.activeElement) again.focus({ preventScroll: true });
  }

  class Lost extends Error {}

  async function ask(path) {
    const reply = await fetch(path, { cache: "no-store" }).catch(() => { throw new Lost(); });
    if (!reply.ok) throw new Error(`the server answered ${reply.status}`);
    return reply.text();
  }

  async function look() {
    if (looking) return;
    looking = true;
    clearTimeout(timer);
    let pause = document.hidden ? SLOW : EVERY;
    try {
      const state = JSON.parse(await ask("/state"));
      if (state.version !== shown && !held()) {
        const page = new DOMParser().parseFromString(await ask("/"), "text/html");
        if (frame(page) !== servedFrame) { location.reload(); return; }
        exchange(page);
        shown = page.body.dataset.version;
      }
      tell(state.error);
    } catch (error) {
      const lost = error instanceof Lost;
      tell(lost ? "cotune view does not answer; this page stays as it is." : `The page cannot be renewed: ${error.message}`, lost);
      pause = SLOW;
    } finally {
      looking = false;
      timer = setTimeout(look, pause);
    }
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  document.addEventListener("DOMContentLoaded", () => { servedFrame = frame(document); tell(""); look(); });
})();
