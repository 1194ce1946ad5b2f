"""`nightpress inspect`."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from nightpress.jobs.commands.common import json_option, storage_option, storage_options
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.runs.inspect_file import Inspection, inspect
from nightpress.pipelines.image_files.embedded_metadata import readable
from nightpress.pipelines.image_files.file_report import CredentialReport, FileReport
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.origin import Likeness, Origin

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
    run that FILE lies in and each --run are searched for its bytes, then for its pixels, which
    reads every image of the same size. The exit code is 3 if the credential is not valid, or if
    none of these runs has made the image.
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
        row = {name: _plain(value) for name, value in origin.row.items()}
        made = {"url": origin.url, "likeness": origin.likeness, "row": row}
    return {
        "url": found.url,
        **report,
        "runs": found.runs,
        "origin": made,
        "wrong_credential": found.wrong_credential,
    }


def as_text(found: Inspection) -> str:
    """The inspection in words, for a person."""
    report = found.report
    lines = [
        f"{shown(found.url)}: {report.format} {report.width} x {report.height}, "
        f"{report.num_bytes:,} bytes, sha256 {report.sha256[:12]}",
        *_marking(report),
        *_facts(report),
        *_checksums(report),
        *_credential(report.credential),
        *_origin(found),
    ]
    return "\n".join(lines)


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
    loras = "".join(f", LoRA {each.name} at {each.scale:g}" for each in facts.loras)
    return shown(
        f"image {facts.image_id}, {facts.model} {facts.model_fingerprint[:12]}, seed {facts.seed}, "
        f"{facts.num_inference_steps} steps of {facts.scheduler}, {facts.dtype}{loras}"
    )


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
    if credential.state != "valid":
        state = {"invalid": "NOT VALID", "foreign": "not checked", "unchecked": "not checked"}
        return [f"content credential: {state[credential.state]}: {credential.reason}"]
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


def _origin(found: Inspection) -> list[str]:
    if found.origin is not None:
        wrong = found.wrong_credential
        return [*_made_by(found.origin), *([] if wrong is None else [f"credential: {wrong}"])]
    if not found.runs:
        return ["no run was searched; --run URL names one"]
    return [f"not made by {shown(url)}" for url in found.runs]


def _made_by(origin: Origin) -> list[str]:
    row = origin.row
    place = "/".join(filter(None, (row["file"], row["member"])))
    facts = ImageFacts.from_dict(dict(row))
    return [
        f"run {shown(origin.url)}: image {shown(row['image_id'])} of row {shown(row['id'])}, "
        f"{shown(place)}: {LIKENESS[origin.likeness]}",
        f"its metadata: {made_with(facts)}",
        *_prompts(facts),
    ]


def _plain(value: Any) -> Any:
    """A value of the metadata in JSON."""
    return value.isoformat() if isinstance(value, datetime) else value
