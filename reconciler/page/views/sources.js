/** Sources of manifests: their files, and errors with lines. */
import { html } from '../js/html.js';
import { get, request } from '../js/api.js';
import { ago } from '../js/format.js';
import { useStore } from '../js/store.js';
import { Failure, Section, useAction, useResource, useSettled } from '../js/ui.js';

const versionOf = (all) => all.version;
const sourceVersionOf = (all) => all.sourceVersion;
const SHOWN = 5;

export function Sources() {
  const version = useSettled(useStore(versionOf), 200);
  const { data, error, reload } = useResource((signal) => get('/api/v1/sources', { signal }), [version]);
  return html`
    <h1>Sources</h1>
    <p class="lead">Directories and repositories of manifests. A file that is wrong changes nothing: what it declared
      before stays in force.</p>
    <${Failure} error=${error} />
    ${data && !data.sources.length && html`<p class="muted">The daemon follows no source.</p>`}
    ${data?.sources.map((one) => html`<${Source} key=${one.name} source=${one} reload=${reload} />`)}`;
}

/** Summary of the errors of all sources. */
export function SourceErrors() {
  const version = useSettled(useStore(sourceVersionOf), 200);
  const { data } = useResource((signal) => get('/api/v1/sources', { signal }), [version]);
  const wrong = (data?.sources ?? []).flatMap((source) => [
    ...(source.message ? [{ where: source.name, message: source.message }] : []),
    ...source.files.flatMap((file) =>
      file.errors.map((one) => ({ where: `${file.path}:${one.line}:${one.column}`, key: one.key, message: one.message }))),
  ]);
  if (!wrong.length) return null;
  return html`<div class="note bad" role="alert">
    <b>${wrong.length === 1 ? 'One error' : `${wrong.length} errors`} in manifests</b>
    <ul>${wrong.slice(0, SHOWN).map((one) => html`<li><code>${one.where}</code>${one.key && html` <code>${one.key}</code>`} ${one.message}</li>`)}</ul>
    <a href="#/sources">All sources</a>
  </div>`;
}

function Source({ source, reload }) {
  const path = `/api/v1/sources/${encodeURIComponent(source.name)}`;
  const [act, busy, error] = useAction(async (action) => {
    await request('POST', `${path}/${action}`);
    reload();
  });
  const button = (action, label) => html`<button type="button" class="small" disabled=${busy} onClick=${() => act(action)}>${label}</button>`;
  const waits = source.unconfirmed.length > 0 || source.commit?.held;
  const aside = html`<span class="buttons">
    ${waits && button('confirm', 'Confirm what is held')}
    ${!source.suspended && button('sync', 'Sync now')}
    ${source.suspended ? button('resume', 'Resume') : button('suspend', 'Suspend')}
  </span>`;
  return html`<${Section} title=${source.name} aside=${aside}>
    <${Failure} error=${error} />
    ${source.suspended && html`<p class="note">Suspended: changes are not followed until it is resumed; its records stay.</p>`}
    ${source.message && html`<p class="note bad">${source.message}</p>`}
    <${Commit} commit=${source.commit} />
    <${Names} title="Held" items=${source.held} />
    <${Names} title="Not followed" items=${source.not_followed} />
    <${Names} title="For other nodes" items=${source.not_selected} />
    ${source.drift.length > 0 && html`<p class="note">Not as declared: ${links(source.drift)}</p>`}
    ${source.files.length
      ? html`<ul class="files">${source.files.map((file) => html`<${File} file=${file} />`)}</ul>`
      : html`<p class="muted">No manifest files.</p>`}
  <//>`;
}

const links = (names) =>
  names.map((name, i) => html`${i > 0 && ', '}<a href="#/record/${encodeURIComponent(name)}">${name}</a>`);

function Commit({ commit }) {
  if (!commit) return null;
  return html`<p>Commit <code>${commit.applied?.slice(0, 12) ?? 'none yet'}</code>
    ${commit.attempted && commit.attempted !== commit.applied && html`, newest <code>${commit.attempted.slice(0, 12)}</code>`}
    ${commit.synced_at && html` <span class="muted">asked ${ago(commit.synced_at)}</span>`}</p>
    ${commit.problem && html`<p class="note bad">${commit.problem}</p>`}`;
}

function Names({ title, items }) {
  const all = Object.entries(items);
  if (!all.length) return null;
  return html`<div class="note"><b>${title}</b>
    <ul>${all.map(([name, why]) => html`<li>${name}: ${why}</li>`)}</ul></div>`;
}

function File({ file }) {
  return html`<li>
    <span class="state ${file.valid ? 'ready' : 'bad'}"><span class="dot" aria-hidden="true"></span>${file.valid ? 'Valid' : 'Invalid'}</span>
    <span><b class="path">${file.path}</b>
      ${file.records.length > 0 && html` <span class="muted">declares ${links(file.records.map((one) => one.name))}</span>`}
      ${file.errors.map((one) => html`<span class="diagnostic"><code>${file.path}:${one.line}:${one.column}</code>
        ${one.key && html` <code>${one.key}</code>`} ${one.message}</span>`)}
      ${file.ignored.map((one) => html`<span class="diagnostic muted">${one}</span>`)}
    </span>
  </li>`;
}
