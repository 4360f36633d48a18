/** Small components shared by views. */
import { html, useCallback, useEffect, useId, useLayoutEffect, useRef, useState } from './html.js';
import { announce } from './store.js';
import { state } from './record.js';

/** A record's state as a dot and a label. */
export function State({ record, progress }) {
  const { kind, label } = state(record);
  const share = progress?.bytes_total ? ` ${Math.floor((100 * progress.bytes_read) / progress.bytes_total)}%` : '';
  return html`<span class="state ${kind}"><span class="dot" aria-hidden="true"></span>${label}${kind === 'busy' ? share : ''}</span>`;
}

/** Text of the daemon with backquoted parts as code. */
export const withCode = (text = '') =>
  text.split('`').map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));

/** An error message, shown next to its cause. */
export function Failure({ error }) {
  return error ? html`<p class="note bad" role="alert">${withCode(error.message)}</p>` : null;
}

export function Section({ title, children, aside, id }) {
  const heading = useId();
  return html`<section class="section" id=${id} aria-labelledby=${heading}>
    <div class="section-head"><h2 id=${heading}>${title}</h2>${aside}</div>
    ${children}
  </section>`;
}

/**
 * The value to which `load` resolves, reread when `keys` change; the old value stays meanwhile.
 * `load` gets an AbortSignal.
 */
export function useResource(load, keys) {
  const [found, setFound] = useState({ data: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    load(stop.signal).then(
      (data) => stop.signal.aborted || setFound({ data, error: null }),
      (error) => stop.signal.aborted || setFound((old) => ({ ...old, error })),
    );
    return () => stop.abort();
  }, [...keys, turn]);
  return { ...found, reload: useCallback(() => setTurn((old) => old + 1), []) };
}

/** A value that follows `value` once it has been the same for `ms`. */
export function useSettled(value, ms = 300) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}

/** `[run, busy, error]`: `run` awaits an action and keeps its error. */
export function useAction(action) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  async function run(...given) {
    setBusy(true);
    setError(null);
    try {
      await action(...given);
    } catch (failure) {
      if (failure.name !== 'AbortError') setError(failure);
    }
    setBusy(false);
  }
  return [run, busy, error];
}

/** Text to copy; it is selected instead if the page may not write to the clipboard. */
export function Copyable({ text, label }) {
  const shown = useRef(null);
  const [copied, setCopied] = useState(false);
  async function copy() {
    getSelection().selectAllChildren(shown.current);
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      document.execCommand('copy');
    }
    setCopied(true);
    announce('Copied');
    setTimeout(() => setCopied(false), 2000);
  }
  return html`<div class="copyable">
    <button type="button" class="small" onClick=${copy} aria-label="Copy ${label}">${copied ? 'Copied' : 'Copy'}</button>
    <pre ref=${shown} tabindex="0" aria-label=${label}>${text}</pre>
  </div>`;
}

/** A modal dialog that Escape closes. */
export function Dialog({ title, onClose, children }) {
  const box = useRef(null);
  useLayoutEffect(() => {
    box.current.showModal();
  }, []);
  return html`<dialog ref=${box} onClose=${onClose} aria-label=${title}>
    <div class="section-head">
      <h2>${title}</h2>
      <button type="button" class="small" onClick=${() => box.current.close()}>Close</button>
    </div>
    ${children}
  </dialog>`;
}

/** Parts of a whole in one bar. `parts` has `{label, size, kind, text}`. */
export function StackedBar({ parts, total, label }) {
  const shown = parts.filter((part) => part.size > 0);
  return html`<div>
    <div class="stacked" role="img" aria-label=${`${label}: ${parts.map((p) => `${p.label} ${p.text}`).join(', ')}`}>
      ${shown.map((part) => html`<span class="part ${part.kind}" title="${part.label}: ${part.text}"
        style=${{ width: `${(100 * part.size) / total}%` }}></span>`)}
    </div>
    <ul class="legend" aria-hidden="true">
      ${parts.map((part) => html`<li><span class="swatch ${part.kind}"></span>${part.label} <b>${part.text}</b></li>`)}
    </ul>
  </div>`;
}
