// Messages as elements. What a model or a user wrote becomes text nodes, never markup.

function element(tag, name, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children);
  return made;
}

function button(label, action) {
  const made = element("button", "", label);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

/** Text with its blocks of code apart: what stands between lines of three backticks. */
function blocks(text) {
  const parts = text.split(/^```[^\n`]*\n?/m);
  return parts.map((part, i) => (i % 2 ? element("pre", "", element("code", "", part)) : part));
}

function figuresOf(message) {
  const words = [];
  if (message.stopped) words.push("stopped");
  const timings = message.timings;
  if (timings) {
    words.push(`${timings.predicted_n} tokens`);
    if (timings.predicted_per_second) words.push(`${timings.predicted_per_second.toFixed(1)} tokens/s`);
    if (timings.draft_n) words.push(`${Math.round((100 * timings.draft_n_accepted) / timings.draft_n)} % of drafts accepted`);
    words.push(`${timings.cache_n} of ${timings.cache_n + timings.prompt_n} prompt tokens cached`);
  }
  return words.join(" · ");
}

/** The element of a message. actions: {edit, regenerate}, of which those that are given get a button. */
export function messageElement(message, actions) {
  const item = element("li", `message ${message.role}`);
  item.tabIndex = -1;
  item.append(element("span", "unseen", message.role === "user" ? "You: " : "Model: "));
  const thinking = element("details", "thinking", element("summary", "", "Thinking"), element("div", "thought"));
  item.append(thinking, element("div", "content"));
  refresh(item, message);
  const tools = element("div", "tools");
  if (actions.edit) tools.append(button("Edit", () => edit(item, message, actions.edit)));
  if (actions.regenerate) tools.append(button("Regenerate", actions.regenerate));
  tools.append(figuresOf(message));
  if (tools.hasChildNodes()) item.append(tools);
  return item;
}

/** Shows what the message holds by now; what is unfolded or has the focus stays so. */
export function refresh(item, message) {
  item.querySelector(".thinking").hidden = !message.reasoning;
  item.querySelector(".thought").textContent = message.reasoning ?? "";
  item.querySelector(".content").replaceChildren(...blocks(message.content));
}

function edit(item, message, done) {
  const area = element("textarea", "");
  area.value = message.content;
  area.rows = Math.min(12, message.content.split("\n").length + 1);
  area.setAttribute("aria-label", "Edited message");
  const form = element("form", "edit", area, button("Send edited", () => done(area.value)), button("Cancel", () => done(null)));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      done(area.value);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      done(null);
    }
  });
  item.replaceChildren(form);
  area.focus();
}
