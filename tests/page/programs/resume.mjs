// A log of the page, over connections that fall silent and break. Time is simulated.
import assert from 'node:assert';
import { mock } from 'node:test';

mock.timers.enable({ apis: ['setTimeout'] });
globalThis.sessionStorage = { getItem: () => null };

const streams = [];
let status = 200;
globalThis.fetch = async (path, { signal }) => {
  let controller;
  const body = new ReadableStream({ start: (one) => (controller = one) });
  const send = (text) => controller.enqueue(new TextEncoder().encode(text));
  streams.push({ path, send, end: () => controller.close(), fail: () => controller.error(new TypeError('reset')) });
  signal.addEventListener('abort', () => controller.error(new DOMException('aborted', 'AbortError')));
  return new Response(body, { status });
};

const { resumed } = await import('./js/resume.js');

/** Let everything run that waits for no timer. */
const settle = async () => {
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
};
const pass = async (ms) => {
  mock.timers.tick(ms);
  await settle();
};

const seen = [];
let ended = false;
async function follow() {
  for await (const { event, data } of resumed('/logs?name=a', new AbortController().signal))
    seen.push([event, data]);
  ended = true;
}
follow();
await settle();
streams[0].send('id: r-1\nevent: line\ndata: 1\n\n');
await settle();
await pass(39_000);
assert.equal(streams.length, 1);
await pass(2_000); // it is silent
await pass(2_000); // the pause
assert.equal(streams.length, 2);
assert.equal(streams[1].path, '/logs?name=a&after=r-1');
streams[1].send('id: r-2\nevent: line\ndata: 2\n\n');
await settle();
streams[1].fail();
await settle();
await pass(2_000);
assert.equal(streams[2].path, '/logs?name=a&after=r-2');
status = 502; // a proxy, while the daemon restarts
streams[2].fail();
await settle();
await pass(2_000);
streams[3].end();
await settle();
status = 200;
await pass(2_000);
assert.equal(streams[4].path, '/logs?name=a&after=r-2');
streams[4].end();
await settle();
assert.deepEqual([seen, ended], [[['line', 1], ['line', 2]], true]);
console.log('resumed');
process.exit(0);
