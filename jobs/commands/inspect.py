"""`nightpress inspect`."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from nightpress.jobs.commands.common import json_option, storage_option, storage_options
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.runs.inspect_file import Inspection, inspect
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.embedded_metadata import readable
from nightpress.pipelines.image_files.file_report import CredentialReport, FileReport
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.lookalikes import Lookalike, Lookalikes
from nightpress.pipelines.run_directory.origin import Likeness, Origin, Row
from nightpress.pipelines.run_directory.stored_scores import HOW_TO_SCORE

MAX_LOOKALIKES = 5
"""Images that look like the file and are shown; --json has more."""

MAX_TEXT = 300
"""Characters of a prompt that are shown; --json has all of it."""

LIKENESS = {
    Likeness.FILE: "this is the very file",
    Likeness.PIXELS: "the pixels are those of the image; the file is another one",
    Likeness.FACTS: "the embedded metadata is that of the image, but the pixels are not: it was "
    "edited",
}


@click.command("inspect")
@click.argument("file")
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="URL",
    help="A run that may have made FILE, also if its metadata was stripped. May be repeated.",
)
@storage_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    file: str,
    runs: tuple[str, ...],
    storage_overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what FILE, a path or URL, says about itself, and which run has made it.

    Shows the embedded metadata, the XMP's marking and the content credential, which is checked. The
    run that FILE lies in and each --run are searched for its bytes, then for its pixels. If neither
    is found, images that look like it are listed, the nearest first; that is no proof. The exit
    code is 3 if the credential is not valid, or if no image has the bytes, pixels or metadata.
    """
    found = inspect(file, runs=runs, storage=storage_options(storage_overrides))
    code = OK if found.is_sound else SOME_FAILED
    print_and_exit(ctx, code, as_values(found), as_text(found), as_json)


def as_values(found: Inspection) -> dict[str, Any]:
    """The inspection as JSON-ready values."""
    report = asdict(found.report)
    facts, origin = found.report.facts, found.origin
    report["facts"] = None if facts is None else facts.as_dict()
    made = None
    if origin is not None:
        made = {"url": origin.url, "likeness": origin.likeness, "row": _plain(origin.row)}
    return {
        "url": found.url,
        **report,
        "runs": found.runs,
        "unfinished": found.unfinished,
        "origin": made,
        "lookalikes": _lookalike_values(found.lookalikes),
        "wrong_credential": found.wrong_credential,
    }


def as_text(found: Inspection) -> str:
    """The inspection in words, for a person."""
    report = found.report
    lines = [
        f"{shown(found.url)}: {report.format} {report.width} x {report.height}, {_frames(report)}"
        f"{report.num_bytes:,} bytes, sha256 {report.sha256[:12]}",
        *_marking(report),
        *_facts(report),
        *_checksums(report),
        *_credential(report.credential),
        *_origin(found),
    ]
    return "\n".join(lines)


def _frames(report: FileReport) -> str:
    """The length of a clip, before what follows; empty for a still image."""
    if report.num_frames == 1:
        return ""
    fps = None if report.facts is None else report.facts.fps
    rate = "" if fps is None else f" at {fps:g} a second"
    return f"{report.num_frames} frames{rate}, "


def shown(text: str) -> str:
    """A text of a file, which anybody may have written, on one line and without control codes."""
    line = " ".join(readable(text).split())
    line = "".join(char if char.isprintable() else "\ufffd" for char in line)
    return line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}..."


def _marking(report: FileReport) -> list[str]:
    source = report.digital_source_type
    if source is None:
        return ["no digital source type: the file's XMP does not say how the image came to be"]
    term = shown(source.rpartition("/")[2])
    creator = "" if report.creator is None else f", by {shown(report.creator)}"
    is_ai = source.endswith("/trainedAlgorithmicMedia")
    return [f"digital source type {term}{' (AI-generated)' if is_ai else ''}{creator}"]


def _facts(report: FileReport) -> list[str]:
    if report.sealed is not None:
        seal = report.sealed.facts_sha256[:12]
        return [f"made by nightpress; the file does not tell how (seal {shown(seal)})"]
    if report.facts is None:
        return ["no metadata of nightpress"]
    return [f"made by nightpress: {made_with(report.facts)}", *_prompts(report.facts)]


def made_with(facts: ImageFacts) -> str:
    """The image, and the model and settings that made it."""
    more = "".join(f", LoRA {each.name} at {each.scale:g}" for each in facts.loras) + _walk(facts)
    return shown(
        f"image {facts.image_id}, {facts.model} {facts.model_fingerprint[:12]}, seed {facts.seed}, "
        f"{facts.num_inference_steps} steps of {facts.scheduler}, {facts.dtype}{more}"
    )


def _walk(facts: ImageFacts) -> str:
    """Where a walk ends."""
    seed = "" if facts.to_seed is None else f", to seed {facts.to_seed}"
    return seed if facts.to_prompt is None else f"{seed}, to prompt {facts.to_prompt!r}"


def _prompts(facts: ImageFacts) -> list[str]:
    lines = [f"prompt: {shown(facts.prompt)}"]
    if facts.negative_prompt:
        lines.append(f"negative prompt: {shown(facts.negative_prompt)}")
    return lines


def _checksums(report: FileReport) -> list[str]:
    match report.is_whole:
        case None:
            return ["no checksums: the file cannot show whether it is as it was written"]
        case True:
            return ["its checksums are right"]
    return ["its checksums are wrong: the file is damaged, or was changed by another program"]


def _credential(credential: CredentialReport | None) -> list[str]:
    if credential is None:
        return ["no content credential"]
    if credential.state == "foreign":
        return _foreign(credential)
    if credential.state != "valid":
        state = {"invalid": "NOT VALID", "unchecked": "not checked"}
        return [f"content credential: {state[credential.state]}: {shown(str(credential.reason))}"]
    said, until = credential.statement, datetime.fromisoformat(str(credential.not_after))
    assert said is not None  # noqa: S101 - a valid one says something
    software = shown(" ".join(filter(None, (said.software, (said.version or "")[:12]))))
    title = "" if said.title is None else f", titled {shown(said.title)}"
    when = "no time" if said.when is None else said.when
    expiry = "expired on" if until < datetime.now(UTC) else "expires on"
    return [
        f"content credential: valid: made by an AI model, {software}{title}, {when}",
        f"signed by {shown(str(credential.signer))}, certificate sha256 "
        f"{str(credential.certificate_sha256)[:12]}, which {expiry} {until:%Y-%m-%d}; whether that "
        "signer can be trusted is not checked here",
    ]


def _foreign(credential: CredentialReport) -> list[str]:
    """A credential that another program wrote, by c2pa-python."""
    time = credential.signed_at
    when = "without a time stamp" if time is None else f"with a time stamp of {shown(time)}"
    return [
        f"content credential: {credential.reason}; c2pa-python finds it intact",
        f"signed by {shown(credential.signer or 'nobody who is named')}, {when}; whether that "
        "signer can be trusted is not checked here",
    ]


def _lookalike_values(found: Lookalikes) -> dict[str, Any]:
    return {
        "num_found": found.num_found,
        "num_without_hash": found.num_without_hash,
        "nearest": [
            {"url": each.url, **asdict(each.apart), "row": _plain(each.row)}
            for each in found.nearest
        ],
    }


def _origin(found: Inspection) -> list[str]:
    if not found.runs:
        return ["no run was searched; --run URL names one"]
    wrong = [] if found.wrong_credential is None else [f"credential: {found.wrong_credential}"]
    made = [] if found.origin is None else _made_by(found.origin)
    if found.origin is None:
        made = [f"no image of {shown(url)} has its bytes, pixels or metadata" for url in found.runs]
    return [*made, *wrong, *_lookalikes(found)]


def _unfinished(found: Inspection) -> list[str]:
    return [
        f"{shown(url)} is not finished; only the images that it has committed were searched"
        for url in found.unfinished
    ]


def _lookalikes(found: Inspection) -> list[str]:
    alike, origin = found.lookalikes, found.origin
    if origin is not None and origin.likeness is not Likeness.FACTS:
        return []  # they were not looked for
    lines = [_looks_like(each) for each in alike.nearest[:MAX_LOOKALIKES]]
    if alike.num_found > len(lines):
        lines.append(f"... and {alike.num_found - len(lines):,} more look like it")
    if lines:
        lines.append(
            "what looks like an image may be a copy of it, compressed again or resized, or another "
            "picture of the same kind; it is no proof"
        )
    else:
        lines.append("no image looks like it")
    lines += _unfinished(found)
    if alike.num_without_hash:
        lines.append(
            f"{plural(alike.num_without_hash, 'image')} could not be compared by looks, without a "
            f"perceptual hash; {HOW_TO_SCORE}"
        )
    return lines


def _looks_like(found: Lookalike) -> str:
    """The image, and how far it is from the file."""
    row, apart = found.row, found.apart
    return (
        f"looks like image {shown(row['image_id'])} of row {shown(row['id'])} of run "
        f"{shown(found.url)}, {_place(row)}: {apart.bits} of 64 bits and {apart.levels} of 15 "
        "levels of the perceptual hash apart"
    )


def _place(row: Row) -> str:
    """The file of an image in its run; for a packed one `<pack>/<member>`."""
    return shown("/".join(filter(None, (row["file"], row["member"]))))


def _made_by(origin: Origin) -> list[str]:
    row = origin.row
    facts = ImageFacts.from_dict(dict(row))
    return [
        f"run {shown(origin.url)}: image {shown(row['image_id'])} of row {shown(row['id'])}, "
        f"{_place(row)}: {LIKENESS[origin.likeness]}",
        f"its metadata: {made_with(facts)}",
        *_prompts(facts),
    ]


def _plain(row: Row) -> dict[str, Any]:
    """The metadata of an image in JSON."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
    }
