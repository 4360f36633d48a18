/** Readable forms of numbers, times and reasons. */

export function bytes(size) {
  if (size === null || size === undefined) return '–';
  for (const [unit, factor] of [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]])
    if (size >= factor) return `${(size / factor).toFixed(1)} ${unit}`;
  return `${size} B`;
}

export function seconds(value) {
  if (value === null || value === undefined) return '–';
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function number(value, digits = 0) {
  return value.toLocaleString('en', { maximumFractionDigits: digits });
}

const CLOCK = { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false };
const DAY = { month: 'short', day: 'numeric' };

/** Time of day, with the date if it is not today. */
export function clock(text) {
  const time = new Date(text);
  const today = time.toDateString() === new Date().toDateString();
  const shown = time.toLocaleTimeString('en', CLOCK);
  return today ? shown : `${time.toLocaleDateString('en', DAY)}, ${shown}`;
}

export function ago(text) {
  const past = Math.max(0, (Date.now() - new Date(text)) / 1000);
  for (const [unit, length] of [['d', 86400], ['h', 3600], ['min', 60]])
    if (past >= length) return `${Math.floor(past / length)} ${unit} ago`;
  return 'just now';
}

/** A reason of a condition as words: `WaitingForMemory` is "Waiting for memory". */
export function words(reason) {
  const spaced = reason.replace(/([a-z])([A-Z])/g, '$1 $2');
  return spaced.charAt(0).toUpperCase() + spaced.slice(1).replace(/\b[A-Z](?=[a-z])/g, (one) => one.toLowerCase());
}

/** Readable form of a setting's value. */
export function value(one) {
  if (one === undefined || one === null) return 'default';
  if (typeof one === 'object') return JSON.stringify(one);
  return typeof one === 'number' && Number.isInteger(one) ? number(one) : String(one);
}
