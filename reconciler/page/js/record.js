/** Views of a record as the API serves it; this module decides nothing. */
import { words } from './format.js';

export const condition = (record, type) =>
  record.status.conditions.find((one) => one.type === type);

/**
 * State of a record: `kind` for its colour, a short `label`, and `message` with the reason.
 * @returns {{kind: 'ready' | 'busy' | 'bad' | 'rest', label: string, message: string}}
 */
export function state(record) {
  const ready = condition(record, 'Ready');
  const holds = (type) => condition(record, type)?.status === 'True';
  if (!ready) return { kind: 'busy', label: 'Pending', message: '' };
  const label = words(ready.reason);
  if (holds('Ready')) return { kind: 'ready', label: 'Ready', message: ready.message };
  const kind = holds('Progressing') ? 'busy' : holds('Stalled') ? 'bad' : 'rest';
  return { kind, label, message: ready.message };
}

/** True if the spec comes from a manifest, so that only its file changes it. */
export const isDeclared = (record) => record.owner !== 'http';

/** Readable origin of the spec. */
export function origin(record) {
  if (!isDeclared(record)) return 'HTTP';
  const place = record.file ?? record.owner;
  return record.line === null ? place : `${place}:${record.line}`;
}

/**
 * Declared and effective value of each setting.
 * @returns {{key: string, asked: unknown, inForce: unknown, differs: boolean, why: string}[]}
 */
export function settings(record) {
  const { spec, status } = record;
  const why = (key) => status.warnings.find((one) => one.key === key)?.reason ?? '';
  const config = Object.keys(status.config ?? spec.config);
  const rows = config.map((key) => row(key, spec.config[key], status.config?.[key], why(key)));
  const defaults = new Map(status.defaults.map((one) => [one.key, one]));
  for (const key of new Set([...Object.keys(spec.defaults ?? {}), ...defaults.keys()])) {
    const named = `defaults.${key}`;
    const found = defaults.get(key);
    const note = why(named) || (found?.source === 'generation_config' ? 'from generation_config.json' : '');
    rows.push(row(named, spec.defaults?.[key], found?.value, note));
  }
  return rows;
}

function row(key, asked, inForce, why) {
  const both = asked !== undefined && asked !== null && inForce !== undefined && inForce !== null;
  return { key, asked, inForce, why, differs: both && !equal(asked, inForce) };
}

const equal = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** Warnings that are in no row of `settings`. */
export const otherWarnings = (record) => {
  const shown = new Set(settings(record).map((one) => one.key));
  return record.status.warnings.filter((one) => !shown.has(one.key));
};

/** Leaf values with their dotted paths, for a comparison. */
function flat(value, prefix = '') {
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    return [[prefix, value]];
  return Object.entries(value).flatMap(([key, inner]) => flat(inner, prefix ? `${prefix}.${key}` : key));
}

/** Differences between two specs: `{key, before, after}`, undefined for a missing key. */
export function difference(before, after) {
  const [old, fresh] = [new Map(flat(before)), new Map(flat(after))];
  return [...new Set([...old.keys(), ...fresh.keys()])]
    .map((key) => ({ key, before: old.get(key), after: fresh.get(key) }))
    .filter((one) => !equal(one.before, one.after));
}
