// What outlives a reload: messages and settings in this browser, the key in this tab.

const CHAT = "pyllama-mtp.chat";
const SETTINGS = "pyllama-mtp.settings";
const KEY = "pyllama-mtp.key";
const ROLES = new Set(["user", "assistant"]);

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // no room, or not allowed: the page works without
  }
}

export function loadMessages() {
  const messages = read(CHAT, []);
  if (!Array.isArray(messages)) return [];
  return messages.filter((one) => ROLES.has(one?.role) && typeof one.content === "string");
}

export function saveMessages(messages) {
  write(CHAT, messages);
}

export function loadSettings() {
  const settings = read(SETTINGS, {});
  return { ...(typeof settings === "object" ? settings : {}), key: sessionStorage.getItem(KEY) ?? "" };
}

export function saveSettings({ key, ...settings }) {
  write(SETTINGS, settings);
  sessionStorage.setItem(KEY, key);
}
