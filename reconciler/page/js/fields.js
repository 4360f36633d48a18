/** Form fields made from a published JSON schema. */
import { html, useId } from './html.js';
import { get } from './api.js';
import { words } from './format.js';
import { withCode } from './ui.js';

let document_ = null;

/** Published schemas by name, fetched once. */
export function schemas() {
  document_ ??= get('/openapi.json').then((found) => found.components.schemas);
  document_.catch(() => (document_ = null));
  return document_;
}

/** Resolve a `$ref` of the OpenAPI document. */
function follow(schema, all) {
  if (!schema.$ref) return schema;
  const [, , , name, ...rest] = schema.$ref.split('/');
  return rest.reduce((node, part) => node[part], all[name]);
}

const types = (schema) => [schema.type ?? []].flat();

/**
 * One field for each property in `keys`. `onChange` gets a function from the old object to the new
 * one, without empty values.
 * @param {{error: {param: string, message: string} | null}} props `error` goes beside its field.
 */
export function Fields({ schema, all, keys, value, onChange, prefix = '', error, lists = {} }) {
  const change = (key) => (one) =>
    onChange((old = {}) => {
      const { [key]: _, ...rest } = old;
      return one === undefined ? rest : { ...rest, [key]: one };
    });
  return keys.map((key) => {
    const path = prefix + key;
    const found = follow(schema.properties[key], all);
    const wrong = error?.param === path ? error.message : '';
    return html`<${Field} key=${path} name=${path} schema=${found} value=${value[key]} onChange=${change(key)}
      required=${schema.required?.includes(key)} wrong=${wrong} list=${lists[key]} />`;
  });
}

const TITLES = {
  instance_id: 'Name',
  eval_batch_size: 'Prefill step, in tokens',
  num_experts: 'Experts per token',
  offload_kv_cache_to_gpu: 'KV cache on the GPU',
  kv_cache_bits: 'Bits per value of the KV cache',
  idle_ttl_seconds: 'Unload when idle for, in seconds',
  chat_template_kwargs: 'Variables of the chat template',
};

/** Readable title of a key. */
function title(path) {
  const key = path.split('.').at(-1);
  return TITLES[key] ?? words(key.replace(/_/g, ' '));
}

function Field({ name, schema, value, onChange, required, wrong, list }) {
  const id = useId();
  const described = `${id}-help`;
  const common = { id, name, 'aria-describedby': described, 'aria-invalid': wrong ? 'true' : null };
  return html`<div class="field">
    <label for=${id}>${title(name)} <code class="muted">${name}</code></label>
    <${Input} schema=${schema} value=${value} onChange=${onChange} common=${common} required=${required} list=${list} />
    <p class="help" id=${described}>${wrong && html`<span class="bad-text">${wrong} </span>`}${withCode(schema.description)}</p>
  </div>`;
}

function Input({ schema, value, onChange, common, required, list }) {
  const kinds = types(schema);
  const choices = schema.enum?.filter((one) => one !== null) ?? (kinds.includes('boolean') ? [true, false] : null);
  if (choices) {
    const chosen = choices.findIndex((one) => one === value);
    const pick = (event) => onChange(choices[event.target.value]);
    return html`<select ...${common} value=${chosen} onChange=${pick}>
      <option value="-1" selected=${chosen < 0}>default</option>
      ${choices.map((one, i) => html`<option value=${i} selected=${i === chosen}>${String(one)}</option>`)}
    </select>`;
  }
  if (kinds.includes('integer') || kinds.includes('number')) {
    const read = (event) => onChange(event.target.value === '' ? undefined : Number(event.target.value));
    return html`<input type="number" ...${common} value=${value ?? ''} placeholder="default" onInput=${read}
      min=${schema.minimum} max=${schema.maximum} step=${kinds.includes('integer') ? 1 : 'any'} />`;
  }
  if (kinds.includes('object') || kinds.includes('array')) return html`<${Json} value=${value} onChange=${onChange} common=${common} />`;
  const read = (event) => onChange(event.target.value === '' ? undefined : event.target.value);
  return html`<input type="text" ...${common} value=${value ?? ''} required=${required} onInput=${read} list=${list}
    maxlength=${schema.maxLength} autocomplete="off" autocapitalize="off" spellcheck=${false} />`;
}

function Json({ value, onChange, common }) {
  function read(event) {
    const { target } = event;
    target.setCustomValidity('');
    try {
      onChange(target.value.trim() === '' ? undefined : JSON.parse(target.value));
    } catch (error) {
      target.setCustomValidity(error.message);
      target.reportValidity();
    }
  }
  return html`<textarea ...${common} rows="2" onChange=${read}>${value === undefined ? '' : JSON.stringify(value)}</textarea>`;
}
