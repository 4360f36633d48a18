/** One record: its state with the reason, its declared and its effective settings. */
import { html, useState } from '../js/html.js';
import { recordPath, request } from '../js/api.js';
import { ago, bytes, clock, seconds, value, words } from '../js/format.js';
import { condition, isDeclared, origin, otherWarnings, settings, state } from '../js/record.js';
import { useStore } from '../js/store.js';
import { Copyable, Dialog, Failure, Section, State, useAction, withCode } from '../js/ui.js';
import { manifest } from '../js/yaml.js';
import { Charts } from './charts.js';
import { Edit } from './edit.js';
import { EventList, Log } from './events.js';
import { History } from './history.js';
import { Progress } from './load.js';
import { Recipes } from './recipes.js';

const recordsOf = (all) => all.records;
const progressOf = (all) => all.progress;
const isRead = (all) => all.read;

export function RecordView({ argument: name }) {
  const record = useStore(recordsOf).get(name);
  const read = useStore(isRead);
  if (!record)
    return html`<h1>${name}</h1><p>${read ? 'There is no such record; it may have been removed.' : ''}</p>
      ${read && html`<${Section} id="history" title="History"><${History} name=${name} /><//>`}`;
  return html`<${Known} record=${record} />`;
}

function Known({ record }) {
  const progress = useStore(progressOf).get(record.name);
  const { kind, message } = state(record);
  const { status } = record;
  const [log, setLog] = useState(false);
  return html`
    <p class="crumb"><a href="#/">Instances</a></p>
    <div class="title"><h1>${record.name}</h1><${State} record=${record} progress=${progress} /></div>
    <p class="why ${kind}">${withCode(message)}</p>
    ${progress && kind === 'busy' && html`<${Progress} progress=${progress} />`}
    ${record.source_errors.map((one) => html`<p class="note bad">
      ${one.file && html`<code>${one.file}${one.line ? `:${one.line}` : ''}</code> `}${one.key && html`<code>${one.key}</code> `}${one.message}</p>`)}
    <${Buttons} record=${record} />
    <${Section} id="settings" title="Declared and in force"><${Settings} record=${record} /><//>
    <${Section} id="conditions" title="Conditions">
      <div class="scroll" tabindex="0" role="region" aria-label="Table of conditions"><table>
        <thead><tr><th>Condition</th><th>Status</th><th>Reason</th><th>Since</th><th>Message</th></tr></thead>
        <tbody>${status.conditions.map((one) => html`<tr>
          <td>${one.type}</td><td>${one.status}</td><td>${words(one.reason)}</td>
          <td title=${clock(one.last_transition_time)}>${ago(one.last_transition_time)}</td><td>${withCode(one.message)}</td></tr>`)}</tbody>
      </table></div>
    <//>
    ${status.load_time_seconds !== null && html`<${Section} id="phases" title="Load time"><${Phases} status=${status} /><//>`}
    ${status.worker_pid !== null && html`<${Section} id="activity" title="Last five minutes"><${Charts} name=${record.name} /><//>`}
    <${Section} id="facts" title="Facts"><${Facts} record=${record} /><//>
    <${Section} id="history" title="History"><${History} name=${record.name} /><//>
    <${Section} id="events" title="Events"><${EventList} name=${record.name} /><//>
    <details class="section" open=${log} onToggle=${(event) => setLog(event.currentTarget.open)}>
      <summary>Log of its worker process</summary>${log && html`<${Log} key=${status.worker_pid} name=${record.name} />`}
    </details>`;
}

function Buttons({ record }) {
  const [open, setOpen] = useState('');
  const declared = isDeclared(record);
  const { name, spec } = record;
  const [act, busy, error] = useAction(async (what) => {
    if (what === 'clear') await request('POST', `${recordPath(name)}/clear`);
    else await request('PUT', recordPath(name), { spec: { ...spec, suspend: what === 'suspend' } });
  });
  const close = () => setOpen('');
  const { kind } = state(record);
  return html`
    <div class="buttons">
      ${kind === 'ready' && record.status.type !== 'embedding' && html`<a class="button primary" href="#/chat/${encodeURIComponent(name)}">Chat</a>`}
      ${condition(record, 'Ready')?.reason === 'ModelNotFound' && html`<a class="button primary" href="#/models/${encodeURIComponent(spec.model)}">Pull ${spec.model}</a>`}
      ${(kind === 'bad' || waits(record)) && html`<button type="button" disabled=${busy} onClick=${() => act('clear')}>Try again now</button>`}
      ${!declared && html`
        <button type="button" onClick=${() => setOpen('edit')}>Edit</button>
        <button type="button" disabled=${busy} onClick=${() => act(spec.suspend ? 'resume' : 'suspend')}>${spec.suspend ? 'Load again' : 'Suspend'}</button>
        <button type="button" class="danger" onClick=${() => setOpen('unload')}>Unload and remove</button>
        <button type="button" onClick=${() => setOpen('manifest')}>Save as manifest</button>`}
      <button type="button" onClick=${() => setOpen('recipes')}>Use in a client</button>
    </div>
    ${declared && html`<p class="note">Declared in <code>${origin(record)}</code> of ${record.owner}. Change it there:
      what a manifest declares is changed by its file alone; <code>suspend: true</code> unloads it.</p>`}
    <${Failure} error=${error} />
    ${open === 'edit' && html`<${Dialog} title="Edit ${name}" onClose=${close}><${Edit} record=${record} onDone=${close} /><//>`}
    ${open === 'unload' && html`<${Dialog} title="Unload ${name}" onClose=${close}><${Unload} name=${name} /><//>`}
    ${open === 'recipes' && html`<${Dialog} title="Use ${name} in a client" onClose=${close}><${Recipes} name=${name} /><//>`}
    ${open === 'manifest' && html`<${Dialog} title="Save ${name} as a manifest" onClose=${close}>
      <p>Put this into a file of a directory that the daemon follows, such as <code>~/.reconciler/manifests/${name.replace(/\//g, '-')}.yaml</code>. The manifest takes the record over; nothing is loaded again.</p>
      <${Copyable} label="Manifest" text=${manifest(name, spec)} /><//>`}`;
}

/** True if a retry is scheduled, which a user may want to start now. */
const waits = (record) => condition(record, 'Ready')?.reason === 'BackingOff';

function Unload({ name }) {
  const [unload, busy, error] = useAction(async () => {
    await request('POST', '/api/v1/models/unload', { instance_id: name });
    location.hash = '#/';
  });
  return html`<p>The record goes, for every client. Requests that run get up to 30 s to finish.</p>
    <${Failure} error=${error} />
    <p class="buttons"><button type="button" class="danger" disabled=${busy} onClick=${unload}>${busy ? 'Unloading' : 'Unload and remove'}</button></p>`;
}

function Settings({ record }) {
  const rows = settings(record);
  return html`
    ${!rows.length && html`<p class="muted">No setting is declared. Which are in force shows once it is loaded.</p>`}
    ${rows.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Table of settings"><table class="settings">
      <thead><tr><th>Setting</th><th>Declared</th><th>In force</th><th>Why they differ</th></tr></thead>
      <tbody>${rows.map((one) => html`<tr class=${one.differs || one.why ? 'differs' : ''}>
        <td><code>${one.key}</code></td><td>${value(one.asked)}</td>
        <td>${one.inForce === undefined ? html`<span class="muted">not loaded</span>` : html`<b>${value(one.inForce)}</b>`}${' '}
          ${one.differs && html`<span class="tag warn-tag">differs</span>`}</td>
        <td>${one.why}</td></tr>`)}</tbody>
    </table></div>`}
    ${otherWarnings(record).map((one) => html`<p class="note warn-note"><code>${one.key}</code> ${one.reason}</p>`)}
    ${record.status.observed_generation < record.generation && html`<p class="note warn-note">Generation ${record.generation}
      is declared; ${record.status.observed_generation ? `the newest that was in force is ${record.status.observed_generation}` : 'none was in force yet'}.</p>`}`;
}

function Phases({ status }) {
  const all = status.load_time_seconds || 1;
  const phases = Object.entries(status.load_phases).sort(([, a], [, b]) => a.start - b.start);
  const durations = phases.map(([name, one]) => `${words(name.replace(/_/g, ' '))} ${seconds(one.duration)}`).join(', ');
  return html`
    <p>${seconds(status.load_time_seconds)}${status.queued_seconds >= 0.1 && `, after ${seconds(status.queued_seconds)} in the queue`}${' '}
      <span class="muted">${status.loaded_by}${status.loaded_at && `, ${ago(status.loaded_at)}`}</span></p>
    <div class="phases" role="img" aria-label=${durations}>
      ${phases.map(([name, one]) => html`<div class="phase"><span>${words(name.replace(/_/g, ' '))}</span>
        <span class="track"><span class="part ${name}" style=${{ left: `${(100 * one.start) / all}%`, width: `${Math.max(0.5, (100 * one.duration) / all)}%` }}></span></span>
        <span class="figure">${seconds(one.duration)}</span></div>`)}
    </div>`;
}

function Facts({ record }) {
  const { status, spec } = record;
  const rows = [
    ['Model', spec.model],
    ['Declared by', isDeclared(record) ? `${record.owner}, ${origin(record)}` : 'HTTP'],
    ['Generation', `${record.generation}${record.provisional ? ' (its first load is not done)' : ''}`],
    ['Created', clock(record.created_at)],
    ['Priority', spec.priority],
    ['Unloaded if idle for', spec.idle_ttl_seconds && seconds(spec.idle_ttl_seconds)],
    ['Memory', status.memory_bytes !== null && bytes(status.memory_bytes)],
    ['Worker process', status.worker_pid],
    ['Restarts', status.restarts],
    ['Files', status.checkpoint],
    ['Adapter', status.adapter],
    ['Draft model', status.draft_model],
    ['Revision in memory', status.revision],
    ['Revision on disk', status.revision_on_disk !== status.revision && status.revision_on_disk],
  ];
  return html`<dl class="facts">
    ${rows.filter(([, one]) => one || one === 0).map(([key, one]) => html`<dt>${key}</dt><dd class="path">${one}</dd>`)}
  </dl>`;
}
