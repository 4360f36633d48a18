/** The models on disk, and downloads from the Hugging Face hub. */
import { html, useEffect, useState } from '../js/html.js';
import { get, request } from '../js/api.js';
import { bytes, number } from '../js/format.js';
import { useStore } from '../js/store.js';
import { Failure, Section, useAction, useResource, useSettled } from '../js/ui.js';

const versionOf = (all) => all.version;
const POLL_MS = 1000;
const ENDED = ['completed', 'failed', 'already_downloaded'];

export function Models({ argument }) {
  const version = useSettled(useStore(versionOf), 500);
  const { data, error, reload } = useResource((signal) => get('/api/v1/models', { signal }), [version]);
  const [text, setText] = useState('');
  const matches = (one) => one.key.toLowerCase().includes(text.trim().toLowerCase());
  const models = (data?.models ?? []).filter(matches);
  return html`
    <h1>Models on disk</h1>
    <${Pull} model=${argument} onDone=${reload} />
    <${Section} id="on-disk" title="What can be loaded">
      <${Failure} error=${error} />
      <div class="filters"><input type="search" aria-label="Filter models" placeholder="Filter by name" value=${text} onInput=${(event) => setText(event.target.value)} /></div>
      ${data && !models.length && html`<p class="muted">No model.</p>`}
      <ul class="rows" aria-label="Models">${models.map((one) => html`<${Model} key=${one.key} model=${one} />`)}</ul>
    <//>`;
}

function Model({ model }) {
  const facts = [
    model.params_string,
    model.quantization?.name,
    model.architecture,
    model.size_bytes !== null && bytes(model.size_bytes),
    model.max_context_length && `${number(model.max_context_length)} tokens`,
    model.type === 'embedding' && 'embeddings',
    model.capabilities.trained_for_tool_use && 'tools',
    model.capabilities.reasoning && 'reasoning',
  ];
  return html`<li class="row">
    <span class="row-name"><b>${model.key}</b><span class="muted">${facts.filter(Boolean).join(' · ')}</span></span>
    <span>${model.loaded_instances.map((one) => html`<a href="#/record/${encodeURIComponent(one.id)}" class="tag">${one.id}</a> `)}</span>
    ${model.error
      ? html`<span class="row-why warn">${model.error}</span>`
      : html`<a class="button small" href="#/load/${encodeURIComponent(model.key)}" aria-label="Load ${model.key}">Load</a>`}
  </li>`;
}

function Pull({ model, onDone }) {
  const [name, setName] = useState(model ?? '');
  const [job, setJob] = useState(null);
  const [pull, busy, error] = useAction(async () => {
    setJob(await request('POST', '/api/v1/models/download', { model: name.trim() }));
  });
  const running = job && !ENDED.includes(job.status);
  useEffect(() => {
    if (job && !running) onDone();
    if (!running) return undefined;
    const timer = setTimeout(async () => {
      const path = `/api/v1/models/download/status/${encodeURIComponent(job.job_id)}`;
      setJob(await get(path).catch((failure) => ({ ...job, status: 'failed', error: failure })));
    }, POLL_MS);
    return () => clearTimeout(timer);
  }, [job]);
  function submit(event) {
    event.preventDefault();
    pull();
  }
  return html`<form class="card" onSubmit=${submit}>
    <label for="pull">Pull a model from the Hugging Face hub</label>
    <div class="filters">
      <input id="pull" type="text" required placeholder="PUBLISHER/NAME, such as mlx-community/Qwen3-4B-4bit" value=${name}
        onInput=${(event) => setName(event.target.value)} autocomplete="off" autocapitalize="off" spellcheck=${false} />
      <button class="primary" disabled=${busy || running}>Pull</button>
    </div>
    <${Failure} error=${error} />
    <div aria-live="polite">${job && html`<${Job} job=${job} />`}</div>
  </form>`;
}

function Job({ job }) {
  if (job.status === 'already_downloaded') return html`<p class="note ok">It is on disk already.</p>`;
  if (job.status === 'completed') return html`<p class="note ok">${job.model} is on disk: <a href="#/load/${encodeURIComponent(job.model)}">load it</a>.</p>`;
  if (job.status === 'failed') return html`<p class="note bad">${job.error?.message}</p>`;
  return html`<div class="progress">
    <progress aria-label="Download" max=${job.total_size_bytes ?? 1} value=${job.total_size_bytes ? job.downloaded_bytes : null}></progress>
    <span>${bytes(job.downloaded_bytes)} of ${bytes(job.total_size_bytes)}${job.bytes_per_second > 0 && `, ${bytes(job.bytes_per_second)}/s`}</span>
  </div>`;
}
