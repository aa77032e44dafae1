// The live access log: a line for each request as it ends, as long as this view is open.

import { bytes, clock, counted, h, identity, mark, milliseconds, replace, shortHost, table } from "./elements.js";
import { search } from "./search.js";

export const title = "Live log";
export const source = null;

/** Lines that are kept, and that are shown. */
const KEPT = 2000;
const SHOWN = 200;

export function open(root, { paused }) {
  const [list, state] = [h("div"), h("p", { class: "hint", role: "status" }, "Connecting…")];
  const kind = h("select", { "aria-label": "Which", change: () => draw() },
    h("option", { value: "all" }, "All"), h("option", { value: "failed" }, "Failed (5xx, no answer)"), h("option", { value: "denied" }, "Denied"));
  let [lines, missed, waiting] = [[], 0, false];
  const draw = () => {
    waiting = false;
    const shown = lines.filter((line) => isOf(line, kind.value) && filter.matches(line)).slice(0, SHOWN);
    replace(list, requests(shown));
    const words = missed > 0 ? `; ${missed} more were too many to be shown` : "";
    replace(state, `${counted(lines.length, "line", "lines")} since this view was opened${words}.`);
  };
  const soon = () => {
    if (waiting) return;
    waiting = true;
    setTimeout(draw, 250);
  };
  const filter = search("Filter by anything that a line has", draw);
  const events = new EventSource("/view/log");
  events.addEventListener("open", soon);
  events.addEventListener("error", () => replace(state, "The waypoint doesn't answer; trying again."));
  events.addEventListener("message", ({ data }) => {
    const line = JSON.parse(data);
    missed += (line.missed ?? 0) + (line.skippedBefore ?? 0);
    if (line.missed || paused()) return;
    lines.unshift(line);
    lines.length = Math.min(lines.length, KEPT);
    soon();
  });
  root.append(h("h2", {}, title), state, h("div", { class: "row" }, filter.element, kind), list);
  return { draw() {}, close: () => events.close() };
}

function isOf(line, kind) {
  if (kind === "denied") return Boolean(line.by);
  if (kind === "failed") return (line.status ?? 0) >= 500 || (line.status === null && line.protocol !== "TCP");
  return true;
}

function requests(rows) {
  return table("Requests, the newest first", [
    { title: "When", cell: (row) => clock(row.at) },
    { title: "Caller", cell: (row) => [h("span", { class: "main" }, identity(row.source) || row.sourceAddress), row.workload ? h("small", {}, row.workload) : null] },
    { title: "Request", cell: (row) => [h("span", {}, [row.method, row.path].filter((x) => x).join(" ") || row.protocol), h("small", {}, row.host ?? row.destination)] },
    { title: "Answer", cell: answer },
    { title: "Took", number: true, cell: (row) => milliseconds(row.milliseconds) },
    { title: "Bytes", number: true, cell: (row) => `${bytes(row.received)} / ${bytes(row.sent)}` },
    { title: "To", cell: (row) => [h("span", {}, row.upstreamWorkload ?? row.upstream ?? "–"), h("small", {}, shortHost(row.service ?? ""))] },
  ], rows, "No request has ended since.");
}

function answer(row) {
  const kind = row.by ? "warn" : (row.status ?? 0) >= 500 ? "bad" : (row.status ?? 0) >= 400 ? "warn" : "good";
  const flags = row.flags === "-" ? "" : row.flags;
  return [mark(kind, row.status === null ? row.protocol === "TCP" ? "closed" : "none" : String(row.status)), " ", flags,
    h("small", {}, row.by ?? (row.details === "via_upstream" ? "" : row.details ?? ""))];
}
