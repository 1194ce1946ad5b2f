"""How the report says what conditioned an image: pictures, adapters and passes."""

from typing import Any

from nightpress.pipelines.inputs.preparing import NOT_FITTED

BYTES = "bytes in the manifest"
"""Shown for a picture whose bytes the manifest holds."""


def condition_facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, text) of what conditioned an image; empty for text alone.

    Args:
        row: a metadata row of any version.
    """
    facts = []
    if (row.get("mode") or "text") != "text":
        facts.append(("mode", row["mode"]))
    if row.get("strength") is not None:
        facts.append(("strength", f"{row['strength']:g}"))
    if row.get("canvas") is not None:
        sides = zip(("left", "top", "right", "bottom"), row["canvas"], strict=True)
        facts.append(("canvas", ", ".join(f"{pixels} {side}" for side, pixels in sides)))
    for name, label in (("controlnets", "ControlNets"), ("references", "IP-Adapters")):
        if row.get(name):
            facts.append((label, ", ".join(f"{e['name']} at {e['scale']:g}" for e in row[name])))
    facts += [(each["role"], _input_text(each)) for each in row.get("inputs") or ()]
    facts += [("pass", _pass_text(each)) for each in row.get("passes") or ()]
    return facts


def _input_text(each: dict[str, Any]) -> str:
    """`photos/a.png, cover` and its SHA-256 on a line of its own; a reference is not fitted."""
    where = BYTES if each["url"] is None else each["url"]
    fit = "" if each["fit"] == NOT_FITTED else f", {each['fit']}"
    sha256 = each["sha256"] or "unknown: it could not be read"
    return f"{where}{fit}\nsha256 {sha256}"


def _pass_text(each: dict[str, Any]) -> str:
    before = f"{each['from_width']} x {each['from_height']}"
    after = f"{each['width']} x {each['height']}"
    steps = f"{each['num_inference_steps']} steps at strength {each['strength']:g}"
    return f"{before} to {after}, {steps}"
