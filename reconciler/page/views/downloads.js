/** Downloads from the Hugging Face hub: start, watch and cancel them. */
import { html, useEffect, useState } from '../js/html.js';
import { get, request } from '../js/api.js';
import { ago, bytes } from '../js/format.js';
import { Failure, useAction, useResource } from '../js/ui.js';

const POLL_MS = 1000;
const DOWNLOADS = '/api/v1/models/download';

/** `onDone` is called when a download ends. */
export function Downloads({ model, onDone }) {
  const [name, setName] = useState(model ?? '');
  const [note, setNote] = useState('');
  const { data, error, reload } = useResource((signal) => get(DOWNLOADS, { signal }), []);
  const downloads = [...(data?.downloads ?? [])].reverse();
  const running = downloads.filter((one) => one.status === 'downloading').length;
  const [pull, busy, refused] = useAction(async () => {
    setNote('');
    const answer = await request('POST', DOWNLOADS, { model: name.trim() });
    if (answer.status === 'already_downloaded') setNote(answer.message ?? 'It is on disk already.');
    reload();
  });
  useEffect(() => {
    if (!running) return undefined;
    const timer = setInterval(reload, POLL_MS);
    return () => clearInterval(timer);
  }, [running]);
  useEffect(() => {
    if (data) onDone();
  }, [running]);
  function submit(event) {
    event.preventDefault();
    pull();
  }
  return html`<div class="card">
    <form onSubmit=${submit}>
      <label for="pull">Pull a model from the Hugging Face hub</label>
      <div class="filters">
        <input id="pull" type="text" required placeholder="PUBLISHER/NAME, such as mlx-community/Qwen3-4B-4bit" value=${name}
          onInput=${(event) => setName(event.target.value)} autocomplete="off" autocapitalize="off" spellcheck=${false} />
        <button class="primary" disabled=${busy}>Pull</button>
      </div>
    </form>
    <${Failure} error=${refused ?? error} />
    ${note && html`<p class="note ok" role="status">${note}</p>`}
    ${downloads.length > 0 && html`<ul class="files" aria-label="Downloads">${downloads.map((one) => html`<${Download} key=${one.job_id} job=${one} reload=${reload} />`)}</ul>`}
  </div>`;
}

const STATES = { downloading: ['busy', 'Downloading'], completed: ['ready', 'On disk'], failed: ['bad', 'Failed'] };

function Download({ job, reload }) {
  const [cancel, busy, error] = useAction(async () => {
    await request('DELETE', `${DOWNLOADS}/${encodeURIComponent(job.job_id)}`);
    reload();
  });
  const [kind, label] = STATES[job.status];
  const { downloaded_bytes: read, total_size_bytes: total } = job;
  return html`<li>
    <span class="state ${kind}"><span class="dot" aria-hidden="true"></span>${label}</span>
    <div>
      <b class="path">${job.model}</b> <span class="muted">${job.completed_at ? ago(job.completed_at) : ''}</span>
      ${job.status === 'completed' && html` <a href="#/load/${encodeURIComponent(job.model)}">Load it</a>`}
      ${job.error && html`<span class="diagnostic">${job.error.message}</span>`}
      <${Failure} error=${error} />
      ${job.status === 'downloading' && html`<div class="progress">
        <progress aria-label="Download of ${job.model}" max=${total ?? 1} value=${total ? read : null}></progress>
        <span>${bytes(read)} of ${bytes(total)}${job.bytes_per_second > 0 && `, ${bytes(job.bytes_per_second)}/s`}</span>
        <button type="button" class="small" disabled=${busy} onClick=${cancel}>Cancel</button>
      </div>`}
    </div>
  </li>`;
}
