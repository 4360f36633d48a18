// Access of pages from two origins to the daemon, in a real browser.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

process.env.TMPDIR = process.env.HOME; // the browser is unpacked there
const { default: chromium } = await import('@sparticuz/chromium');
const { default: puppeteer } = await import('puppeteer-core');
const esbuild = await import('esbuild');

const [pages, files] = process.argv.slice(2); // port of the pages, directory that is served
const { URL: daemon, MODEL: model } = process.env;
const port = new URL(daemon).port;

const source = `
  import OpenAI from 'openai';
  import Anthropic from '@anthropic-ai/sdk';
  Object.assign(window, { OpenAI, Anthropic });
`;
const bundled = await esbuild.build({
  stdin: { contents: source, resolveDir: import.meta.dirname },
  bundle: true,
  format: 'iife',
  platform: 'browser',
  write: false,
});
await writeFile(join(files, 'sdks.js'), bundled.outputFiles[0].contents);
await writeFile(join(files, 'index.html'), '<script src="/sdks.js"></script>');

const browser = await puppeteer.launch({
  executablePath: await chromium.executablePath(),
  headless: 'shell',
  // The package's own arguments are left out: they turn off the checks under test.
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--host-resolver-rules=MAP *.example 127.0.0.1',
  ],
});

async function opened(url) {
  const page = await browser.newPage();
  const reply = await page.goto(url);
  return [page, reply];
}

const found = { browser: await browser.version() };

const [friend] = await opened(`http://chat.example:${pages}/`);
found.friend = await friend.evaluate(
  async (daemon, model) => {
    const found = {};
    const more = { dangerouslyAllowBrowser: true, apiKey: 'none', maxRetries: 0 };
    const openai = new OpenAI({ baseURL: `${daemon}/v1`, ...more });
    found.models = (await openai.models.list()).data.map((one) => one.id);
    const messages = [{ role: 'user', content: 'Hello' }];
    const answer = await openai.chat.completions.create({ model, messages });
    found.openai = answer.choices[0].message.content;
    found.stream = '';
    for await (const chunk of await openai.chat.completions.create({ model, messages, stream: true }))
      found.stream += chunk.choices[0]?.delta.content ?? '';
    found.error = await openai.models.retrieve('no/such').catch((error) => error.status);
    const anthropic = new Anthropic({ baseURL: daemon, ...more });
    const asked = { model, messages, max_tokens: 50 };
    found.anthropic = (await anthropic.messages.create(asked)).content[0].text;
    const final = await anthropic.messages.stream(asked).finalMessage();
    found.anthropicStream = final.content[0].text;
    const reply = await fetch(`${daemon}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model, messages }),
    });
    found.instance = reply.headers.get('X-Reconciler-Instance');
    return found;
  },
  daemon,
  model,
);

const [stranger] = await opened(`http://evil.example:${pages}/`);
found.stranger = await stranger.evaluate(
  async (daemon, model) => {
    const failed = (promise) => promise.then((reply) => reply.status, (error) => error.name);
    const body = JSON.stringify({ instance_id: model });
    const json = { 'content-type': 'application/json' };
    const image = new Image();
    const seen = new Promise((done) => {
      image.onload = () => done('loaded');
      image.onerror = () => done('error');
    });
    image.src = `${daemon}/v1/models`;
    return {
      get: await failed(fetch(`${daemon}/v1/models`)),
      post: await failed(
        fetch(`${daemon}/api/v1/models/unload`, { method: 'POST', headers: json, body }),
      ),
      simple: await failed(
        fetch(`${daemon}/api/v1/models/unload`, { method: 'POST', mode: 'no-cors', body }),
      ),
      image: await seen,
    };
  },
  daemon,
  model,
);
const link = stranger.waitForNavigation();
await stranger.evaluate((daemon) => location.assign(`${daemon}/v1/models`), daemon);
found.link = (await link).status();

found.typed = (await opened(`${daemon}/v1/models`))[1].status();
found.rebound = (await opened(`http://rebound.example:${port}/v1/models`))[1].status();

await browser.close();
console.log(JSON.stringify(found));
