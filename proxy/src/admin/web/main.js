// The frame around the views: which one is shown, how often it asks, and how the waypoint is.

import { duration, h, identity, mark, replace } from "./elements.js";
import * as map from "./map.js";
import * as routes from "./routes.js";
import * as policies from "./policies.js";
import * as endpoints from "./endpoints.js";
import * as certificates from "./certificates.js";
import * as resources from "./resources.js";
import * as log from "./log.js";
import * as explain from "./explain.js";

const VIEWS = { map, routes, policies, endpoints, certificates, resources, log, explain };
const EVERY = 2000;

const place = document.getElementById("view");
let shown = null;
let paused = false;

/** Shows the view that the address names: that, and nothing of the mesh, is in it. */
function show() {
  const name = location.hash.slice(1);
  if (name === "view") return;
  const view = VIEWS[name] ? name : "map";
  if (shown?.name === view) return;
  shown?.close?.();
  place.replaceChildren();
  const root = h("section", { "aria-label": VIEWS[view].title });
  place.append(root);
  shown = { name: view, source: VIEWS[view].source, ...VIEWS[view].open(root, { paused: () => paused }) };
  document.title = `${VIEWS[view].title} – waypoint`;
  for (const link of document.querySelectorAll("nav a")) {
    link.getAttribute("href") === `#${view}` ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  look();
}

async function ask(path) {
  const response = await fetch(path, { cache: "no-store" });
  if (!response.ok) throw new Error((await response.text()).trim() || `${response.status}`);
  return response.json();
}

/** Asks for what the view shows, and how the waypoint is. */
async function look() {
  const view = shown;
  const updated = document.getElementById("updated");
  try {
    const [status, data] = await Promise.all([ask("/view/status"), view.source && ask(view.source)]);
    replace(document.getElementById("status"), chips(status));
    if (data && view === shown) view.draw(data);
    replace(updated, `as of ${new Date().toLocaleTimeString("en-GB")}`);
    updated.className = "";
  } catch (error) {
    replace(updated, `no answer: ${error.message}`);
    updated.className = "failure";
  }
}

function chips(status) {
  const left = status.certificateSeconds;
  return [
    mark(status.ready ? "good" : "bad", status.state, status.reason ?? ""),
    mark("plain", identity(status.identity) || status.node, status.identity ?? ""),
    mark("plain", `up ${duration(status.uptimeSeconds)}`),
    left === null ? mark("bad", "no certificate")
      : mark(left > 3600 ? "plain" : "warn", `certificate ${duration(left)}`, status.certificateExpires),
    status.refused > 0 ? mark("bad", `${status.refused} refused`) : null,
    status.problems > 0 ? mark("warn", `${status.problems} problems`) : null,
  ];
}

function themes() {
  const button = document.getElementById("theme");
  const all = ["system", "light", "dark"];
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    replace(button, `Theme: ${theme}`);
    localStorage.setItem("theme", theme);
  };
  set(all.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system");
  button.addEventListener("click", () => set(all[(all.indexOf(document.documentElement.dataset.theme) + 1) % all.length]));
}

function pauses() {
  const button = document.getElementById("pause");
  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    replace(button, paused ? "Go on" : "Pause");
    if (!paused) look();
  });
}

async function keepLooking() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, EVERY));
    if (!paused && !document.hidden) await look();
  }
}

document.getElementById("views").append(...Object.entries(VIEWS).map(([name, view]) =>
  h("li", {}, h("a", { href: `#${name}` }, view.title))));
themes();
pauses();
addEventListener("hashchange", show);
show();
keepLooking();
