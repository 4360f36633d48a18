/** State of the page: one object that `set` changes and components read with `useStore`. */
import { useEffect, useState } from './html.js';

const state = {
  /** @type {'connecting' | 'live' | 'lost' | 'token'} */
  connection: 'connecting',
  /** @type {Map<string, object>} Records by name. */
  records: new Map(),
  /** True once the records were read. */
  read: false,
  /** Counter of changes to records and sources; views reread derived data when it changes. */
  version: 0,
  /** Counter of events of sources: errors that appeared or were resolved. */
  sourceVersion: 0,
  /** The last events, the oldest first. */
  events: [],
  /** Progress of loads, by record. */
  progress: new Map(),
  memory: null,
  /** Samples of the last minutes by instance, the oldest first. */
  samples: new Map(),
  node: null,
  health: null,
  /** Next announcement for screen readers. */
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

/** A value selected from the state; the component rerenders when it changes. */
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
