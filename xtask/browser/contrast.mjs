// How well text stands out from what is behind it, as WCAG counts it. Runs inside the page.

/** Each text whose contrast is below `least`, with its ratio. */
export function contrast(least) {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (node) => {
    for (let it = node; it; it = it.parentElement) {
      const color = parse(getComputedStyle(it).backgroundColor);
      if (color[3] === 1) return color;
    }
    return parse("white");
  };
  // The bands of a ladder lie under its text, which is drawn on the card.
  const bands = (svg) => [behind(svg), ...[...svg.querySelectorAll("rect.decided, rect.idle")].map((it) => parse(getComputedStyle(it).fill))];

  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    // A mark is a picture: its cause stands beside it.
    if (!text || node.closest("script, style, noscript, title, option, .mark") || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const svg = node.closest("svg");
    const color = parse(svg ? style.fill : style.color);
    const grounds = svg && svg.matches(".ladder") ? bands(svg) : [behind(svg || node)];
    const worst = Math.min(...grounds.map((ground) => ratio(color, ground)));
    const key = `${node.tagName}.${node.getAttribute("class") || ""}`;
    if (worst < least) found.set(key, `${key} ${worst.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return [...found.values()];
}
