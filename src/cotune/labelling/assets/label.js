"use strict";
// Shows one row after another and sends what is said to it; every answer is on disk before the next row comes.
(() => {
  const MOST_SHOWN = 24;
  const token = location.hash.slice(1);
  const at = (id) => document.getElementById(id);
  const [row, labels, typing, typed, told, progress, about] =
    ["row", "labels", "typing", "typed", "told", "progress", "about"].map(at);
  let state = null;
  let shown = [];
  let busy = false;

  const element = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text }, more);

  async function ask(path, body) {
    const options = { headers: { Authorization: `Bearer ${token}` } };
    if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    const reply = await fetch(path, options);
    if (reply.status === 401) throw new Error("Open the address that cotune label printed, including the part after #.");
    return reply.json();
  }

  // Labels that a typed text may mean, in the order in which the command line would take them.
  function rank(label, text) {
    const name = label.toLowerCase();
    if (name === text) return -1;
    if (name.startsWith(text)) return 0;
    if (name.split(/[\s_-]+/).some((word) => word.startsWith(text))) return 1;
    return name.includes(text) ? 2 : 3;
  }

  function drawLabels() {
    const text = typed.value.trim().toLowerCase();
    shown = state.labels;
    if (!state.keyed) {
      const ranked = state.labels.map((one) => [rank(one.label, text), one]).filter(([place]) => place < 3);
      shown = ranked.sort((a, b) => a[0] - b[0]).map(([, one]) => one).slice(0, MOST_SHOWN);
    }
    labels.replaceChildren(...shown.map((one, place) => {
      const button = element("button", "");
      button.style.setProperty("--share", `${(100 * one.share).toFixed(1)}%`);
      if (one.label === state.guess) button.classList.add("guess");
      if (!state.keyed && place === 0) button.classList.add("first");
      if (one.key) button.append(element("kbd", one.key));
      button.append(element("span", one.label, { dir: "auto" }), element("small", one.share.toFixed(2)));
      button.addEventListener("click", () => act("label", one.label));
      return button;
    }));
  }

  function draw() {
    progress.textContent = `${state.at} of ${state.of} done, ${state.labelled} labelled, ${state.skipped} skipped`;
    about.textContent = state.at ? `The model was right on ${state.agreed} of ${state.labelled}. Labels are saved in ${state.out}.` : `Labels are saved in ${state.out}.`;
    const done = state.fields === null;
    typing.hidden = done || state.keyed;
    at("skip").disabled = done;
    at("undo").disabled = state.at === 0;
    if (done) {
      row.replaceChildren(element("div", "All rows are done. Quit ends the command, Undo goes back."));
      labels.replaceChildren();
      return;
    }
    row.replaceChildren(...state.fields.flatMap(([name, text]) =>
      [...(state.fields.length > 1 ? [element("b", name)] : []), element("div", text, { dir: "auto" })]));
    typed.value = "";
    drawLabels();
    if (!state.keyed) typed.focus();
  }

  async function act(what, label) {
    if (busy || !state) return;
    busy = true;
    try {
      const found = await ask("/answer", { do: what, at: state.at, label });
      told.textContent = found.error || "";
      if (found.of !== undefined) state = found;
      if (what === "quit") {
        row.replaceChildren(element("div", "The command has ended; this page can be closed."));
        labels.replaceChildren();
        typing.hidden = true;
        for (const id of ["skip", "undo", "quit"]) at(id).disabled = true;
        state = null;
      } else draw();
    } catch (error) {
      told.textContent = error instanceof TypeError ? "The command does not answer; is it still running?" : error.message;
    } finally {
      busy = false;
    }
  }

  for (const id of ["skip", "undo", "quit"]) at(id).addEventListener("click", () => act(id));
  typed.addEventListener("input", drawLabels);
  document.addEventListener("keydown", (event) => {
    if (!state || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
    const key = event.key;
    const writes = !state.keyed && state.fields !== null;
    if (key === "Enter" && event.target.tagName !== "BUTTON" && state.fields !== null) {
      const label = writes ? shown[0] && shown[0].label : state.guess;
      if (label) act("label", label);
    } else if (writes) {
      // Letters belong to the text; commands are on keys that write nothing.
      if (key === "Escape") act("skip");
      else if (key === "Backspace" && typed.value === "") act("undo");
      else return;
    } else if (key === "s" || key === "u" || key === "q") {
      if (key !== "s" || state.fields !== null) act({ s: "skip", u: "undo", q: "quit" }[key]);
    } else if (key === "Backspace") act("undo");
    else {
      const one = state.labels.find((each) => each.key === key);
      if (!one) return;
      act("label", one.label);
    }
    event.preventDefault();
  });

  ask("/state").then((found) => {
    state = found;
    if (!state.keyed) for (const [id, name] of [["skip", "Esc"], ["undo", "Backspace"]]) at(id).querySelector("kbd").textContent = name;
    if (!state.keyed) at("quit").querySelector("kbd").remove();
    draw();
  }).catch((error) => { told.textContent = error.message; });
})();
