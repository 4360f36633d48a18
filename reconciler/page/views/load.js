/** Load a model, with a preview of its memory and the plan. */
import { html, useState } from '../js/html.js';
import { get, request, stream } from '../js/api.js';
import { Fields, schemas } from '../js/fields.js';
import { bytes, seconds, value, words } from '../js/format.js';
import { Failure, StackedBar, useAction, useResource, useSettled } from '../js/ui.js';
import { Holders } from './memory.js';
import { Actions, planWith } from './plan.js';

const SETTINGS = [
  'context_length', 'eval_batch_size', 'flash_attention', 'num_experts', 'offload_kv_cache_to_gpu',
  'kv_cache_bits',
];

export function Load({ argument }) {
  const [body, setBody] = useState(argument ? { model: argument } : {});
  const found = useResource(async (signal) => {
    const [all, { models }] = await Promise.all([schemas(), get('/api/v1/models', { signal })]);
    return { all, models: models.filter((one) => !one.error) };
  }, []);
  const estimate = useEstimate(body);
  const [progress, setProgress] = useState(null);
  const [answer, setAnswer] = useState(null);
  const [load, busy, error] = useAction(async () => {
    setAnswer(null);
    try {
      for await (const { event, data } of stream('POST', '/api/v1/models/load', body)) {
        if (event === 'progress') setProgress(data);
        else if (event === 'result') setAnswer(data);
        else if (event === 'error') throw new Error(data.error.message);
      }
    } finally {
      setProgress(null);
    }
  });
  function submit(event) {
    event.preventDefault();
    load();
  }
  if (!found.data) return html`<h1>Load a model</h1><${Failure} error=${found.error} />`;
  const { all, models } = found.data;
  const wrong = error?.param ? error : estimate.error;
  const fields = (schema, keys, value, onChange, prefix) =>
    html`<${Fields} schema=${schema} all=${all} keys=${keys} value=${value} onChange=${onChange} prefix=${prefix} error=${wrong} lists=${{ model: 'models' }} />`;
  return html`
    <h1>Load a model</h1>
    <div class="columns">
      <form onSubmit=${submit} class="card">
        <datalist id="models">${models.map((one) => html`<option value=${one.key}>${one.params_string ?? ''}</option>`)}</datalist>
        ${fields(all['load-request'], ['model', 'instance_id'], body, setBody, '')}
        <details>
          <summary>Settings</summary>
          ${fields(all.config, SETTINGS, body.config ?? {}, (change) => setBody((old) => ({ ...old, config: change(old.config) })), 'config.')}
          ${fields(all['load-request'], ['idle_ttl_seconds', 'adapter'], body, setBody, '')}
        </details>
        <details>
          <summary>Defaults of requests</summary>
          ${fields(all.defaults, Object.keys(all.defaults.properties), body.defaults ?? {}, (change) => setBody((old) => ({ ...old, defaults: change(old.defaults) })), 'defaults.')}
        </details>
        <p class="buttons"><button class="primary" disabled=${busy || !body.model}>${busy ? 'Loading' : 'Load'}</button></p>
        ${progress && html`<${Progress} progress=${progress} />`}
        <${Failure} error=${error} />
        ${answer && html`<${Loaded} answer=${answer} />`}
      </form>
      <${Preview} body=${body} estimate=${estimate} models=${models} />
    </div>`;
}

/** Estimate and plan for a body, requested once it has not changed for a moment. */
function useEstimate(body) {
  const settled = useSettled(JSON.stringify(body));
  return useResource(async (signal) => {
    const asked = JSON.parse(settled);
    if (!asked.model) return null;
    const estimate = await request('POST', '/api/v1/models/estimate', asked, { signal });
    const { model, config, defaults, adapter, idle_ttl_seconds } = asked;
    const spec = { model, config, defaults, adapter, idle_ttl_seconds };
    const apply = [{ name: asked.instance_id ?? model, spec }];
    const plan = await planWith(apply, signal).catch(() => null);
    return { asked, estimate, plan };
  }, [settled]);
}

function Preview({ body, estimate: { data, error }, models }) {
  if (!body.model)
    return html`<div class="card"><h2>What it would need</h2>
      <p class="muted">Name a model to see what it would take, and whether it fits.</p>
      ${models.length === 0 && html`<p>No model is on disk yet. <a href="#/models">Pull one from the Hugging Face hub.</a></p>`}</div>`;
  if (error) return html`<div class="card"><h2>What it would need</h2><${Failure} error=${error} />
    ${error.code === 'model_not_found' && html`<p><a href="#/models/${encodeURIComponent(body.model)}">Pull ${body.model} from the Hugging Face hub</a></p>`}</div>`;
  if (!data) return html`<div class="card"><h2>What it would need</h2><p class="muted">Looking.</p></div>`;
  const { estimate, plan } = data;
  const part = (label, kind, size) => ({ label, kind, size, text: bytes(size) });
  const parts = [
    part('Weights', 'weights', estimate.weights_bytes + estimate.adapter_bytes + estimate.draft_bytes),
    part('KV cache', 'kv', estimate.kv_cache_bytes),
    part('Reading prompts', 'reading', estimate.prefill_bytes),
    part('Process', 'other', estimate.process_bytes),
  ];
  const all = parts.reduce((total, one) => total + one.size, 0);
  return html`<div class="card">
    <h2>What it would need</h2>
    <p role="status" class="note ${estimate.fits ? 'ok' : 'bad'}">${fit(estimate)}</p>
    <${StackedBar} parts=${parts} total=${all} label="What it would need" />
    ${estimate.warnings.map((one) => html`<p class="note warn-note"><code>${one.key}</code> ${one.reason}</p>`)}
    ${plan && html`<h3>What would happen</h3>
      ${plan.refused.map((one) => html`<p class="note bad">${one.message}</p>`)}
      ${plan.actions.length ? html`<${Actions} actions=${plan.actions} />` : html`<p class="muted">Nothing: it is loaded as asked.</p>`}`}
    ${!estimate.fits && html`<h3>Who holds memory now</h3><${Holders} />`}
    <h3>Settings that would be in force</h3>
    <dl class="facts">${Object.entries(estimate.config).map(([key, one]) => html`<dt>${key}</dt><dd>${value(one)}</dd>`)}</dl>
  </div>`;
}

function fit({ fits, needed_bytes: needed, free_bytes: free, budget_bytes: budget }) {
  const room = `It needs ${bytes(needed)} more; ${bytes(free)} of ${bytes(budget)} are free.`;
  return `${fits ? 'It fits.' : 'It does not fit now.'} ${room}`;
}

/** Progress of a load. */
export function Progress({ progress }) {
  const { phase, bytes_read: read, bytes_total: total } = progress;
  const label = words(phase.replace(/_/g, ' '));
  return html`<div class="progress">
    <progress aria-label=${label} max=${total ?? 1} value=${total ? read : null}></progress>
    <span>${label}${total ? `: ${bytes(read)} of ${bytes(total)}` : ''}</span>
  </div>`;
}

function Loaded({ answer }) {
  const name = encodeURIComponent(answer.model_instance_id);
  return html`<div class="note ok" role="status">
    <p><b>${answer.model_instance_id}</b> ${answer.joined ? 'was loaded already' : `was loaded in ${seconds(answer.load_time_seconds)}`}. It stays loaded until it is removed.</p>
    <p class="buttons"><a class="button primary" href="#/chat/${name}">Chat</a> <a class="button" href="#/record/${name}">Show it</a></p>
    ${answer.warnings.map((one) => html`<p class="warn"><code>${one.key}</code> ${one.reason}</p>`)}
  </div>`;
}
