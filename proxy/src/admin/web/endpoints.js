// Endpoints: who can be sent to, who is healthy, who was ejected and by what sign.

import { cluster, count, details, duration, h, leftOut, mark, replace, shortHost, table } from "./elements.js";
import { search } from "./search.js";

export const title = "Endpoints";
export const source = "/view/endpoints";

export function open(root) {
  const opened = new Set();
  const list = h("div");
  let last = null;
  const draw = () => {
    if (!last) return;
    const shown = last.clusters.filter((one) => filter.matches(one));
    replace(list, clusters(shown, opened), leftOut(last.leftOut, "clusters"));
  };
  const filter = search("Filter by cluster, address or workload", draw);
  root.append(h("h2", {}, title), filter.element, list);
  return {
    draw(data) {
      last = data;
      draw();
    },
  };
}

function clusters(rows, opened) {
  return table("Clusters", [
    { title: "Cluster", cell: (row) => name(row.name) },
    { title: "Found by", cell: (row) => row.discovery },
    { title: "Balancing", cell: (row) => row.balancing.toLowerCase().replaceAll("_", " ") },
    { title: "Healthy", number: true, cell: healthy },
    { title: "Ejections", number: true, cell: ejections },
    { title: "Endpoints", cell: (row) => endpoints(row, opened) },
  ], rows, "There is no cluster.");
}

function name(full) {
  const parts = cluster(full);
  return [h("span", { class: "main" }, `${shortHost(parts.host)}${parts.port ? `:${parts.port}` : ""}`), parts.subset ? h("small", {}, parts.subset) : null];
}

function healthy(row) {
  if (row.discovery.startsWith("ORIGINAL_DST") || (row.discovery === "STATIC" && row.total === 0)) return "–";
  const text = `${row.healthy} of ${row.total}`;
  return row.healthy === row.total && row.total > 0 ? text : mark(row.healthy === 0 ? "bad" : "warn", text);
}

function ejections(row) {
  if (!row.ejections) return "–";
  const { active, total, by } = row.ejections;
  const signs = by.map(({ sign, ejections }) => `${sign.replaceAll("_", " ")}: ${ejections}`).join(", ");
  const text = `${active} now, ${count(total)} in all`;
  return [active > 0 ? mark("bad", text) : text, signs ? h("small", {}, signs) : null];
}

function endpoints(row, opened) {
  if (row.total === 0) return "";
  const few = row.endpoints.length <= 3;
  const all = row.endpoints.map((one) => h("div", { class: "endpoint" },
    health(one), " ",
    h("code", {}, one.address), " ",
    h("small", {}, [
      one.workload && `${one.workload}.${one.namespace}`,
      one.hbone ? "HBONE" : "plain",
      one.weight !== 1 && `weight ${one.weight}`,
      one.priority > 0 && `priority ${one.priority}`,
      one.locality,
      one.active > 0 && `${one.active} in flight`,
      `for ${duration(one.sinceSeconds)}`,
    ].filter((text) => text).join(" · "))));
  const rest = leftOut(row.endpointsLeftOut, "endpoints");
  return few ? [all, rest] : details(opened, row.name, `${row.total} endpoints`, all, rest);
}

function health(one) {
  if (one.failsChecks) return mark("bad", "fails checks", "It doesn't pass its cluster's health checks, or wasn't checked yet.");
  if (one.ejected) return mark("bad", "ejected", "Its answers say that it isn't well.");
  return one.healthy ? mark("good", "healthy") : mark("bad", "unhealthy", "Configuration says that it isn't well.");
}
