"use strict";
// Elements, events of the page, and what is said aloud. Values only ever become text, never HTML.
globalThis.NP = {};
{
  const listeners = new Map();

  NP.on = (names, act) => {
    for (const name of names.split(" ")) {
      if (!listeners.has(name)) listeners.set(name, []);
      listeners.get(name).push(act);
    }
  };
  NP.emit = (name, value) => {
    for (const act of listeners.get(name) ?? []) act(value);
  };

  NP.byId = (id) => document.getElementById(id);

  function setProperty(node, name, value) {
    if (value === undefined || value === null || value === false) return;
    if (name === "text") node.textContent = value;
    else if (name === "on")
      for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name in node && ["value", "checked", "disabled", "hidden", "tabIndex"].includes(name))
      node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }

  // el("button", { class: "x", text: "...", on: { click } }, child, child)
  NP.el = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) setProperty(node, name, value);
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };

  // An icon of the sprite in the page.
  NP.icon = (name) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    use.setAttribute("href", `#i-${name}`);
    svg.append(use);
    return svg;
  };

  NP.clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  NP.number = (value) => value.toLocaleString("en");
  NP.plural = (count, one, many = `${one}s`) => `${NP.number(count)} ${count === 1 ? one : many}`;

  // Numbers as people write them: no 0.30000000000000004.
  NP.figure = (value) => {
    if (!Number.isFinite(value)) return "";
    if (Number.isInteger(value)) return String(value);
    return String(Number(value.toPrecision(4)));
  };

  NP.shorten = (text, length) => (text.length > length ? `${text.slice(0, length - 1).trimEnd()}…` : text);

  // Said by screen readers; the same text twice is said twice.
  NP.say = (text) => {
    const region = NP.byId("said");
    region.textContent = region.textContent === text ? `${text}\u00a0` : text;
  };

  let fading = 0;
  NP.toast = (text, { seconds = 3, quiet = false } = {}) => {
    const toast = NP.byId("toast");
    toast.textContent = text;
    toast.classList.add("shown");
    clearTimeout(fading);
    fading = setTimeout(() => toast.classList.remove("shown"), seconds * 1000);
    if (!quiet) NP.say(text);
  };

  // Calls `act` once in the next frame, however often it is asked for.
  NP.inFrame = (act) => {
    let asked = false;
    return () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        act();
      });
    };
  };

  NP.later = (act, milliseconds) => {
    let timer = 0;
    return (...values) => {
      clearTimeout(timer);
      timer = setTimeout(() => act(...values), milliseconds);
    };
  };

  // Whether the last touch of the page was by a finger.
  let lastPointer = "";
  addEventListener(
    "pointerdown",
    (event) => {
      lastPointer = event.pointerType;
    },
    { capture: true, passive: true },
  );
  NP.isTouch = () => lastPointer === "touch";

  NP.stillMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // Random letters for names; also where the page is served without TLS to other machines.
  NP.randomHex = (bytes) =>
    Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join(
      "",
    );
}
