// The README's picture: a keep-alive race of the lab in its report. `cargo xtask picture` runs it.

import { explain, launch, open, streams } from "./open.mjs";

const report = explain("picture", streams(/^r(02-post-fin|16-)/));
const browser = await launch();
const { page, close } = await open(browser, report, { viewport: { width: 1320, height: 880 }, colorScheme: "light" });
await page.waitForSelector(".ladder");
await page.fill("#search", "fin_in_flight");
await page.locator("#responses").evaluate((section) => section.scrollIntoView());
await page.focus("#list");
await page.screenshot({ path: process.env.PICTURE });
await close();
await browser.close();
