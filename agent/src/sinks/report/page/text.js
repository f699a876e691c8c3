"use strict";
// Elements, times and words. Text enters the page as text nodes and attributes, never as markup.

const SVG = document.getElementById("blank").namespaceURI;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function shape(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** A span of microseconds in the unit a person would choose. */
function span(us) {
  const size = Math.abs(us);
  const sign = us < 0 ? "−" : "";
  if (size === 0) return "0";
  if (size < 1000) return sign + size + " µs";
  if (size < 1e4) return sign + (size / 1e3).toFixed(2) + " ms";
  if (size < 1e5) return sign + (size / 1e3).toFixed(1) + " ms";
  if (size < 1e6) return sign + Math.round(size / 1e3) + " ms";
  if (size < 1e7) return sign + (size / 1e6).toFixed(2) + " s";
  return sign + (size / 1e6).toFixed(1) + " s";
}

/** `13:48:24.123` of an RFC 3339 time. */
function clock(time) {
  return time.slice(11, 23);
}

function shorten(text, most) {
  if (text.length <= most) return text;
  const tail = Math.floor(most / 3);
  return text.slice(0, most - tail - 1) + "…" + text.slice(text.length - tail);
}

/** Lines of at most `width` characters, broken between words where there are any; at most `most`. */
function wrap(text, width, most) {
  const lines = [""];
  for (let word of text.split(" ")) {
    while (word.length > width) {
      lines.push(word.slice(0, width));
      word = word.slice(width);
    }
    const last = lines[lines.length - 1];
    if (last && last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = last ? last + " " + word : word;
  }
  const kept = lines.filter((line) => line);
  if (kept.length <= most) return kept;
  return kept.slice(0, most - 1).concat(shorten(kept.slice(most - 1).join(" "), width));
}

const SURE = { proven: "●", likely: "◐", unknown: "○" };

function chip(confidence) {
  return el("span", { class: "chip " + confidence },
    el("span", { "aria-hidden": "true" }, SURE[confidence] || ""), " " + confidence);
}

const KINDS = { verdict: "failed response", near_miss: "near miss", truncated: "cut short" };

/** What the client got, in a word. */
function outcome(verdict) {
  if (verdict.kind === "near_miss") return verdict.status ? String(verdict.status) : "none";
  return verdict.status ? String(verdict.status) : "5xx?";
}

function party(it) {
  return it.process || it.name || null;
}

function requestLine(verdict) {
  const { method, path } = verdict.request;
  return [method, path].filter((word) => word).join(" ") || "request not seen";
}

const about = JSON.parse(document.getElementById("about").textContent);
const verdicts = JSON.parse(document.getElementById("verdicts").textContent);
const ranks = new Map(about.causes.map(([name], rank) => [name, rank]));
const meanings = new Map(about.causes);

/** The cause's colour and its mark. */
function mark(cause) {
  const rank = Math.min(ranks.get(cause) ?? Infinity, about.marks.length - 1);
  return el("span", { class: "mark c" + rank, "aria-hidden": "true" }, about.marks[rank]);
}
