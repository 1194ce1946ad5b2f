"use strict";
// What opens over the page: keys, failed rows, where marks are, notes of the run.
{
  const { rows, el } = NP;
  const dialogs = {};
  NP.dialogs = dialogs;

  function open(title, ...content) {
    const close = el("button", { type: "button", class: "small-button", text: "Close" });
    const heading = el("h2", { text: title, id: "dialog-title" });
    const dialog = el(
      "dialog",
      { "aria-labelledby": "dialog-title" },
      el("div", { class: "dialog-head" }, heading, close),
      el("div", { class: "dialog-body", tabindex: 0, role: "group", "aria-label": title }, ...content),
    );
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      NP.focusView();
    });
    document.body.append(dialog);
    dialog.showModal();
    return dialog;
  }

  // Keys are separated by spaces; words between them by ~.
  const KEYS = [
    [
      "Mark",
      [
        ["P", "pick"],
        ["X", "reject"],
        ["U", "remove the flag"],
        ["0 ~–~ 5", "stars"],
        ["6 7 8 9", "red, yellow, green, blue label"],
        ["M", "comment"],
        ["Caps_Lock", "go on to the next image after each mark"],
        ["Shift ~with a mark~", "the same, once"],
        ["Ctrl Z", "undo, as far back as you like"],
        ["Ctrl Shift Z", "redo"],
      ],
    ],
    [
      "Look",
      [
        ["E Enter Space", "one image"],
        ["G Esc", "the grid"],
        ["C", "compare the selection, two to eight"],
        ["N", "survey the selection"],
        ["/", "take away, in a survey"],
        ["Z", "100% and back"],
        ["B", "before and after"],
        ["I", "facts"],
        ["J", "captions"],
        ["+ −", "size of thumbnails"],
      ],
    ],
    [
      "Move",
      [
        ["← ↑ → ↓", "to the next image"],
        ["Home End", "first, last"],
        ["Page_Up Page_Down", "a screen"],
        ["Shift ~and move or click~", "select a range"],
        ["Ctrl ~and click~", "select one more"],
        ["Ctrl A", "select all"],
        ["Ctrl D", "select none"],
      ],
    ],
    [
      "Find",
      [
        ["/ Ctrl_F", "search prompts"],
        ["F", "filters"],
        ["S", "close or open a stack"],
        ["Shift S", "close or open all stacks"],
        ["R", "show only what still fits the filters"],
        ["?", "these keys"],
      ],
    ],
  ];
  const TOUCH = "By touch: swipe up to pick, down to reject, sideways for the next image; pinch to zoom.";

  function keyNodes(keys) {
    return keys.split("~").flatMap((part, k) =>
      k % 2
        ? [el("span", { class: "soft", text: part })]
        : part
            .trim()
            .split(" ")
            .filter(Boolean)
            .map((key) => el("kbd", { text: key.replace("_", " ") })),
    );
  }

  dialogs.keys = () => {
    const sections = KEYS.map(([title, list]) =>
      el(
        "section",
        {},
        el("h3", { text: title }),
        el(
          "dl",
          { class: "keys" },
          ...list.flatMap(([keys, words]) => [el("dt", {}, ...keyNodes(keys)), el("dd", { text: words })]),
        ),
      ),
    );
    open("Keys", el("div", { class: "key-columns" }, ...sections), el("p", { class: "soft", text: TOUCH }));
  };

  dialogs.failed = () => {
    const { failed, run } = rows;
    const row = (each) =>
      el(
        "tr",
        {},
        el("td", { text: each.image_id }),
        el("td", {}, el("b", { text: each.error_type ?? "" }), ` ${each.error ?? ""}`),
        el("td", { dir: "auto", text: NP.shorten(each.prompt ?? "", 200) }),
      );
    const head = el("tr", {}, ...["Image", "Why", "Prompt"].map((text) => el("th", { text, scope: "col" })));
    const words =
      failed.length < run.num_failed
        ? `The first ${NP.number(failed.length)} of ${NP.number(run.num_failed)}.`
        : "";
    open(
      `${NP.plural(run.num_failed, "image")} failed`,
      el("p", { class: "soft", text: `${words} nightpress retry makes them again.`.trim() }),
      el("table", {}, el("thead", {}, head), el("tbody", {}, ...failed.map(row))),
    );
  };

  dialogs.text = (title, text) => {
    const field = el("textarea", {
      class: "copied",
      rows: 16,
      readonly: true,
      value: text,
      "aria-label": title,
    });
    open(
      title,
      el("p", { class: "soft", text: "This browser does not let the page copy: press Ctrl C." }),
      field,
    );
    field.select();
  };

  function download(name, text) {
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    const link = el("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  function exportNodes() {
    const { delivery } = NP;
    const name = el("input", {
      type: "text",
      id: "reviewer",
      value: rememberedName(),
      autocomplete: "name",
      maxlength: 60,
    });
    const said = el("p", { class: "notice" });
    const save = el("button", {
      type: "button",
      class: "main-button",
      text: `Export ${NP.plural(delivery.all().length, "mark")} as marks.json`,
    });
    save.addEventListener("click", () => {
      const reviewer = name.value.trim();
      if (!NAME.test(reviewer)) {
        name.focus();
        said.textContent = reviewer
          ? "A name has letters, digits, . _ @ - and spaces, and does not end with a space or full stop."
          : "Enter your name first: it keeps the marks of several reviewers apart.";
        NP.say(said.textContent);
        return;
      }
      rememberName(reviewer);
      download("marks.json", delivery.exported(reviewer));
      NP.toast("marks.json exported");
    });
    return [
      el("p", {
        text: `${delivery.tone() ? `${delivery.words()}. ` : ""}Marks made on this page stay in this browser. Export them as a file; whoever has the run brings them into it with:`,
      }),
      el("pre", { text: "nightpress review RUN --import marks.json" }),
      el("div", { class: "field" }, el("label", { for: "reviewer", text: "Your name" }), name, save),
      said,
    ];
  }

  const NAME = /^[\p{L}\p{N}_@-](?:[\p{L}\p{N}._@ -]{0,62}[\p{L}\p{N}_@-])?$/u;
  const NAME_KEY = "nightpress-reviewer";
  function rememberedName() {
    try {
      return localStorage.getItem(NAME_KEY) ?? "";
    } catch {
      return "";
    }
  }
  function rememberName(name) {
    try {
      localStorage.setItem(NAME_KEY, name);
    } catch {
      // asked again next time
    }
  }

  function policyWords() {
    const { policy } = NP;
    const name = `Policy: ${policy.name}${policy.lead ? `, ${policy.lead} decides` : ""}.`;
    if (NP.marks.isBlindForced) return `${name} This review is blind, so the page cannot say what is decided.`;
    if (policy.isWaiting()) return `${name} ${policy.lead} has marked nothing yet, so nothing is decided.`;
    const left = rows.length - policy.picked - policy.rejected;
    const [picked, rejected, undecided] = [policy.picked, policy.rejected, left].map(NP.number);
    return `${name} So far ${picked} picked, ${rejected} rejected, ${undecided} undecided.`;
  }

  function savedNodes() {
    const { delivery } = NP;
    const about = rows.run.read_only
      ? "This page is read-only: nothing that is pressed here becomes a mark."
      : `You mark as ${rows.run.reviewer}. Each mark is kept in this browser the moment it is made, and stays there until the run has it.`;
    const retry = el("button", {
      type: "button",
      class: "small-button",
      text: "Try now",
      hidden: !delivery.unsaved(),
      on: { click: () => delivery.retry() },
    });
    const discard = el("button", {
      type: "button",
      class: "small-button",
      text: "Discard what was refused",
      hidden: !delivery.refused(),
      on: { click: () => delivery.discardRefused() },
    });
    const policy = el("p", { class: "soft", text: policyWords() });
    return [
      el("p", { class: "big", text: rows.run.read_only ? "Read-only" : delivery.words() }),
      el("p", { class: "soft", text: about }),
      policy,
      retry,
      discard,
    ].filter(Boolean);
  }

  dialogs.saving = () => open("Marks", ...(NP.isStatic ? exportNodes() : savedNodes()));

  // Notes of the run, above the images, until they are closed.
  dialogs.notes = () => {
    const notes = [...(rows.run.notes ?? [])];
    if (!notes.length) return;
    const box = NP.byId("notes");
    const close = el(
      "button",
      {
        type: "button",
        class: "plain",
        "aria-label": "Close the notes",
        title: "Close",
        on: {
          click: () => {
            box.hidden = true;
          },
        },
      },
      NP.icon("reject"),
    );
    const words = notes.slice(0, 3).join(" · ");
    const more = el("button", {
      type: "button",
      class: "link",
      text: `${notes.length - 3} more`,
      hidden: notes.length <= 3,
      on: { click: () => open("Notes", ...notes.map((text) => el("p", { text }))) },
    });
    box.append(NP.icon("info"), el("span", { dir: "auto", text: words }), more, close);
    box.hidden = false;
  };

  dialogs.isOpen = () => document.querySelector("dialog[open]") !== null;
}
