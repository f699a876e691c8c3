// The list of responses: filters, the rows that can be seen, keys.

const ROW = 54;
const haystacks = verdicts.map((it) =>
  [it.request.method, it.request.path, it.request.host, it.client, it.upstream.address,
    it.upstream.process, it.cause, it.variant, it.id]
    .filter((text) => text).join("\n").toLowerCase());

const FILTERS = [
  ["kind", "kind", (it) => KINDS[it.kind]],
  ["cause", "cause", (it) => it.cause],
  ["upstream", "upstream", (it) => it.upstream.address || "no upstream"],
  ["status", "status", outcome],
  ["confidence", "confidence", (it) => it.confidence],
];

let shown = verdicts.map((_, index) => index);
let active = 0;
let opened = null;
/** Whether the reader wants one open; a filter without results only hides it. */
let wanted = true;

const search = el("input", { type: "search", id: "search", placeholder: "path, host, address …", autocomplete: "off", spellcheck: "false" });
const choices = FILTERS.map(([id, label, of]) => choice(id, label, of));
const count = el("p", { id: "count", role: "status" });
const space = el("div", { class: "space" });
const list = el("div", { id: "list", role: "listbox", tabindex: "0", "aria-label": "Responses" }, space);
const detail = el("article", { id: "detail", tabindex: "-1", "aria-label": "The chosen response" });

function choice(id, label, of) {
  const counts = new Map();
  for (const it of verdicts) counts.set(of(it), (counts.get(of(it)) || 0) + 1);
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  const select = el("select", { id: "by-" + id }, el("option", { value: "" }, "all"),
    sorted.map(([value, n]) => el("option", { value: value }, `${shorten(value, 40)} (${n})`)));
  return { select, of, label: el("label", { class: counts.size > 1 ? "" : "single" }, label, select) };
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter((word) => word);
  const chosen = choices.filter(({ select }) => select.value !== "").map(({ select, of }) => [select.value, of]);
  shown = [];
  verdicts.forEach((it, index) => {
    if (chosen.every(([value, of]) => of(it) === value) && words.every((word) => haystacks[index].includes(word))) {
      shown.push(index);
    }
  });
  active = 0;
  count.textContent = shown.length === verdicts.length
    ? `${verdicts.length.toLocaleString("en")} responses`
    : `${shown.length.toLocaleString("en")} of ${verdicts.length.toLocaleString("en")} responses`;
  space.style.height = shown.length * ROW + "px";
  list.scrollTop = 0;
  if (wanted && shown.length > 0) open(0);
  else hide();
}

/** Only the rows in view are elements: ten thousand would not scroll. */
function draw() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  const rows = [];
  for (let i = first; i < last; i++) rows.push(row(i));
  space.replaceChildren(...rows);
  if (shown.length > 0) list.setAttribute("aria-activedescendant", "row-" + active);
  else list.removeAttribute("aria-activedescendant");
}

function row(i) {
  const it = verdicts[shown[i]];
  const classes = "row" + (i === active ? " active" : "") + (shown[i] === opened ? " opened" : "");
  const node = el("div", {
    class: classes, role: "option", id: "row-" + i,
    "aria-selected": String(i === active), "aria-posinset": i + 1, "aria-setsize": shown.length,
  },
    el("span", { class: "status" }, outcome(it)),
    el("span", { class: "request", title: requestLine(it) }, requestLine(it)),
    el("span", { class: "time" }, clock(it.time)),
    el("span", { class: "cause" }, mark(it.cause), " ", it.cause, it.kind !== "verdict" && ` · ${KINDS[it.kind]}`),
    chip(it.confidence));
  node.style.top = i * ROW + "px";
  node.addEventListener("click", () => {
    move(i);
    open(i);
  });
  return node;
}

function move(to) {
  if (shown.length === 0) return;
  active = Math.max(0, Math.min(shown.length - 1, to));
  const top = active * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  if (opened !== null) open(active);
  else draw();
}

function open(i) {
  wanted = true;
  opened = shown[i];
  detail.replaceChildren(...detailOf(verdicts[opened]).filter((part) => part));
  detail.scrollTop = 0;
  detail.hidden = false;
  draw();
}

function hide() {
  opened = null;
  detail.replaceChildren();
  detail.hidden = true;
  draw();
}

function close() {
  wanted = false;
  hide();
  list.focus();
}

const MOVES = {
  ArrowDown: () => active + 1, j: () => active + 1,
  ArrowUp: () => active - 1, k: () => active - 1,
  PageDown: () => active + Math.floor(list.clientHeight / ROW),
  PageUp: () => active - Math.floor(list.clientHeight / ROW),
  Home: () => 0, End: () => shown.length - 1,
};

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    if (typing) list.focus();
    else if (opened !== null) close();
    return;
  }
  if (typing) {
    if (event.target === search && (event.key === "Enter" || event.key === "ArrowDown")) {
      list.focus();
      event.preventDefault();
    }
    return;
  }
  if (event.key === "/") {
    search.focus();
    search.select();
    event.preventDefault();
    return;
  }
  const inList = event.target === list;
  const letter = event.key === "j" || event.key === "k";
  if (MOVES[event.key] && (inList || letter)) {
    if (!inList) list.focus();
    move(MOVES[event.key]());
    event.preventDefault();
  } else if (event.key === "Enter" && inList && shown.length > 0) {
    open(active);
    detail.focus();
    event.preventDefault();
  }
}

function start() {
  const app = document.getElementById("app");
  document.getElementById("needs-script").remove();
  if (verdicts.length === 0) {
    app.replaceWith(el("p", { class: "fine" }, "There is none."));
    return;
  }
  search.addEventListener("input", filter);
  choices.forEach(({ select }) => select.addEventListener("change", filter));
  list.addEventListener("scroll", draw, { passive: true });
  window.addEventListener("resize", draw);
  document.addEventListener("keydown", key);
  app.append(
    el("div", { class: "filters", role: "search" },
      el("label", {}, "search", search), choices.map(({ label }) => label)),
    el("div", { class: "keys soft" }, el("p", {},
      [["j", "k"], " move · ", ["Enter"], " open · ", ["Esc"], " close · ", ["/"], " search"]
        .map((part) => typeof part === "string" ? part : part.map((name) => el("kbd", {}, name)))), count),
    el("div", { class: "split" }, list, detail));
  app.hidden = false;
  filter();
}

start();
