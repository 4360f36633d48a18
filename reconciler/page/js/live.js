/** Keeps the store in sync with the daemon: events, the records that they concern, and metrics. */
import { get, onRefused, recordPath, stream } from './api.js';
import { current, set } from './store.js';
import { SILENCE_MS, sleep, watch } from './watch.js';

const KEPT_EVENTS = 2000;
const FLUSH_MS = 200;
const ONE_BY_ONE = 10;
const POLL_MS = 2000;
const SAMPLES = 150;
const LONGEST_PAUSE_MS = 5000;
/** Time limit of a poll. */
const POLL_LIMIT_MS = 15_000;

let last = null;
/** Changes to records since the last read, by name: `'gone'`, or any other value. */
let changed = new Map();
let readAll = false;
let flushing = null;
let stop = new AbortController();
let pause = 0;

/** Follow the daemon while the page is visible; a hidden page holds no connection. */
export function start() {
  onRefused(() => {
    stop.abort();
    set({ connection: 'token' });
  });
  document.addEventListener('visibilitychange', () => (document.hidden ? stop.abort() : resume()));
  resume();
}

/** Reconnect, for example after a token was entered. */
export function resume() {
  stop.abort();
  stop = new AbortController();
  if (current().connection === 'token') set({ connection: 'connecting' });
  follow(stop.signal);
  poll(stop.signal);
}

async function follow(signal) {
  while (!signal.aborted) {
    const watched = watch(signal, SILENCE_MS);
    try {
      await connect(watched);
    } catch {
      // The connection's state shows the error.
    } finally {
      watched.end();
    }
    if (signal.aborted) return;
    set({ connection: 'lost' });
    pause = Math.min(LONGEST_PAUSE_MS, pause * 2 || 250);
    await sleep(pause, signal);
  }
}

async function connect(watched) {
  const { signal } = watched;
  if (last === null) {
    const kept = [];
    const path = '/api/v1/events?follow=false';
    for await (const { event, data } of stream('GET', path, undefined, watched))
      if (event !== 'lost') kept.push(data);
    take(kept);
  }
  const { records } = await get('/api/v1/records', { signal });
  const { version, sourceVersion } = current();
  set({ records: byName(records), read: true, version: version + 1, sourceVersion: sourceVersion + 1 });
  const after = last === null ? '' : `?after=${encodeURIComponent(last)}`;
  const following = stream('GET', `/api/v1/events${after}`, undefined, watched);
  set({ connection: 'live' });
  for await (const { event, data } of following) {
    pause = 0;
    if (event === 'lost') {
      last = null;
      set({ events: [], progress: new Map(), sourceVersion: current().sourceVersion + 1 });
      readAll = true;
    } else {
      take([data]);
      if (data.type === 'source') set({ sourceVersion: current().sourceVersion + 1 });
      if (data.type === 'record' || data.type === 'transition')
        changed.set(data.name, data.reason === 'Removed' ? 'gone' : 'changed');
    }
    flushing ??= setTimeout(flush, FLUSH_MS);
  }
}

/** Store events and the progress of loads that they report. */
function take(events) {
  if (!events.length) return;
  last = events.at(-1).id;
  const progress = new Map(current().progress);
  for (const event of events) {
    if (event.type === 'phase') progress.set(event.name, event.progress);
    else if (event.type === 'transition' && !isLoading(event.conditions))
      progress.delete(event.name);
  }
  set({ events: [...current().events, ...events].slice(-KEPT_EVENTS), progress });
}

const isLoading = (conditions) =>
  (conditions ?? []).some((one) => one.type === 'Progressing' && one.status === 'True');

/**
 * Reread the records that events concerned, or all records if those are many. One read at a time:
 * the answers of two could overtake each other.
 */
async function flush() {
  const taken = changed;
  const all = readAll || taken.size > ONE_BY_ONE;
  let wait = FLUSH_MS;
  changed = new Map();
  readAll = false;
  try {
    set({ records: all ? byName((await get('/api/v1/records')).records) : await withChanges(taken) });
    set({ version: current().version + 1 });
  } catch {
    readAll = true;
    wait = POLL_MS;
  }
  flushing = null;
  // A connection that was lost reads all records when it is back.
  if ((readAll || changed.size) && current().connection === 'live') flushing = setTimeout(flush, wait);
}

async function withChanges(taken) {
  const found = await Promise.all([...taken].map(([name, what]) => (what === 'gone' ? null : one(name))));
  const records = new Map(current().records);
  for (const name of taken.keys()) records.delete(name);
  for (const record of found) if (record) records.set(record.name, record);
  return byName([...records.values()]);
}

async function one(name) {
  try {
    return await get(recordPath(name));
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

const byName = (records) =>
  new Map(records.sort((a, b) => (a.name < b.name ? -1 : 1)).map((one) => [one.name, one]));

async function poll(signal) {
  while (!signal.aborted) {
    const limited = watch(signal, POLL_LIMIT_MS);
    try {
      const [{ instances }, memory, node, health] = await Promise.all([
        get('/api/v1/instances', limited),
        get('/api/v1/memory', limited),
        get('/api/v1/node', limited),
        get('/health', limited).catch(degraded),
      ]);
      set({ memory, node, health });
      sample(instances);
    } catch {
      // The connection's state shows it.
    } finally {
      limited.end();
    }
    await sleep(POLL_MS, signal);
  }
}

function degraded(error) {
  if (error.status !== 503) throw error;
  return { status: 'degraded', message: error.message };
}

function sample(instances) {
  const time = Date.now();
  const samples = new Map();
  for (const one of instances)
    samples.set(one.name, [...(current().samples.get(one.name) ?? []), { time, ...one }].slice(-SAMPLES));
  set({ samples });
}
