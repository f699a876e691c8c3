// The ladder of one verdict. What happened, and in which order, is in the data; this only draws it.

const LANES = { client: 168, proxy: 356, upstream: 544 };
const LADDER_WIDTH = 900;
const NOTES = 566;
const NOTE_CHARACTERS = 49;
const LINE = 15;

/** A wait's label needs so many pixels; what would be less is drawn like it. */
const SHORTEST_GAP = 16;

/** Pixels of a wait: a millisecond and a minute are both seen, and 16 times as long is twice as high. */
function gapHeight(us) {
  return Math.max(SHORTEST_GAP, 1.6 * Math.sqrt(Math.sqrt(us)));
}

/** What the scale is drawn with: microseconds, and their name. */
const SCALE = [[1e4, "10 ms or less"], [1e6, "1 s"], [60e6, "1 min"]];

function ladderOf(verdict) {
  const drawing = { under: [], over: [], y: 64, verdict };
  let before = null;
  for (const section of verdict.ladder) {
    if (section.title) sectionTitle(drawing, section.title);
    before = drawSection(drawing, section, section.title ? null : before);
  }
  const bottom = drawing.y + 10;
  const height = bottom + 30;
  const root = shape("svg", {
    class: "ladder", viewBox: `0 0 ${LADDER_WIDTH} ${height}`, role: "img",
    "aria-label": "Ladder: what passed between client, proxy and upstream; the evidence below says the same in words",
  });
  root.append(...drawing.under);
  for (const [lane, x] of Object.entries(LANES)) {
    root.append(shape("line", { class: "lane", x1: x, x2: x, y1: 48, y2: bottom - 4 }));
    root.append(laneHead(verdict, lane, x));
  }
  root.append(...drawing.over, scale(bottom + 18));
  return root;
}

/** How long the waits are that are drawn: bars that lie as long as waits stand. */
function scale(y) {
  let x = 98;
  const group = shape("g", { class: "scale" },
    shape("text", { x: x - 10, y: y + 4, "text-anchor": "end" }, "waits"));
  for (const [us, name] of SCALE) {
    const width = gapHeight(us);
    group.append(
      shape("path", { d: `M ${x} ${y - 4} v 8 m 0 -4 h ${width} m 0 -4 v 8` }),
      shape("text", { x: x + width + 6, y: y + 4 }, name));
    x += width + 12 + 7 * name.length;
  }
  group.append(shape("text", { x: LADDER_WIDTH - 4, y: y + 4, "text-anchor": "end" }, "twice as high is 16 times as long"));
  return group;
}

function laneHead(verdict, lane, x) {
  const it = lane === "client" ? { address: verdict.client } : verdict[lane];
  const name = lane === "client" ? null : party(it);
  const label = name ? `${lane} · ${name}` : lane;
  const who = it.pid ? `${it.address || ""} (${it.pid})` : it.address || "";
  return shape("g", { class: "head" },
    shape("title", {}, `${label} ${who}`),
    shape("text", { class: "who", x, y: 20, "text-anchor": "middle" }, shorten(label, 24)),
    shape("text", { class: "where", x, y: 36, "text-anchor": "middle" }, shorten(who.trim(), 27)));
}

function sectionTitle(drawing, title) {
  drawing.y += 14;
  drawing.over.push(
    shape("line", { class: "rule", x1: 0, x2: LADDER_WIDTH, y1: drawing.y - 16, y2: drawing.y - 16 }),
    shape("rect", { class: "backed", x: LANES.client - 60, y: drawing.y - 12, width: LANES.upstream - LANES.client + 120, height: 20 }),
    shape("text", { class: "section", x: LANES.proxy, y: drawing.y + 3, "text-anchor": "middle" }, shorten(title, 72)));
  drawing.y += 42;
}

/** Draws the steps below each other; returns the time of the last. */
function drawSection(drawing, section, before) {
  let idleFrom = null;
  for (const step of section.steps) {
    const packet = step.shape === "packet";
    const gap = before !== null && step.at_us !== undefined ? step.at_us - before : 0;
    if (gap > 0) {
      const from = drawing.y;
      drawing.y += gapHeight(gap);
      wait(drawing, from - 28, drawing.y - 8, gap);
    }
    const y = drawing.y;
    const lines = noteLines(drawing.verdict, step);
    const height = Math.max(packet ? 22 : 36, lines.length * LINE + 14) + (step.decides ? 10 : 0);
    if (step.decides) decided(drawing, y, height);
    if (step.at_us !== undefined) {
      drawing.over.push(shape("text", { class: packet ? "at packet" : "at", x: 88, y: y + 4, "text-anchor": "end" }, span(step.at_us)));
    }
    if (step.shape === "idle") idleFrom = y;
    if (idleFrom !== null && step.shape === "data" && step.from === "proxy" && step.to === "upstream") {
      idle(drawing, idleFrom, y, section.idle_us);
      idleFrom = null;
    }
    drawing.over.push(step.to ? arrow(step, y) : event(step, y), words(lines, y));
    drawing.y += height;
    before = step.at_us ?? before;
  }
  return before;
}

/** What is written beside a step: each line is its class and its text. */
function noteLines(verdict, step) {
  const lines = [];
  if (step.decides) {
    lines.push(["decides", verdict.confidence === "proven" ? "◆ this decides" : "◆ this points to it"]);
  }
  if (!step.to) lines.push(["label", step.label]);
  if (step.evidence !== undefined) {
    for (const line of wrap(verdict.evidence[step.evidence].text, NOTE_CHARACTERS, 3)) lines.push(["told", line]);
  }
  return lines;
}

function words(lines, y) {
  const text = shape("text", { x: NOTES, y: y + 4 });
  lines.forEach(([kind, line], i) => {
    text.append(shape("tspan", { class: kind, x: NOTES, dy: i ? LINE : 0 }, line));
  });
  return text;
}

function decided(drawing, y, height) {
  drawing.under.push(
    shape("rect", { class: "decided", x: 98, y: y - 21, width: LADDER_WIDTH - 98, height: height - 4, rx: 6 }),
    shape("rect", { class: "decided-bar", x: 98, y: y - 21, width: 4, height: height - 4, rx: 2 }));
}

/** The time that passes between two steps. */
function wait(drawing, from, to, us) {
  const middle = (from + to) / 2 + 8;
  drawing.over.push(shape("text", { class: "gap", x: 88, y: middle, "text-anchor": "end" }, "+ " + span(us)));
}

/** The connection lies unused: a band between its two ends. */
function idle(drawing, from, to, us) {
  drawing.under.push(
    shape("rect", { class: "idle", x: LANES.proxy + 1, y: from, width: LANES.upstream - LANES.proxy - 2, height: to - from }));
  drawing.over.push(
    shape("text", { class: "idle-label", x: (LANES.proxy + LANES.upstream) / 2, y: from + 24, "text-anchor": "middle" },
      "⋮ idle for " + span(us) + " ⋮"));
}

function event(step, y) {
  const x = LANES[step.from];
  const line = step.from === "upstream"
    ? null
    : shape("line", { class: "leader", x1: x + 6, x2: NOTES - 6, y1: y, y2: y });
  return shape("g", { class: "step note" }, line, shape("circle", { cx: x, cy: y, r: 4.5 }));
}

function arrow(step, y) {
  const from = LANES[step.from];
  const way = LANES[step.to] > from ? 1 : -1;
  const stopped = step.shape === "stopped";
  const end = stopped ? from + way * 112 : LANES[step.to];
  const failed = step.from === "proxy" && step.to === "client" && Number(step.label) >= 500;
  const group = shape("g", { class: `step ${step.shape}${failed ? " failed" : ""}${step.decides ? " deciding" : ""}` },
    shape("title", {}, step.label),
    shape("line", { x1: from, x2: end - way * (stopped ? 0 : 9), y1: y, y2: y }));
  if (stopped) group.append(cross(end + way * 5, y));
  else group.append(shape("path", { class: "tip", d: `M ${end} ${y} l ${-way * 10} -4.5 v 9 z` }));
  if (step.shape === "reset") group.append(cross(from + way * 12, y));
  if (step.shape === "fin") group.append(shape("line", { class: "stop", x1: from + way * 7, x2: from + way * 7, y1: y - 6, y2: y + 6 }));
  const middle = (from + LANES[step.to]) / 2;
  const label = shape("text", { class: "label", x: middle, y: y - 7, "text-anchor": "middle" }, shorten(step.label, 24));
  group.append(label);
  return group;
}

function cross(x, y) {
  return shape("path", { class: "cross", d: `M ${x - 5} ${y - 5} l 10 10 m 0 -10 l -10 10` });
}
