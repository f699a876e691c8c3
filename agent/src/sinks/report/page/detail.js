// One verdict in full: who, the ladder, evidence, attempts, what is missing, what to change.

function detailOf(verdict) {
  const advice = adviceOf(verdict);
  return [
    el("header", {},
      el("p", { class: "what" },
        el("span", { class: "status" }, outcome(verdict)), " ",
        el("span", { class: "soft" }, KINDS[verdict.kind] + " at " + clock(verdict.time) + " UTC"),
        verdict.status_rewritten && el("span", { class: "soft" }, " · status rewritten by the proxy")),
      el("h3", {}, mark(verdict.cause), " ", verdict.cause,
        verdict.variant && el("span", { class: "soft" }, " · " + verdict.variant), " ", chip(verdict.confidence)),
      el("p", { class: "meaning" }, meanings.get(verdict.cause)),
      parties(verdict)),
    verdict.lost_signals > 0 && el("p", { class: "warn" },
      `⚠ ${verdict.lost_signals} signals were lost around this response`),
    verdict.missing.length > 0 && el("section", { class: "warn" },
      el("h4", {}, "Missing: would have decided"),
      el("ul", {}, verdict.missing.map((fact) => el("li", {}, fact)))),
    el("figure", {},
      el("div", { class: "wide" }, ladderOf(verdict)),
      el("figcaption", {},
        `Times count from ${clock(verdict.time)}${verdict.status || verdict.kind === "verdict" ? ", the response" : ""}.`
        + " Waits are drawn to the scale below it.")),
    (advice.text || advice.settings.length > 0) && el("section", { class: "advice" },
      el("h4", {}, "What to change"),
      el("p", {}, advice.text),
      advice.settings.length > 0 && settings(advice.settings)),
    verdict.evidence.length > 0 && el("section", {}, el("h4", {}, "Evidence"), evidence(verdict)),
    verdict.attempts.length > 0 && el("section", {}, el("h4", {}, "Attempts"), attempts(verdict)),
    el("p", { class: "soft id" }, verdict.id + " · " + verdict.node),
  ];
}

/** Advice that repeats is told once in the data. */
function adviceOf(verdict) {
  return typeof verdict.advice === "number" ? verdicts[verdict.advice].advice : verdict.advice;
}

function parties(verdict) {
  const who = (it) => [
    el("b", {}, party(it) || ""), it.pid ? ` (${it.pid})` : "", " ", el("span", {}, it.address || ""),
    ["namespace", "workload", "pod", "container"].filter((name) => it[name]).map((name) => ` ${name} ${it[name]}`),
  ];
  const pairs = [
    ["request", [el("b", {}, requestLine(verdict)), verdict.request.host && el("span", { class: "soft" }, "  Host " + verdict.request.host)]],
    ["client", [verdict.client || "not known"]],
    ["proxy", who(verdict.proxy)],
    ["took", [verdict.duration_us === null ? "not known" : span(verdict.duration_us)]],
    ["upstream", who(verdict.upstream)],
  ];
  return el("dl", { class: "parties" }, pairs.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function table(caption, heads, rows) {
  return el("div", { class: "wide" }, el("table", { "aria-label": caption },
    el("thead", {}, el("tr", {}, heads.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) => el("td", { class: heads[i][1] }, cell)))))));
}

function evidence(verdict) {
  return table("Evidence", [["time", "n"], ["fact"], ["what was seen", "name"], ["source"]],
    verdict.evidence.map((it) => [span(it.at_us), it.fact, it.text, it.source]));
}

function attempts(verdict) {
  return table("Attempts",
    [["began", "n"], ["upstream", "name"], ["connection"], ["took", "n"], ["sent", "n"], ["received", "n"], ["outcome"], ["cause"]],
    verdict.attempts.map((it) => [
      span(it.at_us), it.upstream, connection(it), span(it.duration_us),
      it.bytes_sent + " B", it.bytes_received + " B", it.outcome, it.cause || "",
    ]));
}

function connection(attempt) {
  if (!attempt.reused) return attempt.connect_us === null ? "new" : "new, in " + span(attempt.connect_us);
  return attempt.idle_us === null ? "reused" : "reused, idle " + span(attempt.idle_us);
}

function settings(list) {
  const seen = (it) => {
    const value = it.observed || (it.observed_seconds === null ? null : it.observed_seconds + " s");
    if (!value) return "";
    return it.observed_from ? `${value} (from the ${it.observed_from.replaceAll("_", " ")})` : value;
  };
  return table("Settings", [["software"], ["setting", "name"], ["observed"], ["suggested"], ["risk"]],
    list.map((it) => [
      it.software, [it.alternative_to && el("span", { class: "soft" }, "or "), el("code", {}, it.name)],
      seen(it), el("b", {}, it.suggested), it.risk || "",
    ]));
}
