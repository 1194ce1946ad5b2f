"""Plot the metrics of a training run: loss, loss terms, learning rate and speed."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightpress.pipelines.training.metrics import TERM_PREFIX

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, FAINT, GRID = "#faf9f6", "#34322e", "#8d897f", "#e2dfd7"
COLOURS = ("#1f5fa8", "#c2571a", "#2f8f5b", "#8a4fa3", "#b08a00", "#b0305c")

MARGINS = {
    **{"left": 0.08, "right": 0.97, "bottom": 0.07, "top": 0.88},
    **{"hspace": 0.26, "wspace": 0.15},
}
"""Where the panels are: to find out how much room their text needs takes as long as drawing."""

SMOOTHING = 1 / 40
"""Window of the moving average, as a share of the rows."""

Values = NDArray[np.float64]


def loss_curve(table: pa.Table, title: str) -> bytes:
    """Plot a metrics table as a PNG; `pipelines.training.metrics` defines its columns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), dpi=110, facecolor=PAPER)
    figure.suptitle(title, color=INK, fontsize=14, fontweight="bold", parse_math=False)
    if table.num_rows:
        _draw(figure, table)
    else:
        figure.text(0.5, 0.5, "no metrics yet", color=FAINT, ha="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER)
    return buffer.getvalue()


def smooth(values: Values, window: float) -> Values:
    """Exponential moving average over about `window` rows, with bias correction.

    The weight of a value is 1 - 1/window times that of the next one; values that are not finite
    are skipped.

    References: bias correction, Kingma & Ba 2015, section 3.
    """
    keep = 1 - 1 / max(window, 1.0)
    total = weight = 0.0
    means = np.full(len(values), np.nan)
    for index, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        means[index] = total / weight if weight else np.nan
    return means


def resume_steps(table: pa.Table) -> list[int]:
    """The steps of the first row after each restart."""
    steps, elapsed = _column(table, "step"), _column(table, "elapsed_s")
    started_at = table.column("at").cast(pa.int64()).to_numpy() / 1e6 - elapsed
    # Small clock adjustments are tolerated: a restart takes seconds, or resets the elapsed time.
    restarted = (np.diff(elapsed) <= 0) | (np.abs(np.diff(started_at)) > 1.0)
    return [int(step) for step in steps[1:][restarted]]


def _draw(figure: "Figure", table: pa.Table) -> None:
    terms = [name for name in table.column_names if name.startswith(TERM_PREFIX)]
    names = [["loss", "loss"], *([["terms", "terms"]] if terms else []), ["rate", "speed"]]
    panels: dict[str, Axes] = figure.subplot_mosaic(
        names, height_ratios=[4, *([3] if terms else []), 2], gridspec_kw=MARGINS
    )
    for axes in panels.values():
        _style(axes, table)
    _plot_smoothed(panels["loss"], table, "loss", COLOURS[0], "loss")
    _choose_scale(panels["loss"], _column(table, "loss"))
    for number, name in enumerate(terms):
        colour = COLOURS[(number + 1) % len(COLOURS)]
        _plot_smoothed(panels["terms"], table, name, colour, name.removeprefix(TERM_PREFIX))
    if terms:
        values = np.concatenate([_column(table, name) for name in terms])
        _choose_scale(panels["terms"], values)
        _label(panels["terms"], "loss terms")
    _plot_small(panels["rate"], table, "learning_rate", "learning rate")
    _plot_small(panels["speed"], table, "images_per_s", "images/s")
    _annotate_loss(panels["loss"], table)


def _style(axes: "Axes", table: pa.Table) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=8, which="both")
    for spine in axes.spines.values():
        spine.set_color(GRID)
    for step in resume_steps(table):
        axes.axvline(step, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)))


def _plot_smoothed(axes: "Axes", table: pa.Table, column: str, colour: str, label: str) -> None:
    """Plot the raw values faintly and their moving average on top."""
    steps, values = _column(table, "step"), _column(table, column)
    mean = smooth(values, len(values) * SMOOTHING)
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    last = mean[np.isfinite(mean)][-1:]
    legend = f"{label}  {last[0]:.4g}" if last.size else label
    axes.plot(steps, mean, color=colour, linewidth=2, label=legend, marker=_marker(values))


def _plot_small(axes: "Axes", table: pa.Table, column: str, label: str) -> None:
    values = _column(table, column)
    axes.plot(_column(table, "step"), values, color=INK, linewidth=1.2, marker=_marker(values))
    axes.set_ylim(bottom=0)
    axes.set_title(label, color=INK, fontsize=9, loc="left")
    axes.set_xlabel("step", color=FAINT, fontsize=8)
    _integer_steps(axes)


def _annotate_loss(axes: "Axes", table: pa.Table) -> None:
    steps, images = _column(table, "step"), _column(table, "num_images")
    per_step = images[-1] / steps[-1]
    top = axes.secondary_xaxis("top", functions=(lambda x: x * per_step, lambda x: x / per_step))
    top.set_xlabel("images seen", color=FAINT, fontsize=8)
    top.tick_params(colors=FAINT, labelsize=8)
    top.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    top.spines["top"].set_color(GRID)
    if resume_steps(table):
        axes.plot([], [], color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)), label="resumed")
    _label(axes, "loss")


def _label(axes: "Axes", label: str) -> None:
    axes.set_ylabel(label, color=INK, fontsize=9)
    axes.legend(loc="upper right", fontsize=9, frameon=False, labelcolor=INK)
    _integer_steps(axes)


def _integer_steps(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _choose_scale(axes: "Axes", values: Values) -> None:
    """Use a log scale if the values are positive and span more than a factor of 10."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
        axes.set_yscale("log")


def _marker(values: Values) -> str | None:
    """Draw a single value as a dot, because it has no line."""
    return "o" if len(values) == 1 else None


def _column(table: pa.Table, name: str) -> Any:
    return table.column(name).to_numpy().astype(np.float64)
