// Elements and words: everything that is shown goes through here, as text and never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `attributes` with a function are listeners; children are elements, texts, or nothing. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for a drawing. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== null && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Puts new children into a place; what had the keyboard's focus has it again, if its key is still there. */
export function replace(place, ...children) {
  const key = place.contains(document.activeElement) && document.activeElement.dataset.key;
  place.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  if (key) {
    const same = [...place.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
    same?.focus({ preventScroll: true });
  }
}

/** A table. A column is {title, cell(row), number?}; on narrow screens a row is a card. */
export function table(caption, columns, rows, nothing = "Nothing yet.") {
  if (rows.length === 0) return h("p", { class: "nothing" }, nothing);
  const head = columns.map((column) =>
    h("th", { scope: "col", role: "columnheader", class: column.number && "number" }, column.title));
  const body = rows.map((row) =>
    h("tr", { role: "row" }, columns.map((column) =>
      h("td", { role: "cell", "data-title": column.title, class: column.number && "number" }, column.cell(row)))));
  return h("table", { role: "table" },
    h("caption", {}, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, body));
}

/** A word with a colour and a meaning: good, warn, bad, or plain. */
export function mark(kind, word, title) {
  return h("span", { class: `mark ${kind}`, title }, word);
}

export function perSecond(number) {
  return number === null ? "–" : `${rate(number)}/s`;
}

/** A share, from 0 to 1, with what is expected as a line on it. */
export function bar(share, expected, label) {
  const width = (part) => `${Math.max(0, Math.min(1, part)) * 100}`;
  const drawing = s("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("rect", { class: "ground", width: 100, height: 8 }),
    s("rect", { class: "share", width: width(share), height: 8 }));
  if (expected !== null && expected !== undefined) {
    drawing.append(s("rect", { class: "expected", x: Math.min(99, Number(width(expected))), width: 1, height: 8 }));
  }
  return drawing;
}

/** Details that stay open when they are made anew: `open` holds the keys of those that are. */
export function details(open, key, summary, ...content) {
  const element = h("details", { open: open.has(key), toggle: () => element.open ? open.add(key) : open.delete(key) },
    h("summary", { "data-key": key }, summary), content);
  return element;
}

export function field(label, control, hint) {
  return h("label", { class: "field" }, h("span", {}, label), control, hint && h("small", {}, hint));
}

export function counted(number, one, several) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

export function leftOut(number, what) {
  return number > 0 ? h("p", { class: "nothing" }, `and ${count(number)} more ${what}`) : null;
}

export function count(number) {
  return Math.round(number).toLocaleString("en");
}

export function rate(perSecond) {
  if (perSecond === null) return "–";
  if (perSecond === 0) return "0";
  return perSecond < 10 ? perSecond.toFixed(2) : count(perSecond);
}

export function percent(share) {
  if (share === null || Number.isNaN(share)) return "–";
  const value = share * 100;
  if (value === 0) return "0 %";
  return `${value < 0.1 ? "<0.1" : value < 10 ? value.toFixed(1) : value.toFixed(0)} %`;
}

export function milliseconds(value) {
  if (value === null) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds >= 2 * 86400) return `${Math.floor(seconds / 86400)} days`;
  if (seconds >= 2 * 3600) return `${Math.floor(seconds / 3600)} h`;
  if (seconds >= 120) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds)} s`;
}

export function clock(milliseconds) {
  return new Date(milliseconds).toLocaleTimeString("en-GB");
}

/** `spiffe://cluster.local/ns/default/sa/curl` as people say it: `default/curl`. */
export function identity(principal) {
  const parts = /^spiffe:\/\/[^/]+\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(principal ?? "");
  return parts ? `${parts[1]}/${parts[2]}` : principal || "";
}

/** A cluster's name, `inbound-vip|9080|http/v1|reviews.default.svc.cluster.local`, taken apart. */
export function cluster(name) {
  const [kind, port, subset, host] = name.split("|");
  if (host === undefined) return { name, host: name, port: "", subset: "" };
  const shown = subset.split("/").slice(1).join("/");
  return { name, kind, port, subset: shown, host };
}

/** A host without what it shares with others of the mesh. */
export function shortHost(host) {
  return host.replace(/\.svc\.cluster\.local$/, "");
}
