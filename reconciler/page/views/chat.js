/** Chat with an instance. Its output is rendered as text, never as markup. */
import { html, useEffect, useLayoutEffect, useRef, useState } from '../js/html.js';
import { clear, conversation, openCall, submit } from '../js/conversation.js';
import { number, seconds, value } from '../js/format.js';
import { state } from '../js/record.js';
import { announce, useStore } from '../js/store.js';

/** Distance from the end of the page, in pixels, within which the view follows the answer. */
const NEAR = 240;

const recordsOf = (all) => all.records;
const isRead = (all) => all.read;
const canChat = (record) => state(record).kind === 'ready' && record.status.type !== 'embedding';

export function Chat({ argument }) {
  const records = useStore(recordsOf);
  const read = useStore(isRead);
  const able = [...records.values()].filter(canChat);
  const name = argument || able[0]?.name;
  if (!name)
    return html`<h1>Chat</h1>${read && html`<div class="empty"><p>No model is ready to chat with.</p>
      <p><a class="button primary" href="#/load">Load a model</a></p></div>`}`;
  return html`<${Talk} key=${name} name=${name} record=${records.get(name)} able=${able} />`;
}

function Talk({ name, record, able }) {
  const talk = conversation(name);
  const [, redraw] = useState(0);
  useEffect(() => {
    talk.changed = () => redraw((count) => count + 1);
    return () => (talk.changed = () => {});
  }, [talk]);
  useLayoutEffect(() => {
    const { scrollHeight } = document.documentElement;
    if (scrollY + innerHeight > scrollHeight - NEAR) scrollTo(0, scrollHeight);
  });
  const go = (event) => (location.hash = `#/chat/${encodeURIComponent(event.target.value)}`);
  const names = new Set([name, ...able.map((one) => one.name)]);
  return html`<div class="chat">
    <div class="title">
      <h1>Chat</h1>
      <select aria-label="Instance" value=${name} onChange=${go}>
        ${[...names].map((one) => html`<option selected=${one === name}>${one}</option>`)}
      </select>
      <button type="button" class="small" disabled=${!talk.turns.length} onClick=${() => clear(talk)}>New chat</button>
    </div>
    <${InForce} record=${record} talk=${talk} />
    <div class="turns" role="log" aria-live="off" aria-label="Conversation">
      ${!talk.turns.length && html`<p class="muted hint">Messages stay in this tab, and go to ${name} alone.</p>`}
      ${talk.turns.map((turn, i) => html`<${Turn} key=${i} turn=${turn} busy=${talk.stop !== null && i === talk.turns.length - 1} />`)}
    </div>
    <${Composer} talk=${talk} name=${name} />
  </div>`;
}

/** Effective settings, and the overrides of this chat. */
function InForce({ record, talk }) {
  const [parameters, setParameters] = useState(talk.parameters);
  const [wrong, setWrong] = useState('');
  const status = record?.status;
  function change(key, one) {
    const next = { ...talk.parameters, [key]: one };
    if (one === undefined) delete next[key];
    talk.parameters = next;
    setParameters(next);
  }
  const numeric = (key, label, step) => html`<label>${label}
    <input type="number" step=${step} value=${parameters[key] ?? ''} placeholder=${value(status?.defaults.find((one) => one.key === key)?.value)}
      onInput=${(event) => change(key, event.target.value === '' ? undefined : Number(event.target.value))} /></label>`;
  function tools(event) {
    setWrong('');
    try {
      change('tools', event.target.value.trim() ? JSON.parse(event.target.value) : undefined);
    } catch (error) {
      setWrong(error.message);
    }
  }
  const summary = [
    status?.config && `${number(status.config.context_length)} tokens of context`,
    ...(status?.defaults ?? []).map((one) => `${one.key} ${value(one.value)}`),
  ];
  return html`<details class="card parameters">
    <summary>Settings <span class="muted">${summary.filter(Boolean).join(' · ')}</span></summary>
    <label>System prompt <textarea rows="2" onInput=${(event) => change('system', event.target.value || undefined)}>${parameters.system ?? ''}</textarea></label>
    <div class="inline">
      ${numeric('temperature', 'Temperature', 0.1)} ${numeric('top_p', 'Top p', 0.05)} ${numeric('max_tokens', 'Most tokens', 1)} ${numeric('seed', 'Seed', 1)}
      <label>Reasoning <select onChange=${(event) => change('reasoning_effort', event.target.value || undefined)}>
        <option value="">default</option>${['none', 'low', 'medium', 'high'].map((one) => html`<option selected=${parameters.reasoning_effort === one}>${one}</option>`)}
      </select></label>
    </div>
    <label>Tools, a JSON list as in OpenAI's API <textarea rows="2" spellcheck=${false} onChange=${tools}>${parameters.tools ? JSON.stringify(parameters.tools) : ''}</textarea></label>
    ${wrong && html`<p class="note bad" role="alert">${wrong}</p>`}
  </details>`;
}

const ROLES = { user: 'You', assistant: 'Model', tool: 'Result' };

function Turn({ turn, busy }) {
  return html`<div class="turn ${turn.role}">
    <span class="who">${ROLES[turn.role]}</span>
    ${turn.reasoning && html`<details class="reasoning" open=${busy && !turn.content}><summary>Reasoning</summary><p class="content">${turn.reasoning}</p></details>`}
    ${turn.content && html`<${Content} text=${turn.content} />`}
    ${turn.tool_calls?.map((call) => html`<div class="call"><span class="tag">calls</span> <code>${call.function.name}(${call.function.arguments})</code></div>`)}
    ${busy && !turn.content && !turn.reasoning && html`<p class="muted">${reading(turn.progress)}</p>`}
    ${turn.error && html`<p class="note bad" role="alert">${turn.error}</p>
      <p class="muted">Later messages are sent without this exchange.</p>`}
    ${turn.figures && html`<${Figures} turn=${turn} />`}
    ${turn.stopped && !turn.error && html`<p class="muted">Stopped.</p>`}
  </div>`;
}

/** Text with fenced code as blocks. */
function Content({ text }) {
  return text.split('```').map((part, i) =>
    i % 2 ? html`<pre class="code" tabindex="0">${part.replace(/^[\w+-]*\n/, '')}</pre>` : part.trim() && html`<p class="content">${part.trim()}</p>`,
  );
}

const reading = (progress) =>
  progress ? `Reading the prompt: ${number(progress.prompt_tokens_read)} of ${number(progress.prompt_tokens)} tokens` : 'Waiting for the first token';

function Figures({ turn: { figures, finish } }) {
  const parts = [
    figures.speed !== null && `${number(figures.speed, 1)} tokens/s`,
    figures.first !== null && `first token after ${seconds(figures.first)}`,
    `${number(figures.completion)} tokens`,
    `prompt of ${number(figures.prompt)}${figures.cached ? `, ${number(figures.cached)} from the cache` : ''}`,
    finish === 'length' && 'cut off: the most tokens were reached',
  ];
  return html`<p class="figures muted">${parts.filter(Boolean).join(' · ')}</p>`;
}

function Composer({ talk, name }) {
  const box = useRef(null);
  const call = openCall(talk);
  const busy = talk.stop !== null;
  async function send(event) {
    event.preventDefault();
    const text = box.current.value.trim();
    if (!text || busy) return;
    box.current.value = '';
    box.current.focus();
    await submit(talk, name, text);
    announce('The answer is complete.');
  }
  function key(event) {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) send(event);
  }
  return html`<form class="composer" onSubmit=${send}>
    <label for="message" class="unseen">${call ? `Result of ${call.function.name}` : 'Message'}</label>
    <textarea id="message" ref=${box} rows="2" onKeyDown=${key}
      placeholder=${call ? `Result of ${call.function.name}` : 'Write a message; Enter sends, Shift and Enter break the line'}></textarea>
    ${busy
      ? html`<button type="button" onClick=${() => talk.stop.abort()}>Stop</button>`
      : html`<button class="primary">Send</button>`}
  </form>`;
}
