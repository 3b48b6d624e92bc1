// Refreshes the parts of a page that change, filters without a round trip, and follows a running log.
// Everything here is a comfort: the pages say the same without it.
"use strict";

const EVERY_MS = 3000;
const live = (root) => new Map([...root.querySelectorAll("[data-live]")].map((part) => [part.dataset.live, part]));

function filter() {
  const input = document.querySelector("[data-filter]");
  if (!input) return;
  const wanted = input.value.trim().toLowerCase();
  for (const row of document.querySelectorAll("tr[data-text]")) {
    row.hidden = !row.dataset.text.toLowerCase().includes(wanted);
  }
}

async function refresh() {
  if (document.hidden) return;
  let text;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    text = await answer.text();
  } catch {
    return; // the daemon restarts: the next try finds it
  }
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const parts = live(document);
  for (const [name, part] of live(fresh)) {
    const shown = parts.get(name);
    if (!shown || shown.innerHTML === part.innerHTML) continue;
    const open = [...shown.querySelectorAll("details")].map((details) => details.open);
    const focus = shown.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    shown.innerHTML = part.innerHTML;
    shown.querySelectorAll("details").forEach((details, index) => { details.open = open[index] ?? false; });
    if (focus) shown.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
  }
  document.title = fresh.title;
  document.getElementById("head").innerHTML = fresh.getElementById("head").innerHTML;
  for (const [selector, attribute] of [["link[rel=icon]", "href"], [".brand img", "src"]]) {
    const value = fresh.querySelector(selector).getAttribute(attribute);
    const shown = document.querySelector(selector);
    if (shown.getAttribute(attribute) !== value) shown.setAttribute(attribute, value);
  }
  filter();
}

function follow() {
  const log = document.querySelector("#log[data-follow]");
  if (!log) return;
  let fresh = true;
  const events = new EventSource(log.dataset.follow);
  const atEnd = () => window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
  events.onmessage = (event) => {
    if (fresh) log.textContent = ""; // the stream begins where the log does
    fresh = false;
    const stick = atEnd();
    // eslint-disable-next-line no-control-regex
    log.append(event.data.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, ""));
    if (stick) window.scrollTo(0, document.body.scrollHeight);
  };
  events.addEventListener("end", () => {
    events.close();
    document.querySelector("[data-running]")?.remove();
    refresh();
  });
}

document.querySelector("[data-filter]")?.addEventListener("input", filter);
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, EVERY_MS);
filter();
follow();
