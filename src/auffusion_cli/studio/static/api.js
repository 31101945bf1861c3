// The HTTP API of the studio; /openapi.json describes it.

async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  if (answer.status === 204) return null;
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.hint ? `${value.error}. ${value.hint}` : value.error);
  return value;
}

const send = (method, path, body) =>
  ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const info = () => ask("/v1/info");
export const state = () => ask("/v1/jobs");
export const make = (task, request) => send("POST", `/v1/${task}`, request);
export const cancel = (job) => ask(`/v1/jobs/${job}`, { method: "DELETE" });
export const sound = (id) => ask(`/v1/sounds/${id}`);
export const versions = (id) => ask(`/v1/sounds/${id}/versions`);
export const outline = (id) => ask(`/v1/sounds/${id}/outline`);
export const mark = (id, state) => send("PATCH", `/v1/sounds/${id}`, { state });
export const remove = (id) => ask(`/v1/sounds/${id}`, { method: "DELETE" });
export const sounds = (query) => ask(`/v1/sounds?${new URLSearchParams(query)}`);
export const bringIn = (file) =>
  ask(`/v1/sounds?${new URLSearchParams({ name: file.name })}`, { method: "POST", body: file });

export const audioUrl = (id, format = null) =>
  `/v1/sounds/${id}/audio${format ? `?format=${format}` : ""}`;
export const pictureUrl = (id) => `/v1/sounds/${id}/spectrogram.png`;

// The state of model and queue, now and whenever it changes; the browser connects again by itself.
export function watch(onState, onLost) {
  const events = new EventSource("/v1/events");
  events.addEventListener("message", (event) => onState(JSON.parse(event.data)));
  events.addEventListener("error", onLost);
}
