/** Small charts of an instance's last minutes. */
import { html } from '../js/html.js';
import { number, seconds } from '../js/format.js';
import { rates, ratios, values } from '../js/rates.js';
import { useStore } from '../js/store.js';

const samplesOf = (all) => all.samples;
const WIDTH = 240;
const HEIGHT = 48;
const SPAN_MS = 300_000;

export function Charts({ name }) {
  const samples = useStore(samplesOf).get(name);
  const share = (one) => `${number(100 * one)} %`;
  return html`<div class="charts">
    <${Chart} title="Tokens/s" points=${rates(samples, 'completion_tokens')} show=${(one) => number(one, 1)} />
    <${Chart} title="Requests in flight" points=${values(samples, 'requests')} show=${number} />
    <${Chart} title="Time to first token" points=${ratios(samples, 'first_token_seconds', 'first_tokens')} show=${seconds} />
    <${Chart} title="Prompt tokens from the cache" points=${ratios(samples, 'cached_tokens', 'prompt_tokens')} show=${share} />
  </div>`;
}

/** Points over five minutes, with the latest and the highest value. Null values are gaps. */
function Chart({ title, points, show }) {
  const now = Date.now();
  const known = points.filter((one) => one.value !== null);
  const most = Math.max(1e-9, ...known.map((one) => one.value));
  const place = (one) =>
    `${(WIDTH * (1 - (now - one.time) / SPAN_MS)).toFixed(1)},${(HEIGHT - 2 - ((HEIGHT - 6) * one.value) / most).toFixed(1)}`;
  const latest = known.length ? show(known.at(-1).value) : '–';
  const highest = known.length ? show(most < 1e-6 ? 0 : most) : '–';
  return html`<figure class="chart">
    <figcaption>${title} <b>${latest}</b></figcaption>
    <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label=${`${title}: ${latest} now, at most ${highest} in five minutes`}>
      <line x1="0" y1=${HEIGHT - 2} x2=${WIDTH} y2=${HEIGHT - 2} class="axis" />
      <polyline points=${known.map(place).join(' ')} />
    </svg>
    <span class="muted">at most ${highest}</span>
  </figure>`;
}
