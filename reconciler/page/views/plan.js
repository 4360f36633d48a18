/** The current plan of the reconcile loop. */
import { html } from '../js/html.js';
import { get, request } from '../js/api.js';
import { bytes, words } from '../js/format.js';
import { useStore } from '../js/store.js';
import { Failure, useResource, useSettled, withCode } from '../js/ui.js';

const versionOf = (all) => all.version;

export function Plan() {
  const version = useSettled(useStore(versionOf), 500);
  const { data, error } = useResource((signal) => get('/api/v1/plan', { signal }), [version]);
  return html`
    <h1>Plan</h1>
    <p class="lead">What the reconcile loop would do now to make what is loaded agree with what is declared.</p>
    <${Failure} error=${error} />
    ${data && html`
      ${data.actions.length
        ? html`<${Actions} actions=${data.actions} />`
        : html`<p class="note ok">Nothing to do: everything is as declared.</p>`}
      ${data.source_errors.map((one) => html`<p class="note bad">
        <b>${one.file ? `${one.file}${one.line ? `:${one.line}` : ''}` : one.source}</b> ${one.key && html`<code>${one.key}</code> `}${one.message}</p>`)}`}`;
}

/**
 * Actions that putting these records would add to the current plan.
 * Throws `ApiError`, whose `param` is the key of the spec in the form's notation.
 */
export async function planWith(apply, signal) {
  try {
    const [before, after] = await Promise.all([
      get('/api/v1/plan', { signal }),
      request('POST', '/api/v1/plan', { apply }, { signal }),
    ]);
    const anyway = new Set(before.actions.map((one) => JSON.stringify(one)));
    return { ...after, actions: after.actions.filter((one) => !anyway.has(JSON.stringify(one))) };
  } catch (error) {
    if (error.param) error.param = error.param.replace(/^apply\[\d+\]\.(spec\.)?/, '');
    throw error;
  }
}

/** Actions of a plan, in order. */
export function Actions({ actions }) {
  return html`<ol class="actions">
    ${actions.map((one) => html`<li>
      <span class="tag ${one.action.toLowerCase()}">${one.action}</span>
      <span><a href="#/record/${encodeURIComponent(one.name)}"><b>${one.name}</b></a>
        ${one.running && html` <span class="muted">(under way)</span>`}
        <br />${withCode(one.message)}${one.reason && html` <span class="muted">${words(one.reason)}</span>`}
        ${one.problem && one.problem.message !== one.message && html`<br /><span class="warn">${withCode(one.problem.message)}</span>`}
        ${one.memory_bytes !== null && html`<br /><span class="muted">reserves ${bytes(one.memory_bytes)} for its KV cache and for reading prompts</span>`}
      </span>
    </li>`)}
  </ol>`;
}
