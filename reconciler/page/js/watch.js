/** Ends requests on a connection that has died silently, as after a change of network. */

/** Longest silence of a stream, in which the daemon sends a comment every 15 s. */
export const SILENCE_MS = 40_000;

/**
 * A signal that aborts with `outer`, or once `touch` was not called for `ms` milliseconds. Call
 * `end` after the requests that use it.
 */
export function watch(outer, ms) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  let timer = null;
  const touch = () => {
    clearTimeout(timer);
    timer = setTimeout(abort, ms);
  };
  const end = () => {
    clearTimeout(timer);
    outer.removeEventListener('abort', abort);
  };
  outer.addEventListener('abort', abort);
  if (outer.aborted) abort();
  touch();
  return { signal: controller.signal, touch, end };
}

/** Wait for some milliseconds, or until `signal` aborts. */
export function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
