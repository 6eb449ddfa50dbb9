// Fetches the board once a second and fits it into the page, changing only what differs: what a person
// has selected or scrolled stays as it is.
"use strict";

const EVERY_MS = 1000;
const LIMIT_MS = 5000;

const board = document.getElementById("board");
const lost = document.getElementById("lost");
const live = document.getElementById("live");
let seenAt = Date.now();

/** Makes `old` equal to `fresh`, in place where they are of one kind. */
function fit(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  fitChildren(old, fresh);
}

function fitChildren(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((child, at) => {
    if (at < before.length) fit(before[at], child);
    else old.append(child);
  });
  before.slice(after.length).forEach((child) => child.remove());
}

async function refresh() {
  const response = await fetch("board", { cache: "no-store", signal: AbortSignal.timeout(LIMIT_MS) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const text = await response.text();
  fitChildren(board, new DOMParser().parseFromString(text, "text/html").body);
  seenAt = Date.now();
}

function say(error) {
  const seconds = Math.round((Date.now() - seenAt) / 1000);
  lost.hidden = !error;
  document.body.classList.toggle("stale", Boolean(error));
  if (error) lost.textContent = `This node has not answered for ${seconds} s. The numbers are old.`;
  live.textContent = error ? "Trying again every second." : "Live, once a second.";
}

async function run() {
  if (document.visibilityState === "visible") {
    await refresh().then(() => say(null), say);
  }
  setTimeout(run, EVERY_MS);
}

// Coming back to the page shows new numbers at once; `run` goes on beside it.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") refresh().then(() => say(null), say);
});
setTimeout(run, EVERY_MS);
live.textContent = "Live, once a second.";
