/** Memory of all models: a bar, and a table by checkpoint and instance. */
import { html, useId } from '../js/html.js';
import { bytes } from '../js/format.js';
import { useStore } from '../js/store.js';
import { StackedBar } from '../js/ui.js';

const memoryOf = (all) => (all.memory?.budget_bytes ? all.memory : null);

const sum = (items, pick) => items.reduce((total, one) => total + pick(one), 0);
const kvCache = (checkpoint) => sum(checkpoint.instances, (one) => one.reserved_bytes);
const held = (checkpoint) =>
  checkpoint.shared_bytes + kvCache(checkpoint) + checkpoint.leased_bytes + checkpoint.excess_bytes;

export function MemoryBar() {
  const memory = useStore(memoryOf);
  if (!memory) return null;
  const { checkpoints, budget_bytes: budget, free_bytes: free } = memory;
  const part = (label, kind, size) => ({ label, kind, size, text: bytes(size) });
  const leased = sum(checkpoints, (one) => one.leased_bytes);
  const parts = [
    part('Weights and workers', 'weights', sum(checkpoints, (one) => one.shared_bytes)),
    part('KV cache', 'kv', sum(checkpoints, kvCache)),
    part('Leased until needed', 'leased', leased),
    part('Free', 'free', free),
  ];
  const excess = sum(checkpoints, (one) => one.excess_bytes);
  if (excess) parts.splice(3, 0, part('Other', 'other', excess));
  return html`<div class="memory">
    <p class="memory-head"><a href="#/machine">Memory</a> <span class="muted">${bytes(budget - free - leased)} of ${bytes(budget)}</span></p>
    <${StackedBar} parts=${parts} total=${Math.max(budget, sum(parts, (one) => one.size))} label="Memory" />
  </div>`;
}

/** Table of the memory of each checkpoint and its instances. */
export function Holders() {
  const memory = useStore(memoryOf);
  const id = useId();
  if (!memory) return html`<p class="muted">Not known until a worker has started.</p>`;
  if (!memory.checkpoints.length) return html`<p class="muted">Nothing is loaded.</p>`;
  const rows = [...memory.checkpoints].sort((a, b) => held(b) - held(a));
  return html`<div class="scroll" tabindex="0" role="region" aria-labelledby=${id}><table>
    <caption id=${id} class="unseen">Memory by holder</caption>
    <thead><tr><th>Instances</th><th class="figure">Weights and process</th><th class="figure">KV cache</th>
      <th class="figure">Leased</th><th class="figure">Other</th><th class="figure">All</th></tr></thead>
    <tbody>${rows.map((one) => html`<tr>
      <td>${one.instances.map((i) => i.name).join(', ') || one.checkpoint}<br /><span class="muted path">${one.checkpoint}</span></td>
      <td class="figure">${bytes(one.shared_bytes)}</td><td class="figure">${bytes(kvCache(one))}</td>
      <td class="figure">${bytes(one.leased_bytes)}</td><td class="figure">${bytes(one.excess_bytes)}</td>
      <td class="figure"><b>${bytes(held(one))}</b></td></tr>`)}</tbody>
  </table></div>`;
}
