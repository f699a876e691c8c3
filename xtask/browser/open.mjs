// A headless Chromium that loads local files and nothing else, and reports that are made for it.

import { execFileSync } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

/** What `cargo xtask` hands over. */
export const { WHY502, CHROMIUM, PLAYWRIGHT, STREAMS, CAPTURES, OUT } = process.env;

const { chromium } = createRequire(join(PLAYWRIGHT, "package.json"))("playwright-core");

/** A slow machine is no failure. */
export const PATIENCE = 60_000;

export function launch() {
  return chromium.launch({
    executablePath: CHROMIUM,
    timeout: PATIENCE,
    args: [
      // It opens files that were made a moment ago; root has no sandbox, nor have containers.
      "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync",
    ],
  });
}

/** Opens a report; `seen` collects what a report must not do. */
export async function open(browser, file, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const seen = [];
  page.on("console", (message) => seen.push(`console ${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => seen.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    seen.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("request", (request) => {
    if (request.url() !== "file://" + file) seen.push(`request: ${request.url()}`);
  });
  await page.goto("file://" + file);
  return { page, seen, close: () => context.close() };
}

/** The report of these recordings and captures, as `why502 explain` writes it. */
export function explain(name, files) {
  const report = join(OUT, name + ".html");
  execFileSync(WHY502, ["explain", "--quiet", "--json", "--report", report, ...files], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  return report;
}

function files(folder, matching) {
  return readdirSync(folder).filter((name) => matching.test(name)).sort().map((name) => join(folder, name));
}

export const streams = (matching = /\.jsonl$/) => files(STREAMS, matching);

/** Captures of the lab. */
export const captures = (matching = /^r.*\.pcap\.gz$/) => files(CAPTURES, matching);

/** A recording of `count` requests that met a full accept queue or no listener. */
export function recording(name, count, path) {
  const lines = ['{"why502_recording":1,"version":"0.1.0","clock_offset_ns":1795182504000000000,"node":"web-3"}'];
  for (let n = 1; n <= count; n++) {
    const at = n * 6_000_000;
    const [flow, downstream] = [2 * n, 2 * n + 1];
    const request = { protocol: "http_request", method: "POST", path: path(n), path_complete: true, host: "shop.example" };
    const refused = n % 7 === 0;
    lines.push(JSON.stringify({ at, source: "kernel", fact: {
      kind: "attempt_ended", flow, proxy: 7, thread: 7,
      downstream: { flow: downstream, ordinal: 1, order: "after_read", client: "10.9.0.7:51544", proxy_address: "10.9.0.1:8080", request, state: "open" },
      upstream: "unix:/run/g.sock", local: null, began: at, connected: null, reused: false, requests_before: 0, idle_ns: null,
      request: null, received: 0, response: null, end: { how: "connect_failed", errno: refused ? 111 : 11 }, tcp: null, peer: null,
      queue: refused ? null : { length: 129, limit: 128, drops: 0, later: false },
    } }));
    lines.push(JSON.stringify({ at: at + 50_000, source: "kernel", fact: {
      kind: "response_sent", proxy: 7, thread: 7, downstream, ordinal: 1, status: 502, client: "10.9.0.7:51544",
      proxy_address: "10.9.0.1:8080", request, request_at: at, adjacent: flow, last_attempt: null,
    } }));
  }
  const file = join(OUT, name + ".jsonl");
  writeFileSync(file, lines.join("\n") + "\n");
  return file;
}
