/** The machine and the use of its memory. */
import { html } from '../js/html.js';
import { bytes } from '../js/format.js';
import { useStore } from '../js/store.js';
import { Section } from '../js/ui.js';
import { Holders, MemoryBar } from './memory.js';

const nodeOf = (all) => all.node;
const healthOf = (all) => all.health;

export function Machine() {
  const node = useStore(nodeOf);
  const health = useStore(healthOf);
  if (!node) return html`<h1>Machine</h1>`;
  const { wired } = node;
  return html`
    <h1>Machine</h1>
    <${MemoryBar} />
    <${Section} id="holders" title="Who holds what"><${Holders} /><//>
    <${Section} id="facts" title="Facts">
      <dl class="facts">
        <dt>reconciler</dt><dd>${node.version}</dd>
        <dt>Health</dt><dd>${health?.status ?? '–'}${health?.message ? `: ${health.message}` : ''}</dd>
        ${wired && html`<dt>Wired memory</dt><dd>${wired.problem ?? (wired.limit_bytes ? bytes(wired.limit_bytes) : wired.policy)}</dd>`}
        ${Object.entries(node.labels).map(([key, value]) => html`<dt>${key}</dt><dd>${value}</dd>`)}
      </dl>
    <//>
    <${Section} id="reference" title="Reference">
      <p><a href="/openapi.json">/openapi.json</a> describes every route; <a href="/metrics">/metrics</a> has figures for
        Prometheus. With a token, both need it in a header.</p>
    <//>`;
}
