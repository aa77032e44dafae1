// Policies: what each let pass and denied, rule by rule, and the last requests that were denied, with who denied them.

import { clock, count, counted, details, h, identity, leftOut, mark, replace, shortHost, table } from "./elements.js";
import { search } from "./search.js";

export const title = "Policies";
export const source = "/view/policies";

export function open(root) {
  const opened = new Set();
  const [list, denials] = [h("div"), h("div")];
  let last = null;
  const draw = () => {
    if (!last) return;
    const shown = last.policies.filter((policy) => filter.matches(policy));
    replace(list, policies(shown, opened), leftOut(last.leftOut, "policies"), last.deniesAll.map(closed));
    replace(denials, lastDenials(last.denials.filter((denial) => filter.matches(denial))));
  };
  const filter = search("Filter by policy, service, identity or rule", draw);
  root.append(
    h("h2", {}, title),
    h("p", { class: "hint" },
      "Numbers count since a policy is in force. An ALLOW policy denies what no rule of any ALLOW policy there matches."),
    filter.element, list, h("h3", {}, "Last denials"), denials);
  return {
    draw(data) {
      last = data;
      draw();
    },
  };
}

function policies(rows, opened) {
  return table("Policies", [
    { title: "Policy", cell: (row) => [h("span", { class: "main" }, row.name), row.namespace ? h("small", {}, row.namespace) : null] },
    { title: "Action", cell: action },
    { title: "Allowed", number: true, cell: (row) => count(row.allowed) },
    { title: "Denied", number: true, cell: (row) => row.denied > 0 ? mark(row.enforced ? "bad" : "warn", count(row.denied)) : "0" },
    { title: "Rules and services", cell: (row) => parts(row, opened) },
  ], rows, "No policy is in force.");
}

function action(row) {
  const kind = { ALLOW: "good", DENY: "bad" }[row.action] ?? "plain";
  return [mark(kind, row.action), row.enforced ? null : [" ", mark("warn", "dry run", "It decides nothing.")]];
}

function parts(row, opened) {
  const key = `${row.namespace}/${row.name} ${row.action} ${row.enforced}`;
  const rules = row.rules.map(({ rule, matched }) => h("li", {}, rule === "" ? "matched" : `rule ${rule} matched`, ` ${count(matched)}`));
  const services = row.services.map((service) => h("li", {}, shortHost(service)));
  const words = [
    counted(row.rules.length + row.rulesLeftOut, "rule", "rules"),
    counted(row.services.length + row.servicesLeftOut, "service", "services"),
  ].join(", ");
  return details(opened, key, words, h("ul", {}, rules), h("ul", {}, services), leftOut(row.servicesLeftOut, "services"));
}

function closed({ service, denied }) {
  return h("p", {}, mark("bad", "denies all"), " ", shortHost(service), ` has ALLOW policies without a rule; ${count(denied)} denied.`);
}

function lastDenials(rows) {
  return table("The last denials, the newest first", [
    { title: "When", cell: (row) => clock(row.at) },
    { title: "Who", cell: (row) => [h("span", { class: "main" }, identity(row.source) || "nobody"), h("small", {}, row.sourceAddress)] },
    { title: "Wanted", cell: (row) => [h("span", {}, [row.method, row.path].filter((x) => x).join(" ") || "a connection"), h("small", {}, shortHost(row.service ?? row.destination))] },
    { title: "Denied by", cell: (row) => [h("strong", {}, row.by), h("small", {}, row.details ?? "")] },
  ], rows, "Nothing was denied.");
}
