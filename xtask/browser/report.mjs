// Opens reports in a real browser and looks at them as a reader would: `cargo xtask test` runs it.

import assert from "node:assert/strict";

import { capture } from "./capture.mjs";
import { PATIENCE, captures, explain, launch, open, recording, streams } from "./open.mjs";
import { contrast } from "./contrast.mjs";

/** Bounds are five times what is promised: the machine may be slow, not the report. */
const OPEN_MS = 5 * 2_000;
const FILTER_MS = 5 * 100;

const HOSTILE = [
  "/</script><script>document.title='owned';alert(1)</script>",
  "/<img src=x onerror=alert(1)>",
  "/\"'><svg onload=alert(1)>",
  "/<!--<script>",
  "/{{constructor.constructor('alert(1)')()}}",
  "/\u202egpj.exe\u2028",
];

const browser = await launch();
const counts = { passed: 0, failed: 0 };

async function check(name, run) {
  try {
    await run();
    counts.passed += 1;
    console.log(`browser: ${name}: ok`);
  } catch (error) {
    counts.failed += 1;
    console.log(`browser: ${name}: FAILED\n${error.stack}`);
  }
}

/** A check of one report, which must stay silent. */
function look(name, file, options, run) {
  return check(name, async () => {
    const { page, seen, close } = await open(browser, file, options);
    try {
      await run(page);
      assert.deepEqual(seen, []);
    } finally {
      await close();
    }
  });
}

const number = (text) => Number(text.replaceAll(",", "").match(/\d+/)[0]);
const shown = async (page) => number(await page.textContent("#count"));
const activeRow = (page) => page.getAttribute("#list", "aria-activedescendant");
const focused = (page) => page.evaluate(() => document.activeElement.id);

const all = explain("recordings", streams());

await look("each cause has its ladder, with the fact that decides marked", all, {}, async (page) => {
  await page.waitForSelector(".ladder");
  const causes = await page.$$eval("#by-cause option", (options) => options.map((o) => o.value).filter((v) => v));
  assert.ok(causes.length > 15, String(causes));
  for (const cause of causes) {
    await page.selectOption("#by-cause", cause);
    const steps = await page.locator(".ladder .step").count();
    assert.ok(steps >= 2, `${cause}: ${steps} steps`);
    assert.equal(await page.locator(".ladder .decides").count(), 1, cause);
    assert.equal(await page.locator("#detail h3").textContent().then((text) => text.includes(cause)), true, cause);
    const widest = await page.$eval(".ladder", (ladder) => {
      const box = ladder.getBBox();
      return box.x >= 0 && box.x + box.width <= ladder.viewBox.baseVal.width + 0.5;
    });
    assert.ok(widest, `${cause}: the ladder stays inside its picture`);
  }
  await page.selectOption("#by-cause", "keepalive_race");
  assert.equal(await page.locator(".ladder rect.idle").count(), 1, "the idle gap is drawn");
});

await look("an idle gap is as high as it was long, by the scale below it", all, {}, async (page) => {
  await page.waitForSelector(".ladder");
  const heights = await page.evaluate(() => {
    const race = verdicts.find((verdict) => verdict.cause === "keepalive_race" && verdict.ladder[0].steps.some((step) => step.shape === "idle"));
    return [1e4, 1e5, 1e6, 6e6, 60e6, 3600e6].map((us) => {
      const changed = structuredClone(race);
      const [section] = changed.ladder;
      const idle = section.steps.find((step) => step.shape === "idle");
      const after = section.steps[section.steps.indexOf(idle) + 1];
      idle.at_us = after.at_us - us;
      return Number(ladderOf(changed).querySelector("rect.idle").getAttribute("height"));
    });
  });
  for (let i = 1; i < heights.length; i++) assert.ok(heights[i] > heights[i - 1] + 10, String(heights));
  const [, , second, , minute] = heights;
  assert.ok(minute > second + 80, `1 s ${second}, 1 min ${minute}`);
  assert.equal(await page.locator(".ladder .scale path").count(), 3);
});

await look("filters narrow the list and give it back", all, {}, async (page) => {
  await page.waitForSelector(".ladder");
  const total = await shown(page);
  const path = await page.$eval(".row .request", (it) => it.textContent.split(" ")[1]);
  await page.fill("#search", path.toUpperCase());
  assert.equal(await shown(page), 1);
  await page.fill("#search", "");
  await page.selectOption("#by-kind", "near miss");
  const near = await shown(page);
  assert.ok(near > 0 && near < total);
  await page.selectOption("#by-confidence", "proven");
  assert.ok((await shown(page)) <= near);
  await page.fill("#search", "nothing has this name");
  assert.equal(await shown(page), 0);
  assert.equal(await page.locator("#detail").isVisible(), false);
  assert.equal(await focused(page), "search", "a filter does not take the focus away");
  await page.fill("#search", "");
  await page.selectOption("#by-kind", "");
  await page.selectOption("#by-confidence", "");
  assert.equal(await shown(page), total);
  assert.equal(await page.locator("#detail").isVisible(), true);
});

await look("the keyboard is enough", all, {}, async (page) => {
  await page.waitForSelector(".ladder");
  await page.keyboard.press("/");
  assert.equal(await focused(page), "search");
  await page.keyboard.type("keepalive_race");
  await page.keyboard.press("Enter");
  assert.equal(await focused(page), "list");
  await page.keyboard.press("j");
  await page.keyboard.press("ArrowDown");
  assert.equal(await activeRow(page), "row-2");
  await page.keyboard.press("k");
  assert.equal(await activeRow(page), "row-1");
  const selected = await page.$eval("#row-1", (row) => [row.getAttribute("aria-selected"), row.getAttribute("aria-posinset")]);
  assert.deepEqual(selected, ["true", "2"]);
  const outline = await page.$eval("#list", (list) => getComputedStyle(list).outlineStyle);
  assert.notEqual(outline, "none", "the focus is seen");
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#detail").isVisible(), false);
  await page.keyboard.press("End");
  await page.keyboard.press("Enter");
  assert.equal(await focused(page), "detail");
  assert.equal(await page.locator("#detail .ladder").count(), 1);
  await page.keyboard.press("Escape");
  assert.equal(await focused(page), "list");
  await page.keyboard.press("Home");
  assert.equal(await activeRow(page), "row-0");
});

for (const colorScheme of ["light", "dark"]) {
  await look(`the ${colorScheme} theme is legible`, all, { colorScheme }, async (page) => {
    await page.waitForSelector(".ladder");
    for (const cause of ["keepalive_race", "connect_timeout"]) {
      await page.selectOption("#by-cause", cause);
      assert.deepEqual(await page.evaluate(contrast, 4.5), []);
    }
    // Black on white has 21: so it does look at every text.
    assert.ok((await page.evaluate(contrast, 20)).length > 20);
    const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(number(dark.replace("rgb(", "")) < 60, colorScheme === "dark", dark);
  });
}

await look("nothing in a request becomes markup", explain("hostile", [recording("hostile", HOSTILE.length, (n) => HOSTILE[n - 1])]), {}, async (page) => {
  await page.waitForSelector(".ladder");
  assert.match(await page.title(), /why502$/);
  for (let n = 0; n < HOSTILE.length; n++) {
    await page.click(`#row-${n}`);
    const text = await page.textContent("#detail .parties");
    const visible = HOSTILE[n].replaceAll(/[\u202e\u2028]/g, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
    assert.ok(text.includes(visible), text);
  }
  assert.equal(await page.locator("#app img, #app script").count(), 0);
});

/** Opens and filters 10,000 verdicts within the bounds. */
async function staysQuick(page, words) {
  // Twice: the first time also reads the browser itself from the disk.
  let opened = 0;
  for (let time = 0; time < 2; time++) {
    const began = performance.now();
    await page.reload();
    await page.waitForSelector(".ladder");
    opened = performance.now() - began;
  }
  const filtered = await page.evaluate((words) => {
    const search = document.getElementById("search");
    return words.map((word) => {
      const began = performance.now();
      search.value = word;
      search.dispatchEvent(new Event("input"));
      document.getElementById("list").getBoundingClientRect();
      return performance.now() - began;
    });
  }, words);
  const worst = Math.max(...filtered);
  console.log(`browser: 10,000 verdicts: open ${opened.toFixed(0)} ms, filter ${worst.toFixed(1)} ms`);
  assert.ok(opened < OPEN_MS, `opened in ${opened} ms`);
  assert.ok(worst < FILTER_MS, `filtered in ${filtered} ms`);
  await page.fill("#search", "");
  assert.equal(await shown(page), 10_000);
  assert.match(await page.textContent("#left-out"), /50 more/);
  assert.match(await page.textContent("h1"), /10,050 failed responses/);
  await page.focus("#list");
  await page.keyboard.press("End");
  await page.waitForSelector("#row-9999");
  assert.ok((await page.locator(".row").count()) < 60, "only what is in view is in the page");
}

const many = explain("many", [recording("many", 10_050, (n) => `/orders/${n}`)]);
await look("ten thousand verdicts stay quick, and what is left out is said", many, {}, (page) =>
  staysQuick(page, ["orders/77", "refused", "", "g.sock 99"]));

const captured = explain("captures", captures());
await look("ladders of captures show packets beside the facts", captured, {}, async (page) => {
  await page.waitForSelector(".ladder");
  const causes = await page.$$eval("#by-cause option", (options) => options.map((o) => o.value).filter((v) => v));
  assert.ok(causes.length >= 8, String(causes));
  for (const cause of causes) {
    await page.selectOption("#by-cause", cause);
    const packets = await page.$$eval(".ladder .step.packet", (steps) => steps.map((step) => step.textContent));
    assert.ok(packets.length > 0 && packets.every((text) => text !== ""), `${cause}: ${packets}`);
    assert.equal(await page.locator(".ladder .decides").count(), cause === "unknown" ? 0 : 1, cause);
    const inside = await page.$eval(".ladder", (ladder) => {
      const box = ladder.getBBox();
      return box.x >= 0 && box.x + box.width <= ladder.viewBox.baseVal.width + 0.5;
    });
    assert.ok(inside, `${cause}: the ladder stays inside its picture`);
  }
});

for (const colorScheme of ["light", "dark"]) {
  await look(`packets are legible in the ${colorScheme} theme`, captured, { colorScheme }, async (page) => {
    await page.waitForSelector(".ladder .step.packet");
    assert.deepEqual(await page.evaluate(contrast, 4.5), []);
  });
}

const manyCaptured = explain("many-packets", [capture("many-packets", 10_050, (n) => `/orders/${n}`)]);
for (const colorScheme of ["light", "dark"]) {
  await look(`ten thousand verdicts of packets stay quick, ${colorScheme}`, manyCaptured, { colorScheme }, async (page) => {
    await staysQuick(page, ["orders/77", "connection_refused", "", "9000 99"]);
    // The last one is open: its packets are there as well.
    assert.ok((await page.locator(".ladder .step.packet").count()) >= 2);
    await page.fill("#search", "orders/77");
    assert.equal(await shown(page), 111, "/orders/77, 770 to 779 and 7700 to 7799");
    await page.selectOption("#by-confidence", "proven");
    assert.ok((await shown(page)) < 111);
  });
}

await look("it reads without JavaScript", all, { javaScriptEnabled: false }, async (page) => {
  for (const text of ["failed responses", "keepalive_race", "server.keepAliveTimeout", "No signal was lost", "need JavaScript"]) {
    assert.ok(await page.getByText(text).first().isVisible(), text);
  }
  assert.ok((await page.locator("svg.chart rect").count()) > 10);
});

await look("it prints: the summary, and the response that is open", all, {}, async (page) => {
  await page.waitForSelector(".ladder");
  await page.emulateMedia({ media: "print" });
  for (const [selector, visible] of [["#list", false], [".filters", false], ["svg.chart", true], [".why table", true], [".ladder", true]]) {
    assert.equal(await page.locator(selector).first().isVisible(), visible, selector);
  }
  assert.ok((await page.pdf({ format: "A4" })).length > 20_000);
});

await look("it fits a narrow window", all, { viewport: { width: 480, height: 800 } }, async (page) => {
  await page.waitForSelector(".ladder");
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= window, `${wide} of ${window}`);
});

// A browser that hangs while it closes has been looked at all the same.
await Promise.race([browser.close(), new Promise((done) => setTimeout(done, PATIENCE).unref())]);
console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exit(counts.failed > 0 ? 1 : 0);
