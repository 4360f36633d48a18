/** Streams that go on after their connection is lost. */
import { ApiError, stream } from './api.js';
import { SILENCE_MS, sleep, watch } from './watch.js';

const PAUSE_MS = 2000;
/** Statuses of a proxy without a daemon, and of a daemon that stops. */
const GATEWAY = new Set([502, 503, 504]);

/**
 * Events of a path with a query until the daemon ends the stream or `signal` aborts. After a broken
 * or silent connection it resumes behind the last event, and while a proxy answers for a daemon that
 * restarts it tries again. Throws `ApiError`.
 */
export async function* resumed(path, signal) {
  let last = null;
  for (;;) {
    const watched = watch(signal, SILENCE_MS);
    const after = last === null ? '' : `&after=${encodeURIComponent(last)}`;
    try {
      for await (const event of stream('GET', path + after, undefined, watched)) {
        last = event.id ?? last;
        yield event;
      }
      return;
    } catch (failure) {
      if (signal.aborted || (failure instanceof ApiError && !GATEWAY.has(failure.status))) throw failure;
    } finally {
      watched.end();
    }
    await sleep(PAUSE_MS, signal);
  }
}
