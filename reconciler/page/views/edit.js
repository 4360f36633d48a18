/** Edit the spec of an http record; the daemon reports errors and the plan. */
import { html, useState } from '../js/html.js';
import { recordPath, request } from '../js/api.js';
import { Fields, schemas } from '../js/fields.js';
import { Failure, useAction, useResource, useSettled } from '../js/ui.js';
import { Difference } from './history.js';
import { Actions, planWith } from './plan.js';

const NESTED = ['config', 'defaults'];
const FIRST = ['model'];

export function Edit({ record, onDone }) {
  const [spec, setSpec] = useState(record.spec);
  const { data: all, error: unread } = useResource(() => schemas(), []);
  const settled = useSettled(JSON.stringify(spec));
  const apply = [{ name: record.name, spec: JSON.parse(settled) }];
  const plan = useResource((signal) => planWith(apply, signal), [settled]);
  const [save, busy, error] = useAction(async () => {
    await request('PUT', recordPath(record.name), { spec });
    onDone();
  });
  if (!all) return html`<${Failure} error=${unread} />`;
  const schema = all.manifest.properties.spec;
  const others = Object.keys(schema.properties).filter((key) => ![...FIRST, ...NESTED].includes(key));
  const refused = plan.data?.refused.find((one) => one.name === record.name);
  const own = (keys) => html`<${Fields} schema=${schema} all=${all} keys=${keys} value=${spec} onChange=${setSpec} error=${plan.error} />`;
  const nested = (key) => html`<details open=${key === 'config'}>
    <summary>${key === 'config' ? 'Settings' : 'Defaults of requests'}</summary>
    <${Fields} schema=${all[key]} all=${all} keys=${Object.keys(all[key].properties)} value=${spec[key] ?? {}} prefix="${key}."
      error=${plan.error} onChange=${(change) => setSpec((old) => ({ ...old, [key]: change(old[key]) }))} />
  </details>`;
  function submit(event) {
    event.preventDefault();
    save();
  }
  return html`<form onSubmit=${submit}>
    ${own(FIRST)}
    ${NESTED.map(nested)}
    <details><summary>Other keys</summary>${own(others)}</details>
    <div class="outcome">
      <h3>What would change</h3>
      <${Failure} error=${plan.error} />
      ${refused && html`<p class="note bad">${refused.message}</p>`}
      <${Difference} before=${record.spec} after=${spec} />
      ${plan.data?.actions.length > 0 && html`<${Actions} actions=${plan.data.actions} />`}
      <${Failure} error=${error} />
      <p class="buttons"><button class="primary" disabled=${busy || Boolean(plan.error) || Boolean(refused)}>Apply</button></p>
    </div>
  </form>`;
}
