// The events of the page, over a connection that falls silent. Time is simulated.
import assert from 'node:assert';
import { mock } from 'node:test';

mock.timers.enable({ apis: ['setTimeout'] });
globalThis.document = { hidden: false, addEventListener() {} };
globalThis.sessionStorage = { getItem: () => null };

const ANSWERS = { records: { records: [] }, instances: { instances: [] } };
const streams = [];
const pending = new Set();

globalThis.fetch = async (path, { signal }) => {
  const name = path.split('?')[0].split('/').at(-1);
  if (name !== 'events') return Response.json(ANSWERS[name] ?? {});
  if (path.includes('follow=false')) return new Response('');
  let controller;
  const body = new ReadableStream({ start: (one) => (controller = one) });
  const stream = { send: (text) => controller.enqueue(new TextEncoder().encode(text)), path };
  pending.add(stream);
  signal.addEventListener('abort', () => {
    pending.delete(stream);
    controller.error(new DOMException('aborted', 'AbortError'));
  });
  streams.push(stream);
  return new Response(body);
};

const { current } = await import('./js/store.js');
const { start } = await import('./js/live.js');

/** Let everything run that waits for no timer. */
const settle = async () => {
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
};
const pass = async (ms) => {
  mock.timers.tick(ms);
  await settle();
};

start();
await settle();
assert.equal(current().connection, 'live');

for (let i = 0; i < 10; i++) {
  await pass(15_000);
  streams[0].send(': ping\r\n\r\n');
  await settle();
}
assert.equal(current().connection, 'live', 'comments keep the connection');
assert.equal(streams.length, 1);

streams[0].send('id: 7\nevent: record\ndata: {"id": "7", "type": "record", "name": "a"}\n\n');
await settle();
await pass(39_000);
assert.equal(current().connection, 'live');
await pass(2_000);
assert.equal(current().connection, 'lost', 'a silent connection is not live');
assert.equal(pending.size, 0, 'its request was ended');

await pass(5_000);
assert.equal(current().connection, 'live', 'a new connection is made');
assert.equal(streams.length, 2);
assert.match(streams[1].path, /after=7/);
console.log('held');
process.exit(0);
