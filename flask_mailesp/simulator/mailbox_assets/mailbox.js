"use strict";

// Everything works without this file: it saves page loads and keeps the place.

const ASK_EVERY = 1000; // milliseconds

function fromHtml(html) {
  const template = document.createElement("template");
  template.innerHTML = html; // rendered and escaped by the server
  return template.content;
}

// --- times: the visitor's own clock ---------------------------------------------------------

function localTimes(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
    const short = "short" in time.dataset && at.toDateString() === today;
    time.title = at.toLocaleString();
    time.textContent = short ? clock : "short" in time.dataset ? at.toLocaleDateString() : at.toLocaleString();
  }
}

// --- the list: new messages by themselves ---------------------------------------------------

function liveList(rows) {
  const news = document.getElementById("news");
  const most = 50;

  function announce(answer, count) {
    const subjects = answer.subjects.slice(0, count).join("; ");
    news.textContent = count === 1 ? `New message: ${subjects}` : `${count} new messages: ${subjects}`;
  }

  function show(answer) {
    if (answer.reset) rows.replaceChildren();
    const fragment = fromHtml(answer.rows.join(""));
    localTimes(fragment);
    for (const row of fragment.querySelectorAll(".row")) row.classList.add("new");
    rows.prepend(fragment);
    while (rows.children.length > most) rows.lastElementChild.remove();
    rows.dataset.newest = answer.newest;
    rows.dataset.state = answer.state;
    for (const [id, value] of [["count", answer.total], ["found", answer.found]]) {
      const place = document.getElementById(id);
      if (place) place.textContent = value;
    }
    document.getElementById("empty").hidden = rows.children.length > 0;
    document.getElementById("clear").hidden = answer.total === 0;
    if (answer.rows.length) announce(answer, answer.rows.length);
  }

  async function ask() {
    if (!document.hidden) {
      const { newest, state, query: q } = rows.dataset;
      const query = new URLSearchParams({ newest, state, q });
      try {
        const response = await fetch(`${rows.dataset.feed}?${query}`, { headers: { "X-Requested-With": "mailbox" } });
        if (response.ok) {
          const answer = await response.json();
          if (answer.state !== rows.dataset.state) show(answer);
        }
      } catch {
        // The simulator is being restarted; the next question may find it.
      }
    }
    setTimeout(ask, ASK_EVERY);
  }

  setTimeout(ask, ASK_EVERY);
}

// --- tabs: the links become them ------------------------------------------------------------

function tabs(nav) {
  const links = [...nav.querySelectorAll("a")];
  const panels = links.map((link) => document.getElementById(link.hash.slice(1)));

  function open(chosen, focus) {
    links.forEach((link, at) => {
      const selected = link === chosen;
      link.setAttribute("aria-selected", String(selected));
      link.tabIndex = selected ? 0 : -1;
      panels[at].toggleAttribute("data-open", selected);
    });
    if (focus) chosen.focus();
    chosen.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function choose(link, focus) {
    open(link, focus);
    history.replaceState(null, "", link.hash);
  }

  nav.setAttribute("role", "tablist");
  links.forEach((link, at) => {
    link.setAttribute("role", "tab");
    link.id = `tab-${link.hash.slice(1)}`;
    link.setAttribute("aria-controls", panels[at].id);
    panels[at].setAttribute("role", "tabpanel");
    panels[at].removeAttribute("aria-label");
    panels[at].setAttribute("aria-labelledby", link.id);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      choose(link, true);
    });
  });
  nav.addEventListener("keydown", (event) => {
    const at = links.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (event.key === " ") {
      event.preventDefault();
      choose(links[at], true);
    } else if (next !== undefined) {
      event.preventDefault();
      choose(links[(next + links.length) % links.length], true);
    }
  });
  const byHash = () => links.find((link) => link.hash === location.hash);
  addEventListener("hashchange", () => byHash() && open(byHash(), false));
  open(byHash() || links.find((link) => "first" in link.dataset), false);
  document.documentElement.classList.add("ready");
}

// --- events: reported without leaving the page ----------------------------------------------

function emitter(form) {
  const place = form.parentElement.querySelector("[data-outcome]");

  function show(answer) {
    const fragment = fromHtml(answer.html);
    if (!fragment.firstElementChild) {
      const box = document.createElement("p");
      box.className = "outcome bad";
      box.textContent = answer.sentence;
      fragment.append(box);
    } else {
      fragment.querySelector("p").prepend(`${answer.label}: `);
    }
    place.replaceChildren(fragment);
  }

  async function refreshTold() {
    const page = await (await fetch(location.pathname)).text();
    const told = new DOMParser().parseFromString(page, "text/html").getElementById("told");
    if (!told) return;
    localTimes(told);
    document.getElementById("told").replaceWith(told);
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.submitter;
    const body = new FormData(form, button);
    button.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(form.action, { method: "POST", body, headers: { "X-Requested-With": "mailbox" } });
      show(await response.json());
      await refreshTold();
    } catch {
      show({ html: "", sentence: "The simulator did not answer. Is it still running?" });
    } finally {
      button.removeAttribute("aria-busy");
    }
  });
}

// --- the rest -------------------------------------------------------------------------------

function widths(group) {
  const frame = document.querySelector("iframe.mail");
  group.hidden = false;
  group.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) return;
    frame.classList.toggle("phone", chosen.dataset.width === "phone");
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button === chosen));
    }
  });
}

function confirmed(form) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}

function each(selector, set) {
  for (const element of document.querySelectorAll(selector)) set(element);
}

localTimes(document);
each("[data-feed]", liveList);
each("[data-tabs]", tabs);
each("[data-emit]", emitter);
each("[data-widths]", widths);
each("form[data-confirm]", confirmed);
