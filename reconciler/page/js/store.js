/** What the page knows: one object, changed by `set`, and read by components with `useStore`. */
import { useEffect, useState } from './html.js';

const state = {
  /** @type {'connecting' | 'live' | 'lost' | 'token'} */
  connection: 'connecting',
  /** @type {Map<string, object>} Records by name. */
  records: new Map(),
  /** True once the records were read. */
  read: false,
  /** Counts changes of records and sources; what is derived from them is read again. */
  version: 0,
  /** Counts events of sources: errors that came or went. */
  sourceVersion: 0,
  /** The last events, the oldest first. */
  events: [],
  /** How far loads are, by record. */
  progress: new Map(),
  memory: null,
  /** Samples of the last minutes by instance, the oldest first. */
  samples: new Map(),
  node: null,
  health: null,
  /** What a screen reader says next. */
  announcement: '',
};

const listeners = new Set();

export const current = () => state;

export function set(patch) {
  Object.assign(state, patch);
  for (const listener of [...listeners]) listener();
}

export function announce(text) {
  set({ announcement: text });
}

/** A value picked from the state; the component is rendered again when it is another one. */
export function useStore(pick) {
  const [value, setValue] = useState(() => pick(state));
  useEffect(() => {
    const listener = () => setValue(() => pick(state));
    listeners.add(listener);
    listener();
    return () => listeners.delete(listener);
  }, [pick]);
  return value;
}
