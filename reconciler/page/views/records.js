/** All records with their state, settings and memory. */
import { html, useEffect, useMemo, useState } from '../js/html.js';
import { bytes, number } from '../js/format.js';
import { isDeclared, origin, settings, state } from '../js/record.js';
import { rate } from '../js/rates.js';
import { useStore } from '../js/store.js';
import { State, withCode } from '../js/ui.js';
import { MemoryBar } from './memory.js';
import { SourceErrors } from './sources.js';

const PER_PAGE = 50;
const recordsOf = (all) => all.records;
const progressOf = (all) => all.progress;
const samplesOf = (all) => all.samples;
const isRead = (all) => all.read;

const KINDS = { ready: 'Ready', busy: 'In progress', bad: 'Stalled', rest: 'Resting' };

export function Records() {
  const records = useStore(recordsOf);
  const read = useStore(isRead);
  const [text, setText] = useState('');
  const [kind, setKind] = useState('');
  const [page, setPage] = useState(0);
  const counts = useMemo(() => count(records), [records]);
  const found = useMemo(() => matching(records, text, kind), [records, text, kind]);
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  const shown = Math.min(page, pages - 1);
  useEffect(() => setPage(0), [text, kind]);
  if (read && !records.size) return html`<${Empty} />`;
  return html`
    <div class="title">
      <h1>Instances</h1>
      <a class="button primary" href="#/load">Load a model</a>
    </div>
    <${SourceErrors} />
    <${MemoryBar} />
    <div class="filters">
      <input type="search" aria-label="Filter by name, model or file" placeholder="Filter by name, model or file"
        value=${text} onInput=${(event) => setText(event.target.value)} />
      <div class="chips" role="group" aria-label="Filter by state">
        <button type="button" aria-pressed=${kind === ''} onClick=${() => setKind('')}>All ${records.size}</button>
        ${Object.entries(KINDS).map(([one, label]) => html`
          <button type="button" aria-pressed=${kind === one} onClick=${() => setKind(one)}>${label} ${counts[one] ?? 0}</button>`)}
      </div>
    </div>
    ${read && !found.length && html`<p class="muted">No instance matches the filter.</p>`}
    <ul class="rows" aria-label="Instances">
      ${found.slice(shown * PER_PAGE, (shown + 1) * PER_PAGE).map((record) => html`<${Row} key=${record.name} record=${record} />`)}
    </ul>
    ${pages > 1 && html`<nav class="pager" aria-label="Pages">
      <button type="button" disabled=${shown === 0} onClick=${() => setPage(shown - 1)}>Previous</button>
      <span>Page ${shown + 1} of ${pages}</span>
      <button type="button" disabled=${shown === pages - 1} onClick=${() => setPage(shown + 1)}>Next</button>
    </nav>`}`;
}

function Row({ record }) {
  const progress = useStore(progressOf).get(record.name);
  const samples = useStore(samplesOf).get(record.name);
  const { kind, message } = state(record);
  const differing = settings(record).filter((one) => one.differs).length;
  const speed = rate(samples, 'completion_tokens');
  const requests = samples?.at(-1).requests ?? 0;
  return html`<li>
    <a class="row" href="#/record/${encodeURIComponent(record.name)}">
      <span class="row-name">
        <b>${record.name}</b>
        ${record.spec.model !== record.name && html`<span class="muted">${record.spec.model}</span>`}
      </span>
      <${State} record=${record} progress=${progress} />
      <span class="row-figures muted">
        ${requests > 0 && html`<span class="busy-text">${requests === 1 ? '1 request' : `${requests} requests`}</span>`}
        ${speed > 0 && html`<span class="busy-text">${number(speed)} tokens/s</span>`}
        ${record.status.memory_bytes !== null && html`<span>${bytes(record.status.memory_bytes)}</span>`}
        <span title=${record.owner}>${isDeclared(record) ? origin(record) : 'HTTP'}</span>
      </span>
      ${kind !== 'ready' && html`<span class="row-why">${withCode(message)}</span>`}
      ${differing > 0 && html`<span class="row-why warn">${differing === 1 ? '1 setting is' : `${differing} settings are`} not in force as declared</span>`}
      ${record.source_errors.map((one) => html`<span class="row-why warn">${place(one)}${one.message}</span>`)}
    </a>
  </li>`;
}

const place = (error) => (error.file ? `${error.file}:${error.line}: ` : '');

function count(records) {
  const counts = {};
  for (const record of records.values()) {
    const { kind } = state(record);
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}

function matching(records, text, kind) {
  const wanted = text.trim().toLowerCase();
  return [...records.values()].filter((record) => {
    if (kind && state(record).kind !== kind) return false;
    const all = `${record.name} ${record.spec.model} ${record.file ?? ''} ${record.owner} ${state(record).label}`;
    return all.toLowerCase().includes(wanted);
  });
}

function Empty() {
  return html`<${SourceErrors} /><div class="empty">
    <h1>No model is declared yet</h1>
    <p>Load one here, or put a manifest into the directory that the daemon follows. Either way it
      stays loaded until it is removed, also after a restart.</p>
    <p><a class="button primary" href="#/load">Load a model</a> <a class="button" href="#/models">Models on disk</a></p>
  </div>`;
}
