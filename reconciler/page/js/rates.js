/** Rates from samples of monotonic counters; a lower value means that the counter was reset. */

const between = (a, b) => (b.time - a.time) / 1000;

/** Growth of `key` per second between the last two samples. */
export function rate(samples, key) {
  if (!samples || samples.length < 2) return 0;
  const [a, b] = samples.slice(-2);
  return Math.max(0, b[key] - a[key]) / between(a, b);
}

/** Growth of `key` per second at each sample, as `{time, value}`. */
export function rates(samples, key) {
  return pairs(samples).map(([a, b]) => ({
    time: b.time,
    value: Math.max(0, b[key] - a[key]) / between(a, b),
  }));
}

/** Growth of `key` divided by that of `by` between samples; null if `by` did not grow. */
export function ratios(samples, key, by) {
  return pairs(samples).map(([a, b]) => ({
    time: b.time,
    value: b[by] > a[by] ? (b[key] - a[key]) / (b[by] - a[by]) : null,
  }));
}

/** Values of a gauge. */
export function values(samples, key) {
  return (samples ?? []).map((one) => ({ time: one.time, value: one[key] }));
}

const pairs = (samples) => (samples ?? []).slice(1).map((one, i) => [samples[i], one]);
