// The drawing of the map: callers on the left, services in the middle, and on wide screens what answers for them.

import { identity, percent, perSecond, s, shortHost } from "./elements.js";

/** Nodes of a column; the table has all. */
const MOST = 24;
const HEIGHT = 40;
const GAP = 14;

/** What is drawn of `flows` in so many pixels. `chosen` is the node that was pressed, `press` tells of one. */
export function drawing(flows, width, chosen, press) {
  const wide = width >= 760;
  const columns = [
    column(flows, (flow) => [callerOf(flow.edge)], "caller"),
    column(flows, (flow) => [serviceOf(flow.edge)], "service"),
  ];
  if (wide) columns.push(column(flows, (flow) => workloadsOf(flow.edge), "workload"));
  const rows = Math.max(...columns.map((nodes) => nodes.size), 1);
  const height = rows * (HEIGHT + GAP) + GAP + 22;
  const box = wide ? Math.min(240, width * 0.26) : width * 0.4;
  columns.forEach((nodes, place) => {
    const x = (width - box) * (place / (columns.length - 1));
    const room = (height - 22) / Math.max(nodes.size, 1);
    [...nodes.values()].forEach((node, row) => Object.assign(node, { x, y: 22 + room * (row + 0.5) - HEIGHT / 2, box }));
  });
  const edges = flows.flatMap((flow) => lines(flow, columns, chosen));
  const titles = ["Callers", "Services", "Workloads"].slice(0, columns.length);
  const label = `${columns[0].size} callers, ${columns[1].size} services. The table below says the same.`;
  return s("svg", { class: "map", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label },
    titles.map((title, place) => s("text", {
      class: "column", y: 12, x: (width - box) * (place / (columns.length - 1)),
    }, title)),
    edges,
    columns.flatMap((nodes) => [...nodes.values()].map((node) => boxOf(node, chosen, press))));
}

export function callerOf(edge) {
  const { principal, workload, namespace } = edge.source;
  const name = identity(principal) || workload || "unknown";
  return { key: `caller ${principal || workload}`, name, note: workload && `${workload}.${namespace}` };
}

export function serviceOf(edge) {
  const { service, name, namespace } = edge.destination;
  const known = name && namespace;
  return { key: `service ${service}`, name: known ? name : shortHost(service) || "no service", note: known ? namespace : "" };
}

function workloadsOf(edge) {
  return Object.keys(edge.workloads).map((name) => ({ key: `workload ${name}`, name, note: "" }));
}

function column(flows, nodesOf, kind) {
  const nodes = new Map();
  for (const flow of flows) {
    for (const node of nodesOf(flow)) {
      if (!nodes.has(node.key) && nodes.size < MOST) nodes.set(node.key, { ...node, kind, rate: 0, known: false });
      const known = nodes.get(node.key);
      if (!known) continue;
      const share = kind === "workload" ? shareOf(flow.edge, node.name) : 1;
      known.rate += (flow.rate ?? 0) * share;
      known.known ||= flow.rate !== null;
    }
  }
  return nodes;
}

function shareOf(edge, workload) {
  const all = Object.values(edge.workloads).reduce((sum, one) => sum + one, 0);
  return all > 0 ? edge.workloads[workload] / all : 0;
}

function lines(flow, [callers, services, workloads], chosen) {
  const from = callers.get(callerOf(flow.edge).key);
  const to = services.get(serviceOf(flow.edge).key);
  if (!from || !to) return [];
  const kind = flow.denied > 0.5 ? "denied" : flow.errors > 0.05 ? "bad" : flow.errors > 0.005 || flow.denied > 0 ? "warn" : "good";
  const aside = chosen && chosen !== from.key && chosen !== to.key;
  const title = `${from.name} to ${to.name}: ${perSecond(flow.rate)}, ${percent(flow.errors)} errors`;
  const drawn = [line(from, to, `${kind}${aside ? " aside" : ""}`, thickness(flow.rate ?? 0), title)];
  if (workloads && flow.denied !== 1) {
    for (const workload of workloadsOf(flow.edge)) {
      const target = workloads.get(workload.key);
      const share = shareOf(flow.edge, workload.name);
      const off = chosen && chosen !== target?.key && chosen !== to.key && chosen !== from.key;
      if (target) drawn.push(line(to, target, `plain${off ? " aside" : ""}`, thickness((flow.rate ?? 0) * share), `${to.name} to ${target.name}`));
    }
  }
  return drawn;
}

/** Ten times the calls are two pixels more. */
function thickness(perSecond) {
  return Math.min(10, 1.5 + 2 * Math.log10(1 + perSecond));
}

function line(from, to, kind, width, title) {
  const [x1, y1] = [from.x + from.box, from.y + HEIGHT / 2];
  const [x2, y2] = [to.x, to.y + HEIGHT / 2];
  const bend = (x2 - x1) / 2;
  const path = `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  return s("path", { class: `edge ${kind}`, d: path, "stroke-width": width.toFixed(1) }, s("title", {}, title));
}

function boxOf(node, chosen, press) {
  const pressed = chosen === node.key;
  const toggle = () => press(pressed ? null : node.key);
  const key = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    toggle();
  };
  const letters = Math.max(6, Math.floor((node.box - 16) / 7.2));
  return s("g", {
    class: `node ${node.kind}${pressed ? " pressed" : ""}`, transform: `translate(${node.x} ${node.y})`, tabindex: 0, role: "button",
    "aria-pressed": String(pressed), "aria-label": `${node.kind} ${node.name}`, "data-key": node.key, click: toggle, keydown: key,
  },
    s("rect", { width: node.box, height: HEIGHT, rx: 8 }),
    s("text", { class: "name", x: 10, y: 17 }, cut(node.name, letters)),
    s("text", { class: "note", x: 10, y: 32 }, cut(`${node.note ? `${node.note}  ` : ""}${perSecond(node.known ? node.rate : null)}`, letters + 3)),
    s("title", {}, node.name));
}

function cut(text, letters) {
  return text.length > letters ? `${text.slice(0, letters - 1)}…` : text;
}
