/** The models on disk, and downloads from the Hugging Face hub. */
import { html, useState } from '../js/html.js';
import { get } from '../js/api.js';
import { bytes, number } from '../js/format.js';
import { useStore } from '../js/store.js';
import { Failure, Section, useResource, useSettled } from '../js/ui.js';
import { Downloads } from './downloads.js';

const versionOf = (all) => all.version;

export function Models({ argument }) {
  const version = useSettled(useStore(versionOf), 1000);
  const { data, error, reload } = useResource((signal) => get('/api/v1/models', { signal }), [version]);
  const [text, setText] = useState('');
  const matches = (one) => one.key.toLowerCase().includes(text.trim().toLowerCase());
  const models = (data?.models ?? []).filter(matches);
  return html`
    <h1>Models on disk</h1>
    <${Downloads} model=${argument} onDone=${reload} />
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
