"""The review page: as a server sends it, and as one file beside a run.

Both are made of the same assets in `page/`, plain CSS and JavaScript without a build step. The page
never makes HTML out of values: a policy in the header, or in the file itself, keeps browsers from
doing so.
"""

import base64
import hashlib
import json
import mimetypes
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import jinja2

from nightpress.pipelines.review.sheets import SheetChunk

STYLES = ("base.css", "controls.css", "grid.css", "facets.css", "stage.css", "narrow.css")
SCRIPTS = (
    "dom.js",
    "rows.js",
    "mark_values.js",
    "marks.js",
    "policy.js",
    "delivery.js",
    "browser_marks.js",
    "filters.js",
    "order.js",
    "view.js",
    "thumbs.js",
    "late_thumbs.js",
    "tile.js",
    "grid.js",
    "facets.js",
    "mark_facets.js",
    "stage.js",
    "mark_bar.js",
    "filmstrip.js",
    "loupe.js",
    "panes.js",
    "sheets.js",
    "facts.js",
    "touch.js",
    "bars.js",
    "chips.js",
    "dialogs.js",
    "keys.js",
    "address.js",
    "app.js",
)
"""In the order in which they run: each uses only what those before it define."""

ASSETS = (*STYLES, *SCRIPTS)

_SHARED_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)
SERVED_POLICY = (
    f"{_SHARED_POLICY}; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; frame-ancestors 'none'"
)
"""The `Content-Security-Policy` header of the served page."""

Locate = Callable[[str], str]
"""Takes a path relative to the run, gives the URL under which the page finds it."""


@cache
def served_page() -> str:
    """The HTML that a server sends; it asks the server for rows and marks."""
    return _template().render(title="Review", styles=STYLES, scripts=SCRIPTS)


def asset(name: str) -> tuple[bytes, str]:
    """The content of an asset of the served page, and its content type.

    Raises:
        KeyError: There is no such asset.
    """
    if name not in ASSETS:
        raise KeyError(name)
    content_type = "text/css" if name.endswith(".css") else "text/javascript"
    return _text_of(name).encode(), f"{content_type}; charset=utf-8"


def static_page(
    rows: Mapping[str, Any],
    marks: Mapping[str, Any] | None = None,
    *,
    sheets: Iterable[SheetChunk] = (),
    images: Iterable[str | None] = (),
    locate: Locate | None = None,
    locate_image: Locate | None = None,
) -> str:
    """The page as one file, with rows and marks in it; marks made on it stay in the browser.

    Args:
        rows: What `/api/rows` sends, with the paths of atlases relative to the run.
        marks: What `/api/marks` sends.
        sheets: The facts of the images; without them the page has only those that it filters by.
        images: The path of each image relative to the run; None where it has no file of its own.
        locate: Gives the URL of a path. By default pages link relatively, and must lie in the run
            directory; `embedded` makes data URLs; a store may sign URLs.
        locate_image: The same for images, where they lie elsewhere; see `below`.
    """
    locate = locate or relative
    located = _located(rows, locate)
    locate_image = locate_image or locate
    located["images"] = [None if path is None else locate_image(path) for path in images] or None
    script = "\n".join(_text_of(name) for name in SCRIPTS)
    style = "\n".join(_text_of(name) for name in STYLES)
    return _template().render(
        title=str(rows["run"]["name"]),
        policy=_static_policy(script, style, _urls(located)),
        script=script,
        style=style,
        data=_json_in_html(
            {"rows": located, "marks": marks, "sheets": [each.as_dict() for each in sheets]}
        ),
    )


def embedded(read: Callable[[str], bytes]) -> Locate:
    """Makes data URLs of what `read` gives for a path; for pages that are mailed."""

    def locate(path: str) -> str:
        content_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        return f"data:{content_type};base64,{base64.b64encode(read(path)).decode()}"

    return locate


def relative(path: str) -> str:
    """A relative URL; `./` keeps names with a colon from being taken for a scheme."""
    return "./" + _escaped(path)


def below(base: str) -> Locate:
    """Makes URLs below that of a folder, from which the run directory is served."""
    return lambda path: f"{base.rstrip('/')}/{_escaped(path)}"


def _escaped(path: str) -> str:
    replaced = {"%": "%25", "?": "%3F", "#": "%23"}
    return "".join(replaced.get(each, each) for each in path)


def _located(rows: Mapping[str, Any], locate: Locate) -> dict[str, Any]:
    """A copy of the rows whose atlases are URLs."""
    copy = dict(rows)
    for key in ("thumbs", "strips"):
        if rows.get(key):
            atlases = [locate(path) for path in rows[key]["atlases"]]
            copy[key] = {**rows[key], "atlases": atlases}
    return copy


def _urls(rows: Mapping[str, Any]) -> Iterable[str]:
    for key in ("thumbs", "strips"):
        yield from (rows.get(key) or {}).get("atlases", ())
    yield from (url for url in rows.get("images") or () if url is not None)


def _static_policy(script: str, style: str, urls: Iterable[str]) -> str:
    """Pictures may come from beside the page, from data URLs, and from the hosts of signed URLs."""
    parts = (urlsplit(url) for url in urls if url.startswith(("http://", "https://")))
    hosts = sorted({f"{each.scheme}://{each.netloc}" for each in parts})
    sources = " ".join(["'self'", "file:", "data:", "blob:", *hosts])
    return (
        f"{_SHARED_POLICY}; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        f"img-src {sources}; media-src {sources}"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json_in_html(value: Any) -> str:
    """JSON that ends no script element, whatever the values say."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _text_of(name: str) -> str:
    return (files("nightpress.pipelines.review") / "page" / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    return jinja2.Environment(autoescape=True).from_string(_text_of("review.html.j2"))
