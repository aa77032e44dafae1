// Certificates: the workload's own and the roots that peers are checked against, with the time they have left.

import { bar, duration, h, mark, percent, replace, table } from "./elements.js";

export const title = "Certificates";
export const source = "/certs";

export function open(root) {
  const list = h("div");
  root.append(h("h2", {}, title), list);
  return {
    draw(data) {
      const rows = data.certificates.flatMap((one) => [
        ...one.cert_chain.map((certificate, place) => ({ kind: place === 0 ? "this waypoint" : "intermediate", ...certificate })),
        ...one.ca_cert.map((certificate) => ({ kind: "root", ...certificate })),
      ]);
      replace(list, certificates(rows));
    },
  };
}

function certificates(rows) {
  return table("Certificates", [
    { title: "Whose", cell: (row) => row.kind },
    { title: "Names", cell: (row) => row.subject_alt_names.map(({ uri }) => h("code", {}, uri)) },
    { title: "Serial number", cell: (row) => h("code", { class: "long" }, row.serial_number) },
    { title: "From", cell: (row) => time(row.valid_from) },
    { title: "To", cell: (row) => time(row.expiration_time) },
    { title: "Left", cell: left },
  ], rows, "There is no certificate yet.");
}

function time(text) {
  return h("time", { datetime: text }, text.replace("T", " ").replace("Z", ""));
}

function left(row) {
  const [from, to, now] = [Date.parse(row.valid_from), Date.parse(row.expiration_time), Date.now()];
  const share = Math.max(0, (to - now) / Math.max(1, to - from));
  const text = to > now ? duration((to - now) / 1000) : "expired";
  // Certificates are renewed at half of their life.
  const kind = share <= 0 ? "bad" : share < 0.2 ? "warn" : "good";
  return [mark(kind, text), bar(share, null, `${percent(share)} of its life is left`)];
}
