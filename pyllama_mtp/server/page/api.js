// Talks to the server: events of an answer, the name of the model, the figures.

export class ApiError extends Error {}

function headers(key) {
  const named = { "Content-Type": "application/json" };
  return key ? { ...named, Authorization: `Bearer ${key}` } : named;
}

async function check(response) {
  if (response.ok) return response;
  let message = `the server answered with the status ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // no error object: the status has to do
  }
  throw new ApiError(message);
}

export async function modelName(key) {
  const response = await check(await fetch("/v1/models", { headers: headers(key) }));
  return (await response.json()).data[0].id;
}

/** The events of a streamed chat completion, as objects, until its end. Throws ApiError, and what fetch does. */
export async function* chat(body, key, signal) {
  const request = { method: "POST", headers: headers(key), body: JSON.stringify(body), signal };
  const response = await check(await fetch("/v1/chat/completions", request));
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError("the connection ended before the answer");
    const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue; // a comment
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const object = JSON.parse(data);
      if (object.error) throw new ApiError(object.error.message);
      yield object;
    }
  }
}

/** The server's figures: {name: value}, and of what is counted by position {name: [values]}. */
export async function figures() {
  const text = await (await check(await fetch("/metrics"))).text();
  const values = new Map();
  for (const line of text.split("\n")) {
    const found = /^vllm:(\w+)\{([^}]*)\} (\S+)$/.exec(line);
    if (!found || /_(bucket|sum|count)$/.test(found[1])) continue;
    const position = /position="(\d+)"/.exec(found[2]);
    if (!position) {
      values.set(found[1], Number(found[3]));
    } else {
      if (!values.has(found[1])) values.set(found[1], []);
      values.get(found[1])[Number(position[1])] = Number(found[3]);
    }
  }
  return values;
}
