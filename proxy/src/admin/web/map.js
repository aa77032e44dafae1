// Who calls whom: rate, errors and times of the last half minute, drawn and as a table.

import { bytes, count, h, leftOut, mark, milliseconds, percent, perSecond, replace, table } from "./elements.js";
import { callerOf, drawing, serviceOf } from "./drawing.js";
import { Rates } from "./rates.js";

export const title = "Map";
export const source = "/view/traffic";

export function open(root) {
  const rates = new Rates();
  const [picture, list] = [h("div", { class: "picture" }), h("div")];
  let [flows, left, chosen] = [[], 0, null];
  const draw = () => {
    const shown = flows.filter((flow) => !chosen || isOf(flow, chosen));
    const width = Math.max(picture.clientWidth, 300);
    replace(picture, flows.length > 0 ? drawing(flows, width, chosen, (key) => { chosen = key; draw(); }) : null);
    replace(list, calls(shown), leftOut(left, "pairs of caller and service"));
  };
  const sized = new ResizeObserver(() => requestAnimationFrame(draw));
  root.append(
    h("h2", {}, title),
    h("p", { class: "hint" }, "Who calls whom through this waypoint, in the last half minute. Press a box to see its calls alone."),
    picture, list);
  sized.observe(root);
  return {
    draw(data) {
      flows = rates.add(data);
      left = data.leftOut;
      draw();
    },
    close: () => sized.disconnect(),
  };
}

function isOf(flow, key) {
  const workloads = Object.keys(flow.edge.workloads).map((name) => `workload ${name}`);
  return [callerOf(flow.edge).key, serviceOf(flow.edge).key, ...workloads].includes(key);
}

function calls(flows) {
  const code = (text, note) => [h("span", { class: "main" }, text), note ? h("small", {}, note) : null];
  return table("Calls", [
    { title: "Caller", cell: ({ edge }) => code(callerOf(edge).name, callerOf(edge).note) },
    { title: "Service", cell: ({ edge }) => code(serviceOf(edge).name, serviceOf(edge).note) },
    { title: "Protocol", cell: ({ edge }) => edge.protocol },
    { title: "Rate", number: true, cell: (flow) => perSecond(flow.rate) },
    { title: "Errors", number: true, cell: (flow) => errors(flow) },
    { title: "Denied", number: true, cell: (flow) => flow.denied > 0 ? mark("warn", percent(flow.denied)) : percent(flow.denied) },
    { title: "p50", number: true, cell: (flow) => milliseconds(flow.p50) },
    { title: "p99", number: true, cell: (flow) => milliseconds(flow.p99) },
    { title: "In all", number: true, cell: ({ edge }) => inAll(edge) },
    { title: "Answered by", cell: ({ edge }) => workloads(edge) },
  ], flows, "Nobody has called anything through this waypoint yet.");
}

function errors(flow) {
  const text = percent(flow.errors);
  return flow.errors > 0.05 ? mark("bad", text) : flow.errors > 0 ? mark("warn", text) : text;
}

function inAll(edge) {
  if (edge.protocol !== "tcp") return count(edge.calls);
  const carried = edge.bytes.received + edge.bytes.sent;
  return [count(edge.calls), h("small", {}, bytes(carried))];
}

function workloads(edge) {
  const all = Object.values(edge.workloads).reduce((sum, one) => sum + one, 0);
  return Object.entries(edge.workloads).map(([name, calls]) =>
    h("span", { class: "line" }, `${name} `, h("small", {}, percent(calls / all))));
}
