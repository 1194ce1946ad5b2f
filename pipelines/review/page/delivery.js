"use strict";
// Brings marks to the server. Until it has them they stay in this browser: each is kept the moment it is made,
// then sealed into a numbered batch whose bytes never change, so that sending it twice does no harm.
{
  const { rows } = NP;
  const MOST_IN_A_BATCH = 500;
  const LONGEST_BATCH = 400000; // letters
  const MOST_WHEN_LEAVING = 30000; // letters; Chromium lets 64 KiB outlive a page, and refuses more
  const PAUSE_MS = 400;
  const LONGEST_WAIT_MS = 15000;

  const delivery = { session: "", status: "saved", message: "" };
  NP.delivery = delivery;

  let prefix = "";
  let nextBatch = 0;
  let nextItem = 0;
  let open = []; // [{key, marks}] made since the last batch
  const outbox = []; // [{key, body, count}] in the order in which they are sent
  const aside = []; // batches that the server refused for good
  let isSending = false;
  let failures = 0;
  let timer = 0;
  let isLeaving = false; // the last request may outlive the page
  let isLost = false; // the browser refused to keep marks

  function newSession() {
    const now = new Date().toISOString().slice(0, 19).replace(/[-:]/g, "");
    return `${now}-${NP.randomHex(4)}`;
  }

  function store(key, text) {
    try {
      localStorage.setItem(key, text);
      isLost = false;
      return true;
    } catch {
      isLost = true;
      return false;
    }
  }

  function forget(key) {
    try {
      localStorage.removeItem(key);
    } catch {
      // what cannot be reached cannot be kept either
    }
  }

  function storedKeys() {
    try {
      return Object.keys(localStorage)
        .filter((key) => key.startsWith(prefix))
        .sort();
    } catch {
      return [];
    }
  }

  function parsed(text) {
    try {
      return JSON.parse(text);
    } catch {
      return null; // cut short when the browser was killed: no whole mark was in it
    }
  }

  // Marks of earlier sessions of this browser, which never reached the server.
  function takeUpLeftovers() {
    const found = [];
    for (const key of storedKeys()) {
      const text = localStorage.getItem(key);
      const kept = parsed(text);
      if (!kept) continue;
      const marks = kept.marks ?? kept;
      if (kept.marks) outbox.push({ key, body: text, count: marks.length });
      else open.push({ key, marks, length: text.length });
      found.push(...marks);
    }
    return found;
  }

  delivery.start = () => {
    prefix = `nightpress:${rows.run.id}:${rows.run.reviewer}:`;
    delivery.session = newSession();
    const leftovers = takeUpLeftovers();
    addEventListener("pagehide", () => {
      isLeaving = true;
      delivery.flush();
    });
    addEventListener("pageshow", () => {
      isLeaving = false;
    });
    addEventListener("online", delivery.retry);
    document.addEventListener("visibilitychange", () => document.hidden && delivery.flush());
    addEventListener("beforeunload", (event) => {
      if (isLost && delivery.unsaved()) event.preventDefault();
    });
    if (leftovers.length) delivery.flush();
    return leftovers;
  };

  delivery.unsaved = () => {
    let count = 0;
    for (const { marks } of open) count += marks.length;
    for (const batch of outbox) count += batch.count;
    return count;
  };
  delivery.discardRefused = () => {
    for (const { key } of aside.splice(0)) forget(key);
    show();
  };
  delivery.refused = () => aside.reduce((count, batch) => count + batch.count, 0);

  delivery.keep = (made) => {
    for (let from = 0; from < made.length; from += MOST_IN_A_BATCH)
      add(made.slice(from, from + MOST_IN_A_BATCH));
    show();
    schedule(PAUSE_MS);
  };

  function add(marks) {
    const key = `${prefix}mark:${delivery.session}:${String(nextItem++).padStart(8, "0")}`;
    const text = JSON.stringify(marks);
    store(key, text);
    open.push({ key, marks, length: text.length });
  }

  // Takes as many of the open marks as one batch may hold.
  function takeParts() {
    const parts = [];
    let [count, length] = [0, 0];
    while (open.length) {
      count += open[0].marks.length;
      length += open[0].length;
      if (parts.length && (count > MOST_IN_A_BATCH || length > LONGEST_BATCH)) break;
      parts.push(open.shift());
    }
    return parts;
  }

  function sealed(marks) {
    const n = nextBatch++;
    const key = `${prefix}batch:${delivery.session}:${String(n).padStart(8, "0")}`;
    const body = JSON.stringify({ session: delivery.session, n, marks });
    return { key, body, count: marks.length, isKept: store(key, body) };
  }

  function seal() {
    while (open.length) {
      const parts = takeParts();
      const batch = sealed(parts.flatMap((part) => part.marks));
      // The batch is kept before its parts are forgotten: at worst a mark is delivered twice.
      if (batch.isKept) parts.forEach((part) => forget(part.key));
      outbox.push(batch);
    }
  }

  delivery.flush = () => {
    seal();
    send();
  };
  delivery.retry = () => {
    failures = 0;
    delivery.flush();
  };

  function schedule(milliseconds) {
    if (timer) return;
    timer = setTimeout(() => {
      timer = 0;
      delivery.flush();
    }, milliseconds);
  }

  async function post(body) {
    const answer = await fetch("api/marks", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body,
      keepalive: isLeaving && body.length < MOST_WHEN_LEAVING,
    });
    if (answer.ok) return { ok: true };
    const words = await answer.json().then(
      (said) => said.error,
      () => "",
    );
    return { ok: false, code: answer.status, words };
  }

  // Sends the marks of the first batch again under new numbers, in as many batches.
  function replaceFirst(...groups) {
    const [batch] = outbox;
    outbox.splice(0, 1, ...groups.map(sealed));
    forget(batch.key);
  }

  // One mark that the server does not take must not keep others back: the batch is halved until that one is alone.
  function refuse(words) {
    const { marks } = JSON.parse(outbox[0].body);
    if (marks.length > 1) {
      const half = marks.length >> 1;
      replaceFirst(marks.slice(0, half), marks.slice(half));
      return;
    }
    aside.push(outbox.shift());
    delivery.message = words || "the server does not accept it";
  }

  function settle(batch, answer) {
    if (answer.ok) {
      forget(batch.key);
      outbox.shift();
      failures = 0;
      return true;
    }
    if (answer.code === 409) {
      replaceFirst(JSON.parse(batch.body).marks); // another tab has the name of this session
      return true;
    }
    if (answer.code === 400 || answer.code === 413) {
      refuse(answer.words);
      return true;
    }
    failures += 1;
    const isShut = answer.code === 401 || answer.code === 403;
    delivery.status = isShut ? "shut" : "waiting";
    if (isShut) delivery.message = answer.words || "The server asks for its address with the token";
    return false;
  }

  async function send() {
    if (isSending || !outbox.length) return;
    isSending = true;
    delivery.status = failures ? delivery.status : "saving";
    show();
    let goesOn = true;
    while (outbox.length && goesOn) {
      const batch = outbox[0];
      const answer = await post(batch.body).catch(() => ({ ok: false, code: 0, words: "" }));
      goesOn = settle(batch, answer);
    }
    isSending = false;
    if (goesOn) {
      delivery.status = "saved";
      if (open.length) schedule(PAUSE_MS);
    } else {
      schedule(Math.min(LONGEST_WAIT_MS, 500 * 2 ** Math.min(failures, 5)));
    }
    show();
  }

  const show = () => NP.emit("delivery", null);

  // What is said about it: short and true.
  delivery.words = () => {
    const count = delivery.unsaved();
    const some = NP.plural(count, "mark");
    if (isLost && count) return `This browser cannot keep ${some}: do not close this page`;
    if (delivery.refused()) return `${NP.plural(delivery.refused(), "mark")} refused: ${delivery.message}`;
    if (!count) return "All marks saved";
    if (delivery.status === "shut") return `${some} not saved: ${delivery.message}`;
    if (delivery.status === "waiting") return `${some} not saved yet; trying again`;
    return `Saving ${some}`;
  };
  delivery.tone = () => {
    if (
      delivery.refused() ||
      (isLost && delivery.unsaved()) ||
      (delivery.status === "shut" && delivery.unsaved())
    )
      return "bad";
    return delivery.unsaved() && delivery.status === "waiting" ? "warn" : "";
  };

  // Marks of the others, and my own from other browsers.
  let tag = "";
  delivery.fetchMarks = async () => {
    const answer = await fetch("api/marks", { headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 304 || !answer.ok) return null;
    tag = answer.headers.get("ETag") ?? "";
    return answer.json();
  };
}
