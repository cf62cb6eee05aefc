// The figures of the server, read once a second while the page is seen.

import { figures } from "./api.js";

const PERIOD_MS = 1000;
const at = (id) => document.getElementById(id);
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(0)} %` : "-");

let before = null;

function show(values, now) {
  const tokens = values.get("generation_tokens_total") ?? 0;
  if (before !== null && now > before.now) {
    at("speed").textContent = ((1000 * (tokens - before.tokens)) / (now - before.now)).toFixed(1);
  }
  before = { tokens, now };
  at("running").textContent = values.get("num_requests_running") ?? "-";
  at("waiting").textContent = values.get("num_requests_waiting") ?? "-";
  at("cells").textContent = percent(values.get("kv_cache_usage_perc") ?? 0, 1);
  at("cached").textContent = percent(values.get("prefix_cache_hits_total"), values.get("prefix_cache_queries_total"));
  showPositions(values.get("spec_decode_num_accepted_tokens_per_pos_total") ?? [], values.get("spec_decode_num_drafts_total"));
}

function showPositions(accepted, rounds) {
  const rows = accepted.map((count, i) => {
    const meter = document.createElement("meter");
    meter.max = rounds || 1;
    meter.value = count;
    meter.setAttribute("aria-label", `position ${i + 1}`);
    const row = document.createElement("li");
    const [number, share] = [document.createElement("span"), document.createElement("span")];
    number.textContent = i + 1;
    share.textContent = percent(count, rounds);
    row.append(number, meter, share);
    return row;
  });
  at("positions").replaceChildren(...rows);
}

export async function watch() {
  for (;;) {
    if (!document.hidden && !at("figures").hidden) {
      try {
        show(await figures(), performance.now());
      } catch {
        before = null; // the server is away: what was last is shown
      }
    }
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
  }
}
