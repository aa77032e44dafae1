// A form for `explain`: what would become of a request, and why. Nothing of it is sent anywhere but to this waypoint.

import { field, h, mark, percent, replace, table } from "./elements.js";

export const title = "Explain";
export const source = null;

export function open(root) {
  const input = (name, attributes) => h("input", { name, autocomplete: "off", spellcheck: "false", ...attributes });
  const answer = h("div", { role: "status", "aria-live": "polite" });
  const methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
  const form = h("form", { class: "form", submit: (event) => ask(event, form, answer) },
    field("Caller", input("from", { required: true, placeholder: "default/curl" }), "NAMESPACE/SERVICE-ACCOUNT or spiffe://…"),
    field("Method", h("select", { name: "method" }, methods.map((one) => h("option", {}, one)))),
    field("URL", input("url", { required: true, placeholder: "reviews:9080/reviews/1" }), "HOST:PORT/PATH; the service that is called"),
    field("Connects to", input("to", { placeholder: "the URL's host" }), "HOST:PORT, where it differs from the URL"),
    field("Source address", input("source", { placeholder: "one that nobody has" })),
    field("Headers", h("textarea", { name: "headers", rows: 2, spellcheck: "false", placeholder: "x-user: alice" }), "one a line"),
    field("Token", input("jwt", { type: "password", placeholder: "for Authorization: Bearer" })),
    h("button", { type: "submit", class: "primary" }, "Explain"));
  root.append(h("h2", {}, title),
    h("p", { class: "hint" }, "What would become of a request, told by the code that decides. Nothing is sent."), form, answer);
  return { draw() {} };
}

async function ask(event, form, answer) {
  event.preventDefault();
  const given = new FormData(form);
  const body = new URLSearchParams({ format: "json" });
  for (const name of ["from", "method", "to", "source", "jwt"]) {
    if (given.get(name)) body.append(name, given.get(name).trim());
  }
  const url = given.get("url").trim();
  body.append("url", url.includes("://") ? url : `http:${"//"}${url}`);
  for (const line of given.get("headers").split("\n").filter((one) => one.trim())) body.append("header", line.trim());
  try {
    const response = await fetch("/explain", { method: "POST", body });
    if (!response.ok) throw new Error((await response.text()).trim());
    replace(answer, report(await response.json()));
  } catch (error) {
    replace(answer, h("p", { class: "failure" }, error.message));
  }
}

function report(told) {
  const { outcome, status, details, location } = told.verdict;
  const kind = { forwarded: "good", answered: "plain", denied: "bad", unserved: "bad" }[outcome];
  return [
    h("div", { class: `verdict ${kind}` },
      h("strong", {}, outcome), " ", status ?? "", " ", details, location ? ` to ${location}` : ""),
    h("dl", {}, [
      ["Caller", told.from], ["Destination", told.destination], ["Service", told.service], ["Filter chain", told.filterChain],
    ].filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    (told.notes ?? []).map((note) => h("p", {}, note)),
    h("h3", {}, "Policies"), told.policies.length > 0 ? told.policies.map(rules) : h("p", { class: "nothing" }, "No policy is asked."),
    h("h3", {}, "Routes"), routes(told.routes),
    told.upstream ? upstream(told.upstream) : null,
  ];
}

function rules(step) {
  const verdict = step.allowed ? mark("good", "lets it pass") : mark(step.enforced ? "bad" : "warn", step.enforced ? "denies it" : "would deny it");
  return h("section", { class: "card" },
    h("h4", {}, step.action, step.enforced ? "" : " (dry run)", " ", verdict),
    h("ul", {}, step.rules.map((rule) => h("li", {},
      rule.matches ? mark(step.action === "DENY" ? "bad" : "good", "matches") : mark("plain", "doesn't match"), " ",
      rule.policy ? `${rule.namespace}/${rule.policy} rule ${rule.rule}` : rule.name,
      rule.matches ? null : h("small", {}, rule.misses.join("; "))))));
}

function routes(rows) {
  return table("Routes, in the order in which they are tried", [
    { title: "Route", cell: (row) => row.name || "–" },
    { title: "Asks", cell: (row) => row.asks },
    { title: "", cell: (row) => row.chosen ? mark("good", "chosen") : [mark("plain", "missed"), h("small", {}, row.misses.join("; "))] },
  ], rows, "No route is asked.");
}

function upstream(to) {
  const rows = to.clusters.flatMap((cluster) => cluster.endpoints.length > 0
    ? cluster.endpoints.map((endpoint) => ({ cluster, endpoint })) : [{ cluster, endpoint: null }]);
  return [
    h("h3", {}, "Upstream"),
    h("p", {}, h("code", {}, `${to.method} ${to.target}`)),
    table("Where it may go", [
      { title: "Cluster", cell: ({ cluster }) => [h("span", { class: "long" }, cluster.name), cluster.exists ? null : mark("bad", "no such cluster")] },
      { title: "Share", number: true, cell: ({ cluster }) => percent(cluster.percent / 100) },
      { title: "Endpoint", cell: ({ endpoint }) => endpoint ? [h("code", {}, endpoint.address), h("small", {}, endpoint.workload ?? "")] : "–" },
      { title: "Health", cell: ({ endpoint }) => endpoint ? endpoint.healthy ? mark("good", "healthy") : mark("bad", "unhealthy") : "" },
    ], rows),
    table("Headers as they would be sent", [
      { title: "Name", cell: (row) => row.name }, { title: "Value", cell: (row) => h("span", { class: "long" }, row.value) },
    ], to.headers),
  ];
}
