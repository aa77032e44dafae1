// Routes: what they ask for and where they send, with each share as it is configured and as it was met.

import { bar, cluster, count, details, h, leftOut, mark, percent, replace, shortHost } from "./elements.js";
import { search } from "./search.js";

export const title = "Routes";
export const source = "/view/routes";

export function open(root) {
  const opened = new Set();
  const list = h("div", { class: "cards" });
  let chains = [];
  let left = 0;
  const draw = () => {
    const shown = chains.filter((chain) => filter.matches(chain));
    replace(list, shown.map((chain) => card(chain, opened)), leftOut(left, "chains"),
      shown.length === 0 ? h("p", { class: "nothing" }, "No route has this in it.") : null);
  };
  const filter = search("Filter by host, path or cluster", draw);
  root.append(
    h("h2", {}, title),
    h("p", { class: "hint" }, "Numbers count since this version of a route is in force. The line in a bar is the share as configured."),
    filter.element, list);
  return {
    draw(data) {
      chains = [...data.chains].sort((a, b) => Boolean(b.host) - Boolean(a.host) || takenBy(b) - takenBy(a));
      left = data.leftOut;
      draw();
    },
  };
}

function takenBy(chain) {
  return chain.routes.reduce((sum, route) => sum + route.taken, 0);
}

function card(chain, opened) {
  const name = chain.host ? `${shortHost(chain.host)}:${chain.port}` : chain.name;
  const taken = takenBy(chain);
  const many = chain.routes.length > 6;
  const routes = chain.routes.map(route);
  return h("section", { class: "card" },
    h("h3", {}, name, " ", h("small", {}, chain.address ?? "", " ", chain.protocol, " ", `${count(taken)} taken`)),
    chain.closed ? h("p", {}, mark("bad", "closed"), " ", chain.closed) : null,
    many ? details(opened, chain.name, `${chain.routes.length} routes`, routes) : routes,
    leftOut(chain.routesLeftOut, "routes"));
}

function route(route) {
  const does = route.action === "forward" ? null : mark("plain", `${route.action} ${route.status}`);
  const extra = [
    route.domains?.join(", "),
    route.timeoutMilliseconds ? `at most ${route.timeoutMilliseconds} ms` : null,
    route.retries ? "with retries" : null,
    route.mirrors?.length ? `mirrored to ${route.mirrors.map((name) => label(name)).join(", ")}` : null,
  ].filter((text) => text);
  const all = (route.clusters ?? []).reduce((sum, one) => sum + one.taken, 0);
  return h("div", { class: "route" },
    h("div", { class: "asks" },
      h("span", { class: "main" }, route.asks || "everything"),
      route.name && h("small", {}, route.name),
      extra.length > 0 ? h("small", {}, extra.join(" · ")) : null),
    h("div", { class: "goes" }, does, (route.clusters ?? []).map((one) => share(one, all, route.clusters.length === 1))),
    h("div", { class: "number" }, count(route.taken)));
}

function share(one, all, alone) {
  if (alone) return h("div", { class: "share-line" }, label(one.name), " ", one.exists ? null : mark("bad", "no such cluster"));
  const met = all > 0 ? one.taken / all : null;
  const words = `${percent(met)} met, ${percent(one.percent / 100)} configured`;
  return h("div", { class: "share-line" },
    h("span", {}, label(one.name), " ", one.exists ? null : mark("bad", "no such cluster")),
    bar(met ?? 0, one.percent / 100, words),
    h("small", {}, words, ` (${count(one.taken)})`));
}

function label(name) {
  const parts = cluster(name);
  return `${shortHost(parts.host)}${parts.subset ? ` ${parts.subset}` : ""}${parts.port ? `:${parts.port}` : ""}`;
}
