/** Events with filters, and logs of worker processes. */
import { html, useEffect, useMemo, useRef, useState } from '../js/html.js';
import { clock, words } from '../js/format.js';
import { resumed } from '../js/resume.js';
import { useStore } from '../js/store.js';
import { Failure, Section, withCode } from '../js/ui.js';

const eventsOf = (all) => all.events;
const recordsOf = (all) => all.records;
const SHOWN = 200;
const KEPT_LINES = 1000;
const TYPES = ['transition', 'record', 'source', 'phase', 'state'];

export function Events() {
  const records = useStore(recordsOf);
  const [name, setName] = useState('');
  return html`
    <h1>Events and logs</h1>
    <${EventList} />
    <${Section} id="logs" title="Log of a worker process">
      <label for="log-of">Instance</label> <select id="log-of" value=${name} onChange=${(event) => setName(event.target.value)}>
        <option value="">Choose an instance</option>
        ${[...records.keys()].map((one) => html`<option>${one}</option>`)}
      </select>
      ${name && html`<${Log} key=${name} name=${name} />`}
    <//>`;
}

/** Events, the newest first; those of one record if `name` is given. */
export function EventList({ name }) {
  const events = useStore(eventsOf);
  const [text, setText] = useState('');
  const [type, setType] = useState('');
  const found = useMemo(() => {
    const wanted = text.trim().toLowerCase();
    const matches = (one) =>
      (!name || one.name === name) &&
      (type ? one.type === type : one.type !== 'phase') &&
      `${one.name} ${one.reason} ${one.message}`.toLowerCase().includes(wanted);
    return events.filter(matches).reverse();
  }, [events, text, type, name]);
  return html`
    ${!name && html`<div class="filters">
      <input type="search" aria-label="Filter events" placeholder="Filter by name or text" value=${text}
        onInput=${(event) => setText(event.target.value)} />
      <select aria-label="Type of event" value=${type} onChange=${(event) => setType(event.target.value)}>
        <option value="">All but phases of loads</option>
        ${TYPES.map((one) => html`<option>${one}</option>`)}
      </select>
    </div>`}
    ${found.length
      ? html`<ol class="events">${found.slice(0, SHOWN).map((one) => html`<li key=${one.id}>
          <time datetime=${one.time}>${clock(one.time)}</time>
          <span>${!name && html`<b>${one.name}</b> `}<span class="tag">${words(one.reason)}</span>
            ${withCode(one.message)}</span>
        </li>`)}</ol>`
      : html`<p class="muted">No events.</p>`}
    ${found.length > SHOWN && html`<p class="muted">The newest ${SHOWN} of ${found.length}.</p>`}`;
}

/** Log lines of an instance's worker process as they are written. */
export function Log({ name }) {
  const [lines, setLines] = useState([]);
  const [error, setError] = useState(null);
  const box = useRef(null);
  useEffect(() => {
    const stop = new AbortController();
    const path = `/api/v1/logs/stream?name=${encodeURIComponent(name)}`;
    async function follow() {
      for await (const { event, data } of resumed(path, stop.signal)) {
        const line = event === 'lost' ? { time: new Date().toISOString(), line: `(${data.message})` } : data;
        setLines((old) => [...old, line].slice(-KEPT_LINES));
      }
    }
    follow().catch((failure) => stop.signal.aborted || setError(failure));
    return () => stop.abort();
  }, [name]);
  useEffect(() => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  if (error?.status === 404) return html`<p class="muted">No worker process has run for it since the daemon started.</p>`;
  return html`<${Failure} error=${error} />
    ${lines.length
      ? html`<pre class="log" ref=${box} tabindex="0" aria-label="Log of ${name}">${lines.map((one) => `${clock(one.time)}  ${one.line}\n`).join('')}</pre>`
      : html`<p class="muted">The worker process has written nothing yet.</p>`}`;
}
