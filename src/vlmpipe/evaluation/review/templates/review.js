"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const sheet = document.body.dataset.sheet;
  const items = [...document.querySelectorAll("article.item")];
  const names = items.map((item) => item.dataset.item);
  const choices = ["1", "2", "tie", "both_bad"];
  const store = `vlmpipe-review-${sheet}`;
  const unmarked = {
    everywhere: "Differences cannot be marked in this pair: the answers are too long, or have too little in common.",
    drawing: "Differences cannot be marked in these drawings. T shows the texts, where they are.",
  };
  const state = { rater: "", verdicts: {}, history: [], place: 0, begun: false };
  let shownAt = performance.now();

  const known = (name) => Object.hasOwn(state.verdicts, name);
  const judged = () => names.filter(known).length;

  function tell(text) {
    byId("notice").textContent = text;
    byId("notice").hidden = !text;
  }

  function tellOfMarks() {
    const item = items[state.place];
    const wanted = item && document.body.classList.contains("with-marks");
    const marks = wanted ? [...item.querySelectorAll(".answers mark, .answers .off")] : [];
    let text = "";
    if (wanted && !marks.length) text = unmarked.everywhere;
    else if (wanted && !marks.some((mark) => mark.getClientRects().length)) text = unmarked.drawing;
    if (text || Object.values(unmarked).includes(byId("notice").textContent)) tell(text);
  }

  function save() {
    try {
      localStorage.setItem(store, JSON.stringify(state));
    } catch {
      tell("This browser does not keep your verdicts: download them before you close the page.");
    }
  }

  // What is stored may be of an older page, or damaged: only what fits is taken.
  function load() {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(store));
    } catch {
      return;
    }
    if (kept === null || typeof kept !== "object") return;
    for (const name of names) {
      const verdict = Object.hasOwn(kept.verdicts ?? {}, name) ? kept.verdicts[name] : null;
      if (verdict && choices.includes(verdict.choice)) {
        state.verdicts[name] = { choice: verdict.choice, seconds: Number(verdict.seconds) || 0 };
      }
    }
    if (Array.isArray(kept.history)) state.history = kept.history.filter((n) => names.includes(n));
    if (typeof kept.rater === "string") state.rater = kept.rater;
    if (Number.isInteger(kept.place)) state.place = Math.max(0, Math.min(items.length, kept.place));
    state.begun = kept.begun === true;
  }

  function show() {
    const atEnd = state.place >= items.length;
    items.forEach((item, place) => { item.hidden = place !== state.place; });
    byId("finished").hidden = !atEnd;
    byId("place").textContent = Math.min(state.place + 1, items.length);
    const open = items.length - judged();
    byId("state").textContent = open ? `· ${open} open` : "· all judged";
    byId("track").style.width = `${(100 * judged()) / items.length}%`;
    const verdict = atEnd ? undefined : state.verdicts[names[state.place]];
    for (const button of document.querySelectorAll("[data-choice]")) {
      button.disabled = atEnd;
      button.setAttribute("aria-pressed", String(verdict?.choice === button.dataset.choice));
    }
    byId("back").disabled = state.place === 0;
    byId("next").disabled = atEnd || (state.place === items.length - 1 && open > 0);
    byId("undo").disabled = state.history.length === 0;
    for (const [place, side] of [["one", "1"], ["two", "2"]]) {
      if (atEnd) break;
      items[state.place].querySelector(`.${place}`).classList.toggle("won", verdict?.choice === side);
    }
    tellOfMarks();
    shownAt = performance.now();
  }

  function go(place) {
    const last = judged() === items.length ? items.length : items.length - 1;
    state.place = Math.max(0, Math.min(last, place));
    save();
    show();
    window.scrollTo(0, 0);
  }

  function nextOpen() {
    const after = [...names.keys()].map((n) => (state.place + 1 + n) % names.length);
    const open = after.find((place) => !known(names[place]));
    go(open ?? items.length);
  }

  function choose(choice) {
    if (state.place >= items.length) return;
    const name = names[state.place];
    const seconds = Math.round((performance.now() - shownAt) / 100) / 10;
    state.verdicts[name] = { choice, seconds };
    state.history = [...state.history.filter((other) => other !== name), name];
    tell("");
    nextOpen();
  }

  function undo() {
    const name = state.history.pop();
    if (name === undefined) return;
    delete state.verdicts[name];
    go(names.indexOf(name));
  }

  function download() {
    const rater = state.rater.trim();
    if (!rater) {
      tell("Write your name first: it tells the files of several people apart.");
      byId("rater").focus();
      return;
    }
    const answers = names.filter(known).map((item) => ({ item, ...state.verdicts[item] }));
    const content = { format: "vlmpipe-review", version: 1, sheet, rater, answers };
    const file = new Blob([JSON.stringify(content, null, 2)], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `review-${sheet.slice(0, 6)}-${rater.replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    const open = items.length - judged();
    tell(open ? `Downloaded, with ${open} pairs still open.` : "Downloaded. Thank you!");
  }

  function toggle(button, name) {
    const on = document.body.classList.toggle(name);
    byId(button).setAttribute("aria-pressed", String(on));
    tellOfMarks();
  }

  function enlarge(picture) {
    const on = !picture.classList.contains("large");
    for (const other of document.querySelectorAll(".picture.large")) other.classList.remove("large");
    picture.classList.toggle("large", on);
  }

  const keys = {
    1: () => choose("1"),
    2: () => choose("2"),
    3: () => choose("tie"),
    "=": () => choose("tie"),
    4: () => choose("both_bad"),
    0: () => choose("both_bad"),
    arrowleft: () => go(state.place - 1),
    arrowright: () => go(state.place + 1),
    u: undo,
    backspace: undo,
    r: () => {
      toggle("reference", "with-reference");
      items[state.place]?.querySelector(".reference").scrollIntoView({ block: "nearest" });
    },
    t: () => toggle("raw", "with-raw"),
    d: () => toggle("marks", "with-marks"),
    z: () => {
      const picture = items[state.place]?.querySelector(".picture");
      if (picture) enlarge(picture);
    },
    escape: () => document.querySelector(".picture.large")?.classList.remove("large"),
    "?": () => byId("keys").showModal(),
  };

  // Under a layout of other letters, and under an input method, the key in that place counts.
  function nameOf(event) {
    const typed = event.key.toLowerCase();
    if (Object.hasOwn(keys, typed) || /^[\x20-\x7e]$/.test(typed)) return typed;
    return event.code.replace(/^(Key|Digit)/, "").toLowerCase();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input") || byId("keys").open) return;
    const name = nameOf(event);
    if (!Object.hasOwn(keys, name)) return;
    event.preventDefault();
    keys[name]();
  });

  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", () => choose(button.dataset.choice));
  }
  for (const picture of document.querySelectorAll(".picture")) {
    picture.addEventListener("click", () => enlarge(picture));
  }
  const clicks = {
    back: keys.arrowleft, next: keys.arrowright, undo, reference: keys.r, raw: keys.t, marks: keys.d,
    download, "download-end": download, help: keys["?"],
    close: () => byId("keys").close(),
  };
  for (const [id, act] of Object.entries(clicks)) byId(id).addEventListener("click", act);
  byId("keys").addEventListener("close", () => { state.begun = true; save(); });
  byId("rater").addEventListener("input", () => { state.rater = byId("rater").value; save(); });
  byId("rater").addEventListener("keydown", (event) => { if (event.key === "Enter") event.target.blur(); });

  load();
  byId("rater").value = state.rater;
  go(state.place);
  if (!state.begun) byId("keys").showModal();
})();
