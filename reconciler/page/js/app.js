/** The shell of the page: navigation, connection state, and the view for the address. */
import { Fragment, html, render, useEffect, useErrorBoundary, useLayoutEffect, useRef, useState } from './html.js';
import { hasToken, setToken } from './api.js';
import { resume, start } from './live.js';
import { useStore } from './store.js';
import { Chat } from '../views/chat.js';
import { Events } from '../views/events.js';
import { Load } from '../views/load.js';
import { Machine } from '../views/machine.js';
import { Models } from '../views/models.js';
import { Plan } from '../views/plan.js';
import { RecordView } from '../views/record.js';
import { Records } from '../views/records.js';
import { Sources } from '../views/sources.js';

/** Views by the first part of the address, with title and a flag for the navigation. */
const VIEWS = {
  '': [Records, 'Instances', true],
  chat: [Chat, 'Chat', true],
  models: [Models, 'Models on disk', true],
  sources: [Sources, 'Sources', true],
  plan: [Plan, 'Plan', true],
  events: [Events, 'Events and logs', true],
  machine: [Machine, 'Machine', true],
  load: [Load, 'Load a model', false],
  record: [RecordView, 'Instance', false],
};

function route() {
  const [, path = ''] = location.hash.split('#/');
  const [view, ...rest] = path.split('/');
  const name = Object.hasOwn(VIEWS, view) ? view : '';
  return { name, argument: decoded(rest.join('/')) };
}

/** A part of the address without its percent-encoding; as it is if that is malformed. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function useRoute() {
  const [found, setFound] = useState(route);
  useEffect(() => {
    const change = () => setFound(route());
    addEventListener('hashchange', change);
    return () => removeEventListener('hashchange', change);
  }, []);
  return found;
}

const connection = (state) => state.connection;
const trouble = (state) => (state.health?.status === 'degraded' ? state.health.message : '');
const announced = (state) => state.announcement;
const CONNECTIONS = {
  connecting: 'Connecting',
  live: 'Live',
  lost: 'No connection; trying again',
  token: 'Token needed',
};

function App() {
  const { name, argument } = useRoute();
  const connected = useStore(connection);
  const degraded = useStore(trouble);
  const [View, title] = VIEWS[name];
  const main = useRef(null);
  const first = useRef(true);
  useLayoutEffect(() => {
    document.title = `${argument || title} – reconciler`;
    if (!first.current) main.current.focus();
    first.current = false;
    scrollTo(0, 0);
  }, [name, argument]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>Skip to content</a>
    <header class="top">
      <a class="brand" href="#/">reconciler</a>
      <nav aria-label="Views">
        ${Object.entries(VIEWS).filter(([, [, , listed]]) => listed).map(([path, [, label]]) => html`
          <a href="#/${path}" aria-current=${path === name || (path === '' && name === 'record') ? 'page' : null}>${label}</a>`)}
      </nav>
      <span class="connection ${connected}" role="status"><span class="dot" aria-hidden="true"></span>${CONNECTIONS[connected]}</span>
    </header>
    <main id="main" tabindex="-1" ref=${main}>
      ${degraded && html`<p class="note bad" role="alert">${degraded}</p>`}
      ${connected === 'token'
        ? html`<${Token} />`
        : html`<${Guarded} key=${`${name}/${argument}`}><${View} argument=${argument} /><//>`}
    </main>
    <div class="unseen" aria-live="polite">${useStore(announced)}</div>`;
}

/** Error boundary: an error in one view does not affect the others. */
function Guarded({ children }) {
  const [error] = useErrorBoundary((fault) => console.error(fault));
  if (error) return html`<p class="note bad" role="alert">This view failed: ${String(error)}. Load the page again.</p>`;
  return html`<${Fragment}>${children}<//>`;
}

function Token() {
  function enter(event) {
    event.preventDefault();
    setToken(new FormData(event.target).get('token').trim());
    resume();
  }
  return html`<form class="card narrow" onSubmit=${enter}>
    <h1>This daemon requires a token</h1>
    <p>It is in the file that <code>--token-file</code> names. This tab keeps it until it is closed.</p>
    ${hasToken() && html`<p class="note bad" role="alert">That is not the daemon's token.</p>`}
    <label for="token">Token</label>
    <input id="token" name="token" type="password" autocomplete="off" required />
    <p><button class="primary">Use token</button></p>
  </form>`;
}

render(html`<${App} />`, document.getElementById('app'));
start();
