"use strict";
// Everything that is known about the current image, on demand, with comments.
{
  const { rows, marks, view, el, icon } = NP;
  const facts = { isOpen: false };
  NP.facts = facts;
  const node = NP.byId("facts");
  const fetched = new Map(); // image -> promise of {facts, job}
  const MOST_KEPT = 200;
  let shown = -1;
  let field;

  function fetchFacts(i) {
    if (NP.isStatic) return NP.sheets.of(i);
    if (!fetched.has(i)) {
      if (fetched.size >= MOST_KEPT) fetched.clear();
      const asked = fetch(`api/facts/${encodeURIComponent(rows.imageId[i])}`).then((answer) => {
        if (!answer.ok) throw new Error(String(answer.status));
        return answer.json();
      });
      asked.catch(() => fetched.delete(i));
      fetched.set(i, asked);
    }
    return fetched.get(i);
  }

  async function copy(text, words) {
    try {
      await navigator.clipboard.writeText(text);
      NP.toast(`${words} copied`);
    } catch {
      NP.dialogs.text(`Copy ${words.toLowerCase()}`, text);
    }
  }

  facts.copyJob = async () => {
    if (view.current < 0) return;
    if (NP.isStatic && !NP.sheets.has()) {
      NP.toast("This page has no jobs: nightpress review RUN, without --static, has them", { seconds: 5 });
      return;
    }
    try {
      copy((await fetchFacts(view.current)).job, "Job");
    } catch {
      NP.toast(
        NP.isStatic
          ? "This browser cannot unpack the job"
          : "The job cannot be read: the server does not answer",
      );
    }
  };

  function knownHere(i) {
    const list = [
      ["Image", rows.imageId[i]],
      ["Size", `${rows.width[i]} × ${rows.height[i]}`],
    ];
    for (const column of rows.columns) {
      const text = rows.text(column, i);
      if (text && !column.derived) list.push([column.label, text]);
    }
    for (const [name, value] of Object.entries(rows.constants))
      if (value !== null && value !== "") list.push([name, String(value)]);
    list.push(["SHA-256", rows.sha[i]]);
    return list;
  }

  function table(list) {
    return el(
      "dl",
      { class: "fact-list" },
      ...list.flatMap(([label, value]) => [
        el("dt", { text: String(label) }),
        el("dd", { dir: "auto", text: value === null || value === undefined ? "–" : String(value) }),
      ]),
    );
  }

  function saveComment() {
    if (shown < 0 || !field) return;
    // Of control characters only line breaks and tabs are text.
    const text = field.value
      .replace(/[^\P{Cc}\n\t]/gu, "")
      .trim()
      .slice(0, NP.LONGEST_COMMENT);
    if (text !== marks.own(shown, "comment")) marks.set([shown], "comment", text);
  }

  function makeComment(i) {
    field = el("textarea", {
      id: "comment",
      rows: 2,
      maxlength: NP.LONGEST_COMMENT,
      dir: "auto",
      placeholder: "Comment (M)",
      "aria-label": "Comment",
      value: marks.own(i, "comment"),
      disabled: rows.run.read_only,
    });
    field.addEventListener("change", saveComment);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) {
        event.preventDefault();
        event.stopPropagation();
        saveComment();
        NP.focusView();
      }
    });
    return field;
  }

  function othersNodes(i) {
    return marks
      .ofOthers(i)
      .map(({ reviewer, mark }) =>
        el(
          "div",
          { class: "remark" },
          el("b", { text: reviewer }),
          el("span", { class: "soft", text: NP.inWords({ ...mark, comment: "" }) }),
          mark.comment ? el("p", { dir: "auto", text: mark.comment }) : null,
        ),
      );
  }

  function button(words, act) {
    return el("button", { type: "button", class: "small-button", text: words, on: { click: act } });
  }

  function headNodes(i) {
    const close = el(
      "button",
      {
        type: "button",
        class: "plain close",
        title: "Close (I)",
        "aria-label": "Close the facts",
        on: { click: () => facts.toggle(false) },
      },
      icon("reject"),
    );
    const prompt = el("p", {
      class: "fact-prompt",
      dir: "auto",
      tabindex: 0,
      role: "group",
      "aria-label": "Prompt",
      text: rows.prompt(i),
    });
    const buttons = el(
      "div",
      { class: "fact-buttons" },
      button("Copy prompt", () => copy(rows.prompt(i), "Prompt")),
      button("Copy as job", facts.copyJob),
      button("Copy name", () => copy(rows.imageId[i], "Name")),
    );
    const notice = marks.changed.has(i)
      ? el("p", { class: "notice", text: `${NP.changedWords(i)}. Mark it again if that still holds.` })
      : null;
    return [
      el("div", { class: "fact-head" }, el("h2", { text: rows.imageId[i] }), close),
      notice,
      prompt,
      buttons,
    ];
  }

  function draw() {
    if (!facts.isOpen) return;
    if (view.current < 0) {
      shown = -1;
      node.replaceChildren(el("p", { class: "soft", text: "No image is shown" }));
      return;
    }
    const i = view.current;
    if (shown === i) {
      if (document.activeElement !== field) field.value = marks.own(i, "comment");
      return;
    }
    saveComment();
    shown = i;
    const list = el("div", {}, table(knownHere(i)));
    node.replaceChildren(...headNodes(i).filter(Boolean), makeComment(i), ...othersNodes(i), list);
    node.scrollTop = 0;
    fetchSoon(i, list);
  }

  const fetchSoon = NP.later((i, list) => {
    if (shown !== i) return;
    fetchFacts(i).then(
      (answer) =>
        answer &&
        shown === i &&
        list.replaceChildren(table(answer.facts.filter(([label]) => label !== "prompt"))),
      () =>
        shown === i &&
        list.append(
          el("p", {
            class: "notice",
            text: NP.isStatic
              ? "This browser cannot unpack all facts: these are those that it can read."
              : "The server does not answer: these are the facts that the page has.",
          }),
        ),
    );
  }, 120);

  facts.toggle = (isOpen = !facts.isOpen) => {
    saveComment();
    facts.isOpen = isOpen;
    node.hidden = !isOpen;
    document.body.classList.toggle("with-facts", isOpen);
    shown = -1;
    draw();
    if (!isOpen) NP.focusView();
    NP.emit("panel", null);
  };

  facts.comment = () => {
    if (view.current < 0) return;
    facts.toggle(true);
    field.focus();
  };

  facts.start = () => {
    NP.on("current", draw);
    NP.on("marks", (touched) => {
      if (touched === null) shown = -1;
      draw();
    });
    addEventListener("pagehide", saveComment);
  };
}
