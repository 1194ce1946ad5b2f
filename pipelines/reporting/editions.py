"""What the report says about a run whose manifest has grown."""

from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.editions import Edition


def edition_line(edition: Edition) -> str:
    """`1: 2027-01-15T08:00:00+00:00, 10 images came, 2 went, 1 changed`."""
    summary = edition.summary
    if edition.again is not None:
        again = plural(summary.came.number, "other variant")
        return f"{edition.number}: {edition.created_at}, {again} of images of the run"
    counts = [f"{plural(summary.came.number, 'image')} came"]
    others = (
        ("came back", summary.back),
        ("went", summary.went),
        ("changed", summary.changed),
        ("kept what was drawn", summary.kept),
    )
    counts += [f"{images.number:,} {what}" for what, images in others if images.number]
    return f"{edition.number}: {edition.created_at}, {', '.join(counts)}"
