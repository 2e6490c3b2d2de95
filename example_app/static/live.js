// Keeps the lists fresh without reloading. The page works without this file: a reload, or any
// button, shows the same. The server renders the lists; what is new in them is moved here.
"use strict";

const INTERVAL = 1000; // milliseconds between two questions
const lists = document.querySelector("[data-live]");
const announcer = document.getElementById("announcer");

// Buttons must not be replaced under a user's finger or focus: list items stay the same
// elements, and only what is marked data-sync within them changes.
function mergeList(current, fresh) {
  const known = new Map([...current.children].map((item) => [item.id, item]));
  const added = [];
  let place = current.firstElementChild;
  for (const item of [...fresh.children]) {
    const old = known.get(item.id);
    if (old) {
      known.delete(item.id);
      item.querySelectorAll("[data-sync]").forEach(syncPart);
      place = old.nextElementSibling;
    } else {
      item.classList.add("new");
      current.insertBefore(item, place);
      added.push(item);
    }
  }
  known.forEach((item) => item.remove());
  return added;
}

function syncPart(fresh) {
  const part = document.getElementById(fresh.id);
  if (part && part.innerHTML !== fresh.innerHTML) part.replaceChildren(...fresh.childNodes);
}

function merge(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const added = [...lists.querySelectorAll("ol.list")].flatMap((list) => {
    const other = fresh.getElementById(list.id);
    return other ? mergeList(list, other) : [];
  });
  const flashes = fresh.getElementById("flashes");
  if (flashes) document.getElementById("flashes").replaceChildren(...flashes.childNodes);
  const state = fresh.getElementById("lists").dataset;
  lists.dataset.version = state.version;
  document.querySelectorAll("input[name=csrf]").forEach((input) => { input.value = state.csrf; });
  const news = added.map((item) => item.dataset.say).filter(Boolean);
  if (news.length) announcer.textContent = news.slice(0, 3).join(". ");
}

async function poll() {
  try {
    const answer = await fetch(`${lists.dataset.live}?seen=${lists.dataset.version}`);
    if (answer.status === 200) merge(await answer.text());
  } catch {
    // The app was stopped, or is starting again: the next question may find it.
  }
}

async function pollForever() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, INTERVAL));
    if (!document.hidden) await poll();
  }
}

// A button of the simulator posts its form without leaving the page.
async function postQuietly(event) {
  event.preventDefault();
  const form = event.target;
  const data = new URLSearchParams(new FormData(form));
  data.set(event.submitter.name, event.submitter.value);
  try {
    const answer = await fetch(form.action, { method: "POST", body: data });
    if (!answer.ok) throw new Error(answer.statusText);
    merge(await answer.text());
  } catch {
    location.reload();
  }
}

// A file that is too large is refused before it is sent, so that nothing typed is lost.
function checkSize(event) {
  const input = event.target;
  const tooLarge = input.files[0] && input.files[0].size > Number(input.dataset.limit);
  input.setCustomValidity(tooLarge ? "This file is larger than 7 MB. Choose a smaller one." : "");
  if (tooLarge) input.reportValidity();
}

document.querySelectorAll("input[data-limit]").forEach((input) => {
  input.addEventListener("change", checkSize);
});
document.querySelector("[data-focus]")?.focus();
if (lists) {
  document.addEventListener("submit", (event) => {
    if ("quiet" in event.target.dataset) postQuietly(event);
  });
  pollForever();
}
