"use strict";
// What a mark can say: fields, values, and their words.
{
  NP.FIELDS = ["flag", "stars", "colour", "comment"];
  NP.FLAGS = ["", "pick", "reject"];
  NP.COLOURS = ["", "red", "yellow", "green", "blue", "purple"];
  NP.LONGEST_COMMENT = 2000;

  // Values are kept as numbers, comments as text; empty is 0 or "".
  NP.toCode = (field, value) => {
    if (field === "flag") return Math.max(0, NP.FLAGS.indexOf(value ?? ""));
    if (field === "colour") return Math.max(0, NP.COLOURS.indexOf(value ?? ""));
    if (field === "stars") return NP.clamp(Math.trunc(Number(value)) || 0, 0, 5);
    return String(value ?? "");
  };
  NP.toValue = (field, code) => {
    if (field === "flag") return NP.FLAGS[code];
    if (field === "colour") return NP.COLOURS[code];
    return code;
  };

  // "picked, 3 stars, red": what screen readers hear; empty for no marks.
  NP.inWords = (mark) => {
    const words = [];
    if (mark.flag) words.push(mark.flag === 1 ? "picked" : "rejected");
    if (mark.stars) words.push(NP.plural(mark.stars, "star"));
    if (mark.colour) words.push(NP.COLOURS[mark.colour]);
    if (mark.comment) words.push("commented");
    return words.join(", ");
  };
}
