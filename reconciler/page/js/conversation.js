/** Conversations with instances, kept while the page is open: turns, and the answer in progress. */
import { stream } from './api.js';

/**
 * A turn has `{role, content, reasoning?, tool_calls?, tool_call_id?}` as in a request, and
 * `figures`, `progress` and `error` of an answer for display.
 */
const conversations = new Map();

const fresh = () => ({ turns: [], parameters: {}, stop: null, changed: () => {} });

/** The conversation with an instance; `changed` is called when it changes. */
export function conversation(name) {
  if (!conversations.has(name)) conversations.set(name, fresh());
  return conversations.get(name);
}

/** Clear the turns of a conversation. */
export function clear(talk) {
  talk.stop?.abort();
  talk.turns = [];
  talk.changed();
}

/** The call whose result comes next, if the last answer called a tool. */
export function openCall(talk) {
  const answered = new Set(talk.turns.map((one) => one.tool_call_id).filter(Boolean));
  const calls = talk.turns.findLast((one) => one.role === 'assistant')?.tool_calls ?? [];
  return calls.find((one) => !answered.has(one.id));
}

/** Add the user's text and request an answer, unless more tool results are missing. */
export async function submit(talk, name, text) {
  const call = openCall(talk);
  talk.turns.push(call ? { role: 'tool', tool_call_id: call.id, content: text } : { role: 'user', content: text });
  talk.changed();
  if (!openCall(talk)) await answer(talk, name);
}

async function answer(talk, name) {
  const { system, ...parameters } = talk.parameters;
  const messages = answered(talk.turns).map(sent);
  if (system) messages.unshift({ role: 'system', content: system });
  const body = {
    ...parameters,
    model: name,
    messages,
    stream: true,
    stream_options: { include_usage: true, include_progress: true },
  };
  const turn = { role: 'assistant', content: '', reasoning: '', tool_calls: [] };
  const times = { begin: performance.now(), first: null };
  talk.turns.push(turn);
  talk.stop = new AbortController();
  try {
    for await (const { data } of stream('POST', '/v1/chat/completions', body, { signal: talk.stop.signal })) {
      if (data === '[DONE]') continue;
      if (data.error) throw new Error(data.error.message);
      take(turn, data, times);
      talk.changed();
    }
  } catch (error) {
    if (error.name !== 'AbortError') turn.error = error.message;
    else turn.stopped = true;
    turn.tool_calls = []; // incomplete calls can neither be answered nor sent
  }
  delete turn.progress;
  if (!turn.content && !turn.reasoning && !turn.tool_calls.length && turn.stopped) turn.error = 'Stopped.';
  talk.stop = null;
  talk.changed();
}

/** The turns without failed answers and what they failed on: many templates require that roles alternate. */
const answered = (turns) =>
  turns.filter((one, i) => !one.error && !(one.role === 'user' && turns[i + 1]?.error));

/** A turn as a message of a request. */
function sent({ role, content, tool_calls: calls, tool_call_id: id }) {
  const message = { role, content };
  if (calls?.length) message.tool_calls = calls;
  if (id) message.tool_call_id = id;
  return message;
}

function take(turn, chunk, times) {
  const delta = chunk.choices?.[0]?.delta ?? {};
  if (chunk.progress) turn.progress = chunk.progress;
  if (delta.content || delta.reasoning_content || delta.tool_calls) {
    times.first ??= performance.now();
    delete turn.progress;
  }
  turn.content += delta.content ?? '';
  turn.reasoning += delta.reasoning_content ?? '';
  for (const part of delta.tool_calls ?? []) {
    turn.tool_calls[part.index] ??= { id: part.id, type: 'function', function: { name: '', arguments: '' } };
    const call = turn.tool_calls[part.index].function;
    call.name += part.function?.name ?? '';
    call.arguments += part.function?.arguments ?? '';
  }
  turn.finish = chunk.choices?.[0]?.finish_reason ?? turn.finish;
  if (chunk.usage) turn.figures = figures(chunk.usage, times);
}

function figures(usage, { begin, first }) {
  const spent = (performance.now() - (first ?? begin)) / 1000;
  const later = usage.completion_tokens - 1;
  return {
    prompt: usage.prompt_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
    completion: usage.completion_tokens,
    first: first === null ? null : (first - begin) / 1000,
    speed: later > 0 && spent > 0 ? later / spent : null,
  };
}
