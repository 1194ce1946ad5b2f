"use strict";
// What the marks of all reviewers come to under the policy of this review: picked, rejected, or undecided.
{
  const { rows, marks } = NP;
  const policy = { name: "any", lead: null, picked: 0, rejected: 0 };
  NP.policy = policy;
  let decided = new Uint8Array(0); // image -> code of the flag, 0 while undecided

  // Whether a decision can differ from my own flags, and all marks that it needs are known here.
  policy.isShown = () => {
    if (marks.blind) return false;
    return marks.others.size > 0 || (policy.name === "lead" && policy.lead !== rows.run.reviewer);
  };

  policy.of = (i) => decided[i];

  // The lead as words for people: "by the lead anna", "by majority".
  policy.words = () => {
    if (policy.name === "lead") return `by the lead ${policy.lead}`;
    return { any: "by any pick", all: "if all agree", majority: "by majority" }[policy.name];
  };
  policy.isWaiting = () => policy.name === "lead" && !marks.reviewers().has(policy.lead);

  // The flag of an image by its votes; under `any` a pick wins over a reject.
  function flagOf(i, numReviewers) {
    if (policy.name === "lead") return marks.flagBy(policy.lead, i);
    const votes = marks.votes(i);
    const count = votes[1] + votes[2];
    const needed = { any: 1, all: numReviewers, majority: (count >> 1) + 1 }[policy.name];
    return [1, 2].find((flag) => votes[flag] >= needed) ?? 0;
  }

  function decide(i, numReviewers) {
    const before = decided[i];
    const after = flagOf(i, numReviewers);
    decided[i] = after;
    policy.picked += (after === 1) - (before === 1);
    policy.rejected += (after === 2) - (before === 2);
  }

  let known = -1; // reviewers at the last decision: under `all`, one more changes every image
  function onMarks(touched) {
    const numReviewers = marks.reviewers().size;
    if (touched !== null && numReviewers === known) {
      for (const i of touched) decide(i, numReviewers);
      return;
    }
    known = numReviewers;
    for (let i = 0; i < rows.length; i++) decide(i, numReviewers);
  }

  policy.start = () => {
    decided = new Uint8Array(rows.length);
    NP.on("marks", onMarks);
  };

  policy.receive = (answer) => {
    policy.name = answer.policy ?? "any";
    policy.lead = answer.lead ?? null;
  };
}
