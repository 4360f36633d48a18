/** Requests to the daemon, with the token if one is required. */

const KEY = 'reconciler-token';
let refused = () => {};

/** An error in the daemon's format. */
export class ApiError extends Error {
  /** `answer` is the body. A degraded daemon's has a `message` and no `error`. */
  constructor(status, answer) {
    const error = answer?.error ?? {};
    super(error.message ?? answer?.message ?? `The daemon answered with status ${status}.`);
    this.status = status;
    this.code = error.code;
    this.param = error.param;
  }
}

export function setToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

export function hasToken() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Register `callback` for requests that the daemon refuses without a valid token. */
export function onRefused(callback) {
  refused = callback;
}

/** Path of a record. */
export function recordPath(name) {
  return `/api/v1/records/${encodeURIComponent(name)}`;
}

/** A text for a header: one character for each byte of its UTF-8, as `fetch` refuses any others. */
const utf8 = (text) => String.fromCharCode(...new TextEncoder().encode(text));

async function send(method, path, body, { signal, accept } = {}) {
  const headers = { Accept: accept ?? 'application/json' };
  const token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${utf8(token)}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const reply = await fetch(path, { method, headers, body: sent, signal, cache: 'no-store' });
  if (reply.ok) return reply;
  // Ignore a refusal of an earlier token.
  if (reply.status === 401 && token === sessionStorage.getItem(KEY)) refused();
  throw new ApiError(reply.status, await reply.json().catch(() => null));
}

/** Send a request; returns the parsed response. Throws `ApiError`. */
export async function request(method, path, body, options) {
  return (await send(method, path, body, options)).json();
}

export const get = (path, options) => request('GET', path, undefined, options);

/**
 * Server-sent events as they arrive: `{id, event, data}`, with `data` parsed if it is JSON.
 * `touch` is called whenever something arrives, comments included. Throws `ApiError`.
 */
export async function* stream(method, path, body, options) {
  const reply = await send(method, path, body, { ...options, accept: 'text/event-stream' });
  let event = fresh();
  for await (const line of lines(reply.body, options?.touch)) {
    if (line === '') {
      if (event.data !== null) yield parsed(event);
      event = fresh();
      continue;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') event.data = event.data === null ? value : `${event.data}\n${value}`;
    else if (field === 'event') event.event = value;
    else if (field === 'id') event.id = value;
  }
}

const fresh = () => ({ id: null, event: 'message', data: null });

function parsed(event) {
  try {
    return { ...event, data: JSON.parse(event.data) };
  } catch {
    return event;
  }
}

async function* lines(body, touch) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      touch?.();
      if (done) return;
      const found = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = found.pop();
      yield* found;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
