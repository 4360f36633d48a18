/** History of a record: its specs, their outcomes, and differences between generations. */
import { html, useState } from '../js/html.js';
import { get } from '../js/api.js';
import { clock, seconds, value } from '../js/format.js';
import { difference } from '../js/record.js';
import { useStore } from '../js/store.js';
import { Failure, useResource, useSettled } from '../js/ui.js';

const versionOf = (all) => all.version;
const keyOf = (one) => `${one.created_at} ${one.generation}`;
const place = (one) => (one.file ? `${one.file}${one.line ? `:${one.line}` : ''}` : one.owner);

export function History({ name }) {
  const version = useSettled(useStore(versionOf), 300);
  const path = `/api/v1/history?name=${encodeURIComponent(name)}`;
  const { data, error } = useResource((signal) => get(path, { signal }), [name, version]);
  const [chosen, setChosen] = useState({});
  if (!data) return html`<${Failure} error=${error} />`;
  const { history } = data;
  if (!history.length) return html`<p class="muted">Nothing happened yet.</p>`;
  const find = (key, usual) => history.find((one) => keyOf(one) === key) ?? usual;
  const after = find(chosen.after, history[0]);
  const before = find(chosen.before, history[1]);
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Table of generations"><table>
      <thead><tr><th>Generation</th><th>Wanted</th><th>Outcome</th><th>Load time</th><th>Declared in</th><th>Message</th></tr></thead>
      <tbody>${history.map((one) => html`<tr>
        <td>${one.generation}</td><td>${clock(one.wanted_at)}</td><td><span class="tag ${one.outcome.toLowerCase()}">${one.outcome}</span></td>
        <td>${seconds(one.load_time_seconds)}</td><td>${place(one)}</td><td>${one.message}</td></tr>`)}</tbody>
    </table></div>
    ${history.length > 1 && html`
      <div class="filters">
        <${Pick} label="Compare" history=${history} value=${before} onPick=${(one) => setChosen({ ...chosen, before: one })} />
        <${Pick} label="with" history=${history} value=${after} onPick=${(one) => setChosen({ ...chosen, after: one })} />
      </div>
      <${Difference} before=${before.spec} after=${after.spec} />`}`;
}

function Pick({ label, history, value: chosen, onPick }) {
  return html`<label>${label} <select value=${keyOf(chosen)} onChange=${(event) => onPick(event.target.value)}>
    ${history.map((one) => html`<option value=${keyOf(one)} selected=${one === chosen}>generation ${one.generation}, ${clock(one.wanted_at)}</option>`)}
  </select></label>`;
}

/** Differences between two specs, by key. */
export function Difference({ before, after }) {
  const rows = difference(before, after);
  if (!rows.length) return html`<p class="muted">No difference.</p>`;
  const cell = (one) => (one === undefined ? html`<span class="muted">not declared</span>` : value(one));
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of differences"><table class="difference">
    <thead><tr><th>Key</th><th>Before</th><th>After</th></tr></thead>
    <tbody>${rows.map((one) => html`<tr><td><code>${one.key}</code></td>
      <td class="removed">${cell(one.before)}</td><td class="added">${cell(one.after)}</td></tr>`)}</tbody>
  </table></div>`;
}
