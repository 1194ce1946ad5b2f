"""The curves of a training as a picture: loss, its terms, learning rate and speed.

Owns their looks. Knows nothing of stores.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightpress.pipelines.training.metrics import TERM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, FAINT, GRID = "#faf9f6", "#34322e", "#8d897f", "#e2dfd7"
COLOURS = ("#1f5fa8", "#c2571a", "#2f8f5b", "#8a4fa3", "#b08a00", "#b0305c")

SMOOTHING = 1 / 40
"""Share of the rows that the moving average looks back on."""

Values = NDArray[np.float64]


def loss_curve(table: pa.Table, title: str) -> bytes:
    """A PNG of a table of metrics; see `pipelines.training.metrics` for its columns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), dpi=110, facecolor=PAPER, layout="constrained")
    figure.suptitle(title, color=INK, fontsize=14, fontweight="bold", parse_math=False)
    if table.num_rows:
        _draw(figure, table)
    else:
        figure.text(0.5, 0.5, "no metrics yet", color=FAINT, ha="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER)
    return buffer.getvalue()


def smoothed(values: Values, window: float) -> Values:
    """Exponential moving average over about `window` rows, without a bias towards the start.

    Each value weighs 1 - 1/window of the one after it; what is not finite is left out.

    References: the bias correction is that of Kingma & Ba 2015, section 3.
    """
    keep = 1 - 1 / max(window, 1.0)
    total = weight = 0.0
    found = np.full(len(values), np.nan)
    for place, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        found[place] = total / weight if weight else np.nan
    return found


def resumed_at(table: pa.Table) -> list[int]:
    """The steps whose row is the first of another start than the row before."""
    steps, elapsed = _column(table, "step"), _column(table, "elapsed_s")
    began = table.column("at").cast(pa.int64()).to_numpy() / 1e6 - elapsed
    # The clock of a start may be set a little; a restart takes seconds, or its time falls back.
    other = (np.diff(elapsed) <= 0) | (np.abs(np.diff(began)) > 1.0)
    return [int(step) for step in steps[1:][other]]


def _draw(figure: "Figure", table: pa.Table) -> None:
    terms = [name for name in table.column_names if name.startswith(TERM)]
    names = [["loss", "loss"], *([["terms", "terms"]] if terms else []), ["rate", "speed"]]
    panels: dict[str, Axes] = figure.subplot_mosaic(
        names, height_ratios=[4, *([3] if terms else []), 2]
    )
    for axes in panels.values():
        _plain(axes, table)
    _curve(panels["loss"], table, "loss", COLOURS[0], "loss")
    _log_where_it_helps(panels["loss"], _column(table, "loss"))
    for number, name in enumerate(terms):
        colour = COLOURS[(number + 1) % len(COLOURS)]
        _curve(panels["terms"], table, name, colour, name.removeprefix(TERM))
    if terms:
        values = np.concatenate([_column(table, name) for name in terms])
        _log_where_it_helps(panels["terms"], values)
        _named(panels["terms"], "terms of the loss")
    _small(panels["rate"], table, "learning_rate", "learning rate")
    _small(panels["speed"], table, "images_per_s", "images/s")
    _finish_loss(panels["loss"], table)


def _plain(axes: "Axes", table: pa.Table) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=8, which="both")
    for spine in axes.spines.values():
        spine.set_color(GRID)
    for step in resumed_at(table):
        axes.axvline(step, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)))


def _curve(axes: "Axes", table: pa.Table, column: str, colour: str, label: str) -> None:
    """The raw values faint, the smoothed ones strong."""
    steps, values = _column(table, "step"), _column(table, column)
    mean = smoothed(values, len(values) * SMOOTHING)
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    last = mean[np.isfinite(mean)][-1:]
    told = f"{label}  {last[0]:.4g}" if last.size else label
    axes.plot(steps, mean, color=colour, linewidth=2, label=told, marker=_dot(values))


def _small(axes: "Axes", table: pa.Table, column: str, label: str) -> None:
    values = _column(table, column)
    axes.plot(_column(table, "step"), values, color=INK, linewidth=1.2, marker=_dot(values))
    axes.set_ylim(bottom=0)
    axes.set_title(label, color=INK, fontsize=9, loc="left")
    axes.set_xlabel("step", color=FAINT, fontsize=8)
    _whole_steps(axes)


def _finish_loss(axes: "Axes", table: pa.Table) -> None:
    steps, images = _column(table, "step"), _column(table, "num_images")
    an_image = images[-1] / steps[-1]
    top = axes.secondary_xaxis("top", functions=(lambda x: x * an_image, lambda x: x / an_image))
    top.set_xlabel("images seen", color=FAINT, fontsize=8)
    top.tick_params(colors=FAINT, labelsize=8)
    top.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    top.spines["top"].set_color(GRID)
    if resumed_at(table):
        axes.plot([], [], color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)), label="resumed")
    _named(axes, "loss")


def _named(axes: "Axes", label: str) -> None:
    axes.set_ylabel(label, color=INK, fontsize=9)
    axes.legend(loc="upper right", fontsize=9, frameon=False, labelcolor=INK)
    _whole_steps(axes)


def _whole_steps(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _log_where_it_helps(axes: "Axes", values: Values) -> None:
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
        axes.set_yscale("log")


def _dot(values: Values) -> str | None:
    """A lone value has no line: it is drawn as a dot."""
    return "o" if len(values) == 1 else None


def _column(table: pa.Table, name: str) -> Any:
    return table.column(name).to_numpy().astype(np.float64)
