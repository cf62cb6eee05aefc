// The chat: what is asked, what is answered, and what the buttons do.

import { chat, modelName } from "./api.js";
import { watch } from "./panel.js";
import { loadMessages, loadSettings, saveMessages, saveSettings } from "./store.js";
import { messageElement, refresh } from "./view.js";

const at = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "num_speculative_tokens"];
const NEAR_END_PX = 60;
const SAVE_MS = 500;

let messages = loadMessages();
let settings = loadSettings();
let running = null; // the AbortController of the answer that is under way

// Drawing.

function actionsFor(message, index) {
  if (running) return {};
  if (message.role === "user") return { edit: (text) => editMessage(index, text) };
  return index === messages.length - 1 ? { regenerate: () => answer(index) } : {};
}

function draw() {
  at("messages").replaceChildren(...messages.map((message, i) => messageElement(message, actionsFor(message, i))));
  at("send").hidden = Boolean(running);
  at("stop").hidden = !running;
  at("messages").setAttribute("aria-busy", String(Boolean(running)));
}

function scrollToEnd() {
  at("messages").scrollTop = at("messages").scrollHeight;
}

/** Draws the last message again, at most once a frame, and follows the end if that was seen. */
function drawLast() {
  if (drawLast.due) return;
  drawLast.due = true;
  requestAnimationFrame(() => {
    drawLast.due = false;
    const list = at("messages");
    const follows = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END_PX;
    const last = messages.length - 1;
    if (last >= 0 && list.lastElementChild) refresh(list.lastElementChild, messages[last]);
    if (follows) scrollToEnd();
  });
}

function tellError(text) {
  at("error").textContent = text;
  at("error").hidden = !text;
}

// Asking.

function requestBody(history) {
  const body = { messages: history.map(({ role, content }) => ({ role, content })), stream: true };
  body.stream_options = { include_usage: true };
  if (settings.system) body.messages.unshift({ role: "system", content: settings.system });
  for (const name of NUMBERS) {
    if (settings[name]) body[name] = Number(settings[name]);
  }
  if (settings.thinking) body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  return body;
}

function take(message, event) {
  if (event.timings) message.timings = event.timings;
  const delta = event.choices[0]?.delta ?? {};
  message.reasoning += delta.reasoning_content ?? "";
  message.content += delta.content ?? "";
  for (const call of delta.tool_calls ?? []) message.content += `${call.function.name}(${call.function.arguments})\n`;
}

/** Answers what stands before `index`, in place of what stands from there on. */
async function answer(index) {
  if (running) return;
  const history = messages.slice(0, index);
  const message = { role: "assistant", content: "", reasoning: "" };
  messages = [...history, message];
  const control = (running = new AbortController());
  tellError("");
  draw();
  scrollToEnd();
  at("status").textContent = "The model answers";
  let saved = 0;
  try {
    for await (const event of chat(requestBody(history), settings.key, control.signal)) {
      take(message, event);
      drawLast();
      if (performance.now() - saved > SAVE_MS) {
        saveMessages(messages);
        saved = performance.now();
      }
    }
  } catch (error) {
    message.stopped = true;
    if (!control.signal.aborted) tellError(error.message);
  }
  running = null;
  if (messages.at(-1) === message && !message.content && !message.reasoning) messages = history;
  saveMessages(messages);
  draw();
  scrollToEnd();
  at("status").textContent = "The answer has ended";
  at("input").focus();
}

function send() {
  const text = at("input").value;
  if (running || !text.trim()) return;
  at("input").value = "";
  messages.push({ role: "user", content: text });
  saveMessages(messages);
  answer(messages.length);
}

function editMessage(index, text) {
  if (text === null || !text.trim()) {
    draw();
    at("messages").children[index].focus();
    return;
  }
  messages = [...messages.slice(0, index), { role: "user", content: text }];
  saveMessages(messages);
  answer(messages.length);
}

function stop() {
  running?.abort();
}

// Settings.

function toggle(name) {
  const shown = at(name).hidden;
  at(name).hidden = !shown;
  at(`toggle-${name}`).setAttribute("aria-expanded", String(shown));
  return shown;
}

function connectSettings() {
  for (const field of at("settings").elements) {
    field.value = settings[field.name] ?? "";
    field.addEventListener("change", () => {
      settings = { ...settings, [field.name]: field.value };
      saveSettings(settings);
      if (field.name === "key") nameModel();
    });
  }
}

async function nameModel() {
  try {
    at("model").textContent = await modelName(settings.key);
    tellError("");
  } catch (error) {
    tellError(error.message);
  }
}

// Keys and buttons.

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("settings").addEventListener("submit", (event) => event.preventDefault());
at("messages").addEventListener("submit", (event) => event.preventDefault());
at("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
at("stop").addEventListener("click", stop);
at("new").addEventListener("click", () => {
  stop();
  messages = [];
  saveMessages(messages);
  tellError("");
  draw();
  at("input").focus();
});
at("toggle-settings").addEventListener("click", () => {
  if (toggle("settings")) at("settings").elements[0].focus();
});
at("toggle-figures").addEventListener("click", () => toggle("figures"));
window.addEventListener("pagehide", () => saveMessages(messages));

if (matchMedia("(max-width: 45rem)").matches) toggle("figures");
connectSettings();
draw();
scrollToEnd();
nameModel();
watch();
at("input").focus();
