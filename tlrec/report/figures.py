"""The report's figures as PNG files. Same results, same bytes."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlrec.files import printable, whole_file
from tlrec.report import rankings
from tlrec.report.cells import shots_order
from tlrec.report.checks import shots_name
from tlrec.report.collect import chain_of, method_of

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the pale yellow; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^v"
LINES = ("-", "--", ":")  # a new one when the colours begin again
GREY = "#777777"
CURVES = 5  # methods in one ROC or reliability figure
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "text.parse_math": False,  # dollar signs in a name are plain text
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    line: dict  # colour and line style
    marker: str


@dataclass
class Picture:
    """A PNG file, what it shows in words, and the Section.pictures it belongs to."""

    path: Path
    text: str
    section: str


def draw(folder, test_sets, tunings):
    """Draw everything into `folder`; returns the Pictures in order. A method has the same colour and marker in all."""
    pictures, taken = [], set()
    methods = {method: None for test_set in test_sets for method in test_set.methods}
    methods |= {tuned_method(run): None for _, run in tunings}
    looks = {
        method: Look(
            {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]},
            MARKERS[index % len(MARKERS)],
        )
        for index, method in enumerate(methods)
    }
    with rc_context(STYLE):
        for test_set in test_sets:
            if test_set.best is None:
                continue
            name = slug(test_set.target, taken)
            for kind, make in (("shots", auc_against_shots), ("roc", roc), ("reliability", reliability)):
                figure, text = make(test_set, looks)
                pictures.append(save(figure, folder / f"{kind}_{name}.png", text, test_set.target))
            if test_set.uauc_users:
                figure, text = uauc_beside_auc(test_set, looks)
                pictures.append(save(figure, folder / f"uauc_{name}.png", text, test_set.target))
            for number, ranked in enumerate(test_set.rankings, start=1):
                figure, text = ndcg_against_shots(test_set, ranked, looks)
                path = folder / f"ranking{number if number > 1 else ''}_{name}.png"
                pictures.append(save(figure, path, text, test_set.target))
        if drawn := validation(tunings, looks):
            pictures.append(save(drawn[0], folder / "validation.png", drawn[1], ""))
    return pictures


def tuned_method(run):
    """The method that a tuner's run.json belongs to, as in the tables."""
    return method_of({}, {"run": run}, chain_of({"run": run}))


def slug(words, taken):
    """A file name of `words` that is not yet `taken`."""
    base = name = "_".join(re.findall(r"[a-z0-9]+", words.lower())[-4:])[-60:] or "test"
    while name in taken:
        name = f"{base}_{len(taken)}"
    taken.add(name)
    return name


def save(figure, path, text, section):
    with whole_file(path, "wb") as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    return Picture(path, text, section)


def wrapped(label, width=60):
    """A label cut to the width of a legend, in one line."""
    label = printable(label)
    return label if len(label) <= width else label[: width - 3] + "..."


# ------------------------------------------------------------------------------------------------------ per test set


def auc_against_shots(test_set, looks):
    """AUC of each method against its shots: dots are seeds, lines their mean, bars its interval; floors are lines."""
    published = [entry for entry in test_set.published if entry.same_rows]
    shots = sorted({*test_set.shots, *(s for entry in published for s in entry.aucs)}, key=shots_order)
    place = {number: position for position, number in enumerate(shots)}
    methods = test_set.methods
    figure = Figure(figsize=(7.5 + 0.3 * max(0, len(methods) - 6), 4.6))
    axes = figure.add_subplot()
    width = min(0.09, 0.7 / len(methods))
    points = {
        method: [
            (cell.shots, cell.mean, cell.interval, [evaluation.metrics["auc"] for evaluation in cell.evaluations])
            for cell in test_set.cells
            if cell.method == method
        ]
        for method in methods
    }
    lines_against_shots(axes, points, place, width, looks)
    for (name, value), dashes in zip(test_set.floors.items(), ((5, 2), (1, 1.5), (5, 2, 1, 2)), strict=False):
        axes.axhline(
            value, color=GREY, linewidth=1.3, dashes=dashes, label=f"floor: {wrapped(name, 40)} ({value:.4f})", zorder=2
        )
    for index, entry in enumerate(published):
        style = {"marker": "*x+"[index % 3], "color": GREY, "linestyle": "none", "markersize": 8}
        x = [place[s] - (len(methods) / 2 + 0.5) * width - 0.03 for s in entry.aucs]
        axes.plot(x, list(entry.aucs.values()), label=entry.label, zorder=3, **style)
    axes.axhline(0.5, color="#bbbbbb", linewidth=1, label="chance (0.5)", zorder=1)
    shots_axis(axes, shots)
    axes.set_ylabel("AUC")
    note = f"bars: 95 % interval over {test_set.unit}; small dots: seeds"
    axes.set_title(f"{wrapped(test_set.target)}: AUC against shots\n{note}", fontsize=10)
    legend_below(figure, axes)
    cells = "; ".join(f"{cell.method}, {shots_name(cell.shots)}: {cell.mean:.4f}" for cell in test_set.cells)
    floors = "; ".join(f"{name} {value:.4f}" for name, value in test_set.floors.items())
    return figure, f"AUC against shots on {test_set.target}. {cells}. Floors: {floors or 'none'}."


def lines_against_shots(axes, points, place, width, looks):
    """A line for each method of points, {method: [(shots, mean, its interval or None, values of the seeds)]}; place:
    {shots: position}; width: between the bars of two methods."""
    for index, (method, cells) in enumerate(points.items()):
        shots, mean, bounds, _ = zip(*cells, strict=True)
        x = np.array([place[number] for number in shots]) + (index - (len(points) - 1) / 2) * width
        bars = [bound or [value, value] for bound, value in zip(bounds, mean, strict=True)]
        axes.errorbar(
            x,
            mean,
            yerr=np.abs(np.array(bars).T - np.array(mean)),
            markersize=5.5,
            capsize=2.5,
            elinewidth=0.9,
            linewidth=1.6,
            label=wrapped(method),
            zorder=3,
            marker=looks[method].marker,
            **looks[method].line,
        )
        for (*_, seeds), at in zip(cells, x, strict=True):
            if len(seeds) > 1:
                style = {"color": looks[method].line["color"], "alpha": 0.45, "linewidths": 0}
                axes.scatter([at] * len(seeds), seeds, s=9, zorder=4, **style)


def shots_axis(axes, shots):
    """Numbers of shots, in this order, along the bottom."""
    axes.set_xticks(range(len(shots)), ["zero-shot" if s == 0 else "all rows" if s == -1 else str(s) for s in shots])
    axes.set_xlim(-0.5, len(shots) - 0.5)
    axes.set_xlabel("training rows of the target (shots)")


def ndcg_against_shots(test_set, ranked, looks):
    """NDCG of each method against its shots, as `auc_against_shots` does for AUC."""
    shots = sorted({cell.shots for cell in ranked.cells}, key=shots_order)
    place = {number: position for position, number in enumerate(shots)}
    points, name = {}, ranked.main
    for cell in ranked.cells:
        point = cell.shots, cell.means[name], cell.intervals[name], cell.each
        points.setdefault(cell.method, []).append(point)
    figure = Figure(figsize=(7.5 + 0.3 * max(0, len(points) - 6), 4.6))
    axes = figure.add_subplot()
    lines_against_shots(axes, points, place, min(0.09, 0.7 / len(points)), looks)
    floors = {rankings.FLOORS.get(floor, floor): means[name] for floor, means in ranked.floors.items()}
    for (floor, value), dashes in zip(floors.items(), ((5, 2), (1, 1.5), (5, 2, 1, 2)), strict=False):
        label = f"floor: {wrapped(floor, 40)} ({value:.4f})"
        axes.axhline(value, color=GREY, linewidth=1.3, dashes=dashes, label=label, zorder=2)
    shots_axis(axes, shots)
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # a mark at 0 is fully visible
    axes.set_ylabel(name.upper())
    axes.set_title(
        f"{wrapped(test_set.target)}: {name.upper()} against shots, P(like | rated)\n{ranked.title}", fontsize=10
    )
    legend_below(figure, axes)
    words = "; ".join(f"{cell.method}, {shots_name(cell.shots)}: {cell.means[name]:.4f}" for cell in ranked.cells)
    known = "; ".join(f"{floor} {value:.4f}" for floor, value in floors.items())
    return figure, f"{name.upper()} against shots on {test_set.target}, {ranked.title}. {words}. Floors: {known}."


def uauc_beside_auc(test_set, looks):
    """A mark for each cell and floor: its AUC to the right, its uAUC upwards."""
    figure = Figure(figsize=(5.6, 5.2))
    axes = figure.add_subplot()
    words = []
    for method in test_set.methods:
        cells = [cell for cell in test_set.cells if cell.method == method]
        x, y = [cell.mean for cell in cells], [cell.uauc for cell in cells]
        style = {"markersize": 6.5, "linewidth": 0.8, "marker": looks[method].marker, **looks[method].line}
        axes.plot(x, y, label=wrapped(method), zorder=3, **style)
        for cell in cells:
            text = {0: "0", -1: "all"}.get(cell.shots, str(cell.shots))
            axes.annotate(text, (cell.mean, cell.uauc), xytext=(5, 3), textcoords="offset points", fontsize=7.5)
            words.append(f"{cell.method}, {shots_name(cell.shots)}: {cell.mean:.4f} and {cell.uauc:.4f}")
    for index, (name, value) in enumerate(test_set.uauc_floors.items()):
        style = {"marker": "*x+"[index % 3], "color": GREY, "linestyle": "none", "markersize": 9}
        axes.plot(test_set.floors[name], value, label=f"floor: {wrapped(name, 40)}", zorder=2, **style)
        words.append(f"floor {name}: {test_set.floors[name]:.4f} and {value:.4f}")
    axes.axvline(0.5, color="#bbbbbb", linewidth=1, label="chance (0.5)", zorder=1)
    axes.axhline(0.5, color="#bbbbbb", linewidth=1, zorder=1)
    axes.margins(0.12)
    axes.set(xlabel="AUC: all users together", ylabel="uAUC: mean over users")
    note = "right: knows who is generous; up: knows what each likes; numbers: shots"
    axes.set_title(f"{wrapped(test_set.target)}: uAUC beside AUC\n{note}", fontsize=10)
    legend_below(figure, axes)
    return figure, f"AUC and uAUC on {test_set.target}. {'; '.join(words)}."


def leaders(test_set):
    """The best cell of each method, best first, at most CURVES."""
    best = {}
    for cell in sorted(test_set.cells, key=lambda cell: -cell.mean):
        best.setdefault(cell.method, cell)
    return list(best.values())[:CURVES]


def curve_name(cell):
    """Method, shots and, where there are several runs, the seed that is drawn."""
    seed = f", seed {cell.evaluations[0].seed}" if len(cell.evaluations) > 1 else ""
    return f"{wrapped(cell.method, 40)}, {shots_name(cell.shots)}{seed}"


def roc(test_set, looks):
    """ROC curves of the best cell of each method and of the best floor."""
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(5.2, 5.2))
    axes = figure.add_subplot()
    names = []
    for cell in leaders(test_set):
        false, true, _ = roc_curve(test_set.labels, cell.evaluations[0].predictions["score"])
        names.append(f"{curve_name(cell)}: AUC {cell.evaluations[0].metrics['auc']:.4f}")
        axes.plot(false, true, **looks[cell.method].line, linewidth=1.5, label=names[-1])
    if floor := test_set.best_floor:
        false, true, _ = roc_curve(test_set.labels, test_set.floor_scores[floor])
        names.append(f"floor, {wrapped(floor, 40)}: AUC {test_set.floors[floor]:.4f}")
        axes.plot(false, true, color=GREY, linewidth=1.3, dashes=(5, 2), label=names[-1])
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, label="chance")
    axes.set(xlabel="false positive rate (disliked rows taken for liked)", aspect="equal")
    axes.set(ylabel="true positive rate (liked rows found)")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_title(f"{wrapped(test_set.target)}: ROC", fontsize=10)
    legend_below(figure, axes, columns=1)
    return figure, f"ROC curves on {test_set.target}. {'; '.join(names)}."


def reliability(test_set, looks):
    """Share of liked rows against mean predicted P(Yes) in ten bins, and how many rows each bin has."""
    figure = Figure(figsize=(5.2, 6.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    names = []
    for cell in leaders(test_set):
        metrics = cell.evaluations[0].metrics
        bins = metrics["reliability"]
        filled = [bin for bin in bins if bin["n"]]
        names.append(f"{curve_name(cell)}: ECE {metrics['ece']:.3f}")
        style = {"markersize": 5, "linewidth": 1.4, "marker": looks[cell.method].marker, **looks[cell.method].line}
        x, y = ([bin[name] for bin in filled] for name in ("mean_probability", "share_positive"))
        top.plot(x, y, label=names[-1], **style)
        edges = [bins[0]["low"], *(bin["high"] for bin in bins)]
        bottom.stairs([bin["n"] for bin in bins], edges, **looks[cell.method].line, linewidth=1.4)
    top.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, label="calibrated")
    top.set(ylabel="share of liked rows", xlim=(0, 1), ylim=(-0.02, 1.02))
    top.set_title(f"{wrapped(test_set.target)}: reliability", fontsize=10)
    bottom.set(xlabel="P(Yes), given Yes or No", ylabel="rows")
    legend_below(figure, bottom, columns=1, of=top, gap=0.48)
    return figure, f"Reliability on {test_set.target}: share of liked rows against P(Yes). {'; '.join(names)}."


def legend_below(figure, axes, columns=2, of=None, gap=None):
    """A legend under the axes, where no curve crosses it."""
    handles, labels = (of or axes).get_legend_handles_labels()
    references = ("floor", "published", "chance", "calibrated")
    order = sorted(range(len(labels)), key=lambda k: labels[k].startswith(references))
    handles, labels = [handles[k] for k in order], [labels[k] for k in order]
    gap = gap or 0.72 / figure.get_size_inches()[1]
    axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -gap), ncols=columns, fontsize=8.5)


# ------------------------------------------------------------------------------------------------------------ tuning


def validation(tunings, looks):
    """Validation AUC during training, a panel for each target, stage and number of shots, a colour for each method;
    None without any history."""
    panels, methods = {}, {}
    for _, run in tunings:
        if history := run.get("results", {}).get("history"):
            method = tuned_method(run)
            methods[method] = None
            stage = f"{run.get('stage')} {run['source']}" if run.get("source") else str(run.get("stage"))
            shots = run.get("shots") or 0
            target = f"{run['target']}: " if run.get("target") else ""
            title = f"{target}{stage}, {shots_name(shots)}" if shots else f"{target}{stage}"
            key = (target, shots != 0, shots_order(shots), title)
            panels.setdefault(key, []).append((method, history, run["results"].get("best_step")))
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(3.6 * columns, 5), 2.9 * lines + 0.4 + 0.2 * len(methods)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    grid = figure.subplots(lines, columns, squeeze=False)
    words = []
    for axes, key in zip(grid.flat, sorted(panels), strict=False):
        for method, history, best in panels[key]:
            steps = [entry["step"] for entry in history]
            aucs = [np.nan if entry["eval_auc"] is None else entry["eval_auc"] for entry in history]
            axes.plot(steps, aucs, linewidth=1.1, markersize=3, marker=looks[method].marker, **looks[method].line)
            if best in steps:
                style = {"color": looks[method].line["color"], "markerfacecolor": "none", "markersize": 9}
                axes.plot(best, aucs[steps.index(best)], "o", **style)
        kept = [entry["eval_auc"] for _, history, best in panels[key] for entry in history if entry["step"] == best]
        kept = [value for value in kept if value is not None]
        words.append(
            f"{key[-1]}, runs: {len(panels[key])}" + (f", kept {min(kept):.4f} to {max(kept):.4f}" if kept else "")
        )
        axes.set_title(wrapped(key[-1], 45), fontsize=9)
        axes.margins(x=0.08, y=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))  # steps are whole numbers
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for method in methods:
        axes.plot([], [], markersize=4, label=wrapped(method), marker=looks[method].marker, **looks[method].line)
    figure.supxlabel("optimizer step (a line for each run; the ring is the checkpoint kept)", fontsize=9)
    figure.supylabel("validation AUC", fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8.5)
    return figure, f"Validation AUC during training. {'; '.join(words)}."
