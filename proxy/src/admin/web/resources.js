// What came from the control plane: versions in force, what was refused and why, what isn't honoured.

import { count, h, leftOut, mark, replace, table } from "./elements.js";
import { search } from "./search.js";

export const title = "xDS";
export const source = "/view/resources";

export function open(root) {
  const [from, types, refused, problems] = [h("p", { class: "hint" }), h("div"), h("div"), h("div")];
  let last = null;
  const draw = () => {
    if (!last) return;
    replace(from, `From ${last.source}.`);
    replace(types, table("Types", [
      { title: "Type", cell: (row) => row.type },
      { title: "In force", number: true, cell: (row) => row.type === "Workload" ? "–" : count(row.inForce) },
      { title: "Refused", number: true, cell: (row) => row.refused > 0 ? mark("bad", count(row.refused)) : "0" },
      { title: "Updates taken", number: true, cell: (row) => count(row.acceptedUpdates) },
      { title: "Updates refused", number: true, cell: (row) => count(row.refusedUpdates) },
      { title: "Last change", cell: (row) => row.at ? [row.at.replace("T", " ").replace("Z", ""), h("small", { class: "long" }, row.version)] : "–" },
    ], last.types));
    replace(refused, refusals(last.refusals.filter((one) => filter.matches(one))), leftOut(last.refusalsLeftOut, "refusals"));
    const told = last.problems.filter((one) => filter.matches(one));
    replace(problems, told.length > 0 ? h("ul", { class: "problems" }, told.map((one) => h("li", {}, one)))
      : h("p", { class: "nothing" }, "Everything is honoured."), leftOut(last.problemsLeftOut, "problems"));
  };
  const filter = search("Filter by name or reason", draw);
  root.append(h("h2", {}, "Control plane"), from, types, filter.element,
    h("h3", {}, "Refused"), refused, h("h3", {}, "Not honoured, or without effect"), problems);
  return {
    draw(data) {
      last = data;
      draw();
    },
  };
}

function refusals(rows) {
  return table("Refused resources", [
    { title: "Resource", cell: (row) => [h("span", { class: "main long" }, row.name), h("small", {}, row.type)] },
    { title: "Why", cell: (row) => row.reason },
    { title: "Meanwhile", cell: (row) => row.lastGood ? mark("warn", "the last good version serves") : mark("bad", "nothing serves") },
    { title: "When", cell: (row) => row.at ? row.at.replace("T", " ").replace("Z", "") : "" },
  ], rows, "Nothing is refused.");
}
