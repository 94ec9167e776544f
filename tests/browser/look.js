// Questions to a page, put before every script of the tests.

const all = (selector) => [...document.querySelectorAll(selector)];

const unfold = () => all("details").forEach((d) => { d.open = true; });

// Elements whose right edge is beyond a width, but those inside boxes that scroll by themselves.
function beyond(width, boxes = "nothing") {
  const wide = (e) => !e.closest(boxes) && e.checkVisibility() && e.getBoundingClientRect().right > width + 1;
  return all("body *").filter(wide).map((e) => e.outerHTML.slice(0, 80));
}

const styles = (selector, name) => all(selector).map((e) => getComputedStyle(e)[name]);

// Every column of every table after one click on its heading and after two.
function columns() {
  const found = [];
  for (const table of all("table.sortable")) {
    const rows = () => [...table.tBodies[0].rows], words = () => rows().map((r) => r.innerText).sort().join("|");
    if (rows().length < 2) continue;
    const before = words();
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      const seen = [1, 2].map(() => {
        head.querySelector("button").click();
        return [head.getAttribute("aria-sort"), rows().map((r) => r.cells[i].dataset.o ?? null)];
      });
      const marked = table.querySelectorAll("[aria-sort]").length;
      found.push({ name: head.innerText, number: head.classList.contains("number"), seen, marked, whole: words() === before });
    });
  }
  return found;
}

const sortable = () => all("table.sortable").find((t) => t.checkVisibility() && t.tBodies[0].rows.length > 1);

// Follows a link; where it led, whether that is shown, and how far from the top.
function follow(link) {
  all("a").find((a) => a.getAttribute("href") === link).click();
  const to = document.getElementById(link.slice(1));
  return [decodeURIComponent(location.hash), to.checkVisibility(), to.getBoundingClientRect().top, innerHeight];
}

const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

function rgba(color) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}

function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const color = rgba(getComputedStyle(e).backgroundColor);
    if (color[3] === 255) return color;
  }
  return [255, 255, 255, 255];
}

// Contrast of two colours as WCAG 2.1 defines it.
function contrast(...colors) {
  const linear = (v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const [x, y] = colors.map(light);
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

// The weakest contrast of a text by tag and class; in figures of texts in the colours of texts.
function contrasts() {
  const found = {}, seen = (name, color, e) => {
    found[name] = Math.min(found[name] ?? 99, contrast(rgba(color), behind(e)));
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) {
    const e = node.parentElement;
    if (!node.data.trim() || e.closest("script, style, svg") || !e.checkVisibility()) continue;
    seen(`${e.tagName.toLowerCase()}.${e.className}`, getComputedStyle(e).color, e);
  }
  const root = getComputedStyle(document.documentElement);
  const words = ["--ink", "--muted"].map((name) => rgba(root.getPropertyValue(name)).join());
  for (const e of all("svg text")) {
    const fill = getComputedStyle(e).fill;
    if (e.checkVisibility() && words.includes(rgba(fill).join())) seen("svg text", fill, e);
  }
  return found;
}

// Texts of figures that are too small to read, pixels.
function small(pixels) {
  const heights = all("svg text").filter((t) => t.checkVisibility()).map((t) => t.getBoundingClientRect().height);
  return heights.filter((h) => h > 0 && h < pixels).length;
}
