// From counters to rates: numbers count from the process's start, so two looks make a rate.

const WINDOW = 30_000;

/** Keeps looks at the traffic of the last half minute. */
export class Rates {
  #looks = [];

  /** Takes a look; gives every pair of caller and service with what it did since the oldest look kept. */
  add(data) {
    const now = data.uptimeMilliseconds;
    const last = this.#looks.at(-1);
    // Another process answers: what was counted before is another's.
    if (last && last.at > now) this.#looks = [];
    const edges = new Map(data.edges.map((edge) => [keyOf(edge), edge]));
    this.#looks.push({ at: now, edges });
    while (this.#looks.length > 2 && now - this.#looks[0].at > WINDOW) this.#looks.shift();
    const first = this.#looks[0];
    const seconds = (now - first.at) / 1000;
    return data.edges.map((edge) => flow(edge, first.edges.get(keyOf(edge)), seconds));
  }
}

export function keyOf(edge) {
  const { source, destination } = edge;
  return [source.principal, source.namespace, source.workload, destination.service, edge.protocol].join("\n");
}

function flow(edge, before, seconds) {
  const since = (number) => {
    const now = number(edge);
    const then = before ? number(before) : 0;
    return now < then ? now : now - then;
  };
  const fresh = seconds > 0;
  const recent = fresh ? since((one) => one.calls) : edge.calls;
  const errors = fresh ? since(errorsOf) : errorsOf(edge);
  const denied = fresh ? since((one) => one.denied) : edge.denied;
  const buckets = edge.durations.buckets.map(([bound, total], place) => {
    const then = before?.durations.buckets[place]?.[1] ?? 0;
    return [bound, fresh && total >= then ? total - then : total];
  });
  const timed = fresh ? since((one) => one.durations.count) : edge.durations.count;
  return {
    key: keyOf(edge),
    edge,
    rate: fresh ? recent / seconds : null,
    recent,
    errors: recent > 0 ? errors / recent : null,
    denied: recent > 0 ? denied / recent : null,
    p50: quantile(0.5, buckets, timed),
    p99: quantile(0.99, buckets, timed),
  };
}

/** What the mesh failed at: no answer, or one of 5xx. */
function errorsOf(edge) {
  return edge.codes.none + edge.codes["5xx"];
}

/** As Prometheus estimates it: even within a bucket. `null`: nothing was timed. */
export function quantile(share, buckets, total) {
  if (!(total > 0)) return null;
  const rank = share * total;
  let [below, before] = [0, 0];
  for (const [bound, upTo] of buckets) {
    if (upTo >= rank) {
      const within = upTo - before;
      return within > 0 ? below + (bound - below) * ((rank - before) / within) : bound;
    }
    [below, before] = [bound, upTo];
  }
  return below;
}
