"""The report's figures as PNG files on white, which reads on dark pages too. Same results, same bytes."""

import re

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlrec.files import printable, whole_file
from tlrec.report.cells import shots_name, shots_order
from tlrec.report.collect import method_of
from tlrec.report.rankings import FLOORS

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the pale yellow; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^v"
LINES = ("-", "--", ":")  # a new one when the colours begin again
IN_TABLES = "; the tables have the numbers"
GREY, DASHES = "#777777", ((5, 2), (1, 1.5), (5, 2, 1, 2))
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


def draw(folder, test_sets, tunings):
    """Draw everything into `folder`; returns {target of a test set, or None for tuning: {PNG file: what it shows}}. A
    method has the same look in all."""
    pictures = {target: {} for target in (None, *(test_set.target for test_set in test_sets))}
    with rc_context(STYLE):
        for section, name, text, figure in every_figure(test_sets, tunings):
            with whole_file(folder / f"{name}.png", "wb") as file:
                figure.savefig(file, format="png", metadata={"Software": None})
            pictures[section][folder / f"{name}.png"] = text
    return pictures


def every_figure(test_sets, tunings):
    """(section, name of the file, what it shows, figure), one after the other."""
    curves, taken = validation_curves(tunings), set()
    methods = [method for test_set in test_sets for method in test_set.methods]
    looks = looks_of(dict.fromkeys([*methods, *map(tuned_method, tunings)]))
    for test_set in test_sets:
        if not test_set.best:
            continue
        target, name = test_set.target, slug(test_set.target, taken)
        yield target, f"shots_{name}", f"AUC against shots on {target}{IN_TABLES}", auc_against_shots(test_set, looks)
        if "uauc" in test_set.metrics:
            yield target, f"uauc_{name}", f"AUC and uAUC on {target}{IN_TABLES}", uauc_beside_auc(test_set, looks)
        for number, ranked in enumerate(test_set.rankings, start=1):
            text = f"{ranked.main.upper()} against shots on {target}, {ranked.title}{IN_TABLES}"
            file = f"ranking{number if number > 1 else ''}_{name}"
            yield target, file, text, hits_against_shots(test_set, ranked, looks)
    if curves:
        text = f"Validation AUC during training: {', '.join(title for *_, title in curves)}"
        yield None, "validation", text, validation(curves, looks)


def looks_of(methods):
    """{method: how its line is drawn}."""
    looks = {}
    for index, method in enumerate(methods):
        line = LINES[index // len(COLOURS) % len(LINES)]
        looks[method] = dict(color=COLOURS[index % len(COLOURS)], linestyle=line, marker=MARKERS[index % len(MARKERS)])
    return looks


def slug(words, taken):
    """A file name of `words` that is not yet `taken`."""
    base = name = "_".join(re.findall(r"[a-z0-9]+", words.lower())[-4:])[-60:] or "test"
    while name in taken:
        name = f"{base}_{len(taken)}"
    taken.add(name)
    return name


def wrapped(label, width=60):
    """A label cut to the width of a legend, in one line."""
    label = printable(label)
    return label if len(label) <= width else label[: width - 3] + "..."


def auc_against_shots(test_set, looks):
    """AUC of each method against its shots: dots are seeds, lines their mean, bars its interval; floors are lines."""
    points = []
    for cell in test_set.cells:
        value, interval = cell.numbers["auc"]
        points.append((cell.method, cell.shots, value, interval, [one.metrics["auc"] for one in cell.evaluations]))
    floors = {f"no training: {name}": one["auc"].value for name, one in test_set.floors.items()}
    title = f"AUC against shots\nbars: 95 % interval over {test_set.unit}; small dots: seeds"
    figure = against_shots(points, floors, test_set.published, f"{wrapped(test_set.target)}: {title}", "AUC", looks)
    figure.axes[0].axhline(0.5, color="#bbbbbb", linewidth=1, zorder=1)
    return figure


def hits_against_shots(test_set, ranked, looks):
    """NDCG of each method against its shots, as `auc_against_shots` does for AUC."""
    points, name = [], ranked.main
    for cell, chosen, numbers in ranked.cells:
        seeds = [evaluation.ranking[name] for evaluation in chosen]
        points.append((cell.method, cell.shots, numbers[name], numbers["intervals"][name]["users"], seeds))
    floors = {f"no training: {FLOORS.get(floor, floor)}": one[name] for floor, one in ranked.floors.items()}
    title = f"{wrapped(test_set.target)}: {name.upper()} against shots, P(like | rated)\n{ranked.title}"
    figure = against_shots(points, floors, {}, title, name.upper(), looks)
    figure.axes[0].set_ylim(bottom=-0.03 * figure.axes[0].get_ylim()[1])  # a mark at 0 is fully visible
    return figure


def against_shots(points, floors, published, title, measure, looks):
    """The figure. points: [(method, shots, mean, [low, high] or None, values of the seeds)]; floors: {name: value};
    published: {method: {shots: value}}."""
    methods = list(dict.fromkeys(method for method, *_ in points))
    known = {number for _, number, *_ in points} | {number for values in published.values() for number in values}
    shots = sorted(known, key=shots_order)
    figure = Figure(figsize=(7.5 + 0.3 * max(0, len(methods) - 6), 4.6))
    axes, width = figure.add_subplot(), min(0.09, 0.7 / len(methods))
    for index, method in enumerate(methods):
        cells = sorted((cell[1:] for cell in points if cell[0] == method), key=lambda cell: shots_order(cell[0]))
        shift = (index - (len(methods) - 1) / 2) * width
        x, mean = [shots.index(cell[0]) + shift for cell in cells], [cell[1] for cell in cells]
        bars = np.array([cell[2] or [cell[1]] * 2 for cell in cells]).T
        style = {"markersize": 5.5, "capsize": 2.5, "elinewidth": 0.9, "linewidth": 1.6, "zorder": 3}
        axes.errorbar(x, mean, yerr=np.abs(bars - mean), label=wrapped(method), **style, **looks[method])
        for at, (*_, seeds) in zip(x, cells, strict=True):
            if len(seeds) > 1:
                style = {"color": looks[method]["color"], "alpha": 0.45, "linewidths": 0}
                axes.scatter([at] * len(seeds), seeds, s=9, zorder=4, **style)
    for (name, value), dashes in zip(floors.items(), DASHES, strict=False):
        label = f"{wrapped(name, 47)} ({value:.3f})"
        axes.axhline(value, color=GREY, linewidth=1.3, dashes=dashes, label=label, zorder=2)
    for index, (name, values) in enumerate(published.items()):
        x = [shots.index(number) - (len(methods) / 2 + 0.5) * width - 0.03 for number in values]
        style = {"marker": "*x+"[index % 3], "color": GREY, "linestyle": "none", "markersize": 8, "zorder": 3}
        axes.plot(x, list(values.values()), label=f"published: {name}", **style)
    axes.set_xticks(range(len(shots)), [shots_name(number).removesuffix(" shots") for number in shots])
    axes.set(xlim=(-0.5, len(shots) - 0.5), xlabel="training rows of the target (shots)", ylabel=measure)
    axes.set_title(title, fontsize=10)
    legend_below(axes)
    return figure


def uauc_beside_auc(test_set, looks):
    """A mark for each cell and floor: its AUC to the right, its uAUC upwards."""
    axes = Figure(figsize=(5.6, 5.2)).add_subplot()
    for method in test_set.methods:
        cells = [cell for cell in test_set.cells if cell.method == method]
        places = [(cell.numbers["auc"].value, cell.numbers["uauc"].value) for cell in cells]
        style = {"markersize": 6.5, "linewidth": 0.8, "zorder": 3}
        axes.plot(*zip(*places, strict=True), label=wrapped(method), **style, **looks[method])
        for cell, place in zip(cells, places, strict=True):
            text = {0: "0", -1: "all"}.get(cell.shots, str(cell.shots))
            axes.annotate(text, place, xytext=(5, 3), textcoords="offset points", fontsize=7.5)
    for index, (name, one) in enumerate(test_set.floors.items()):
        style = {"marker": "*x+"[index % 3], "color": GREY, "linestyle": "none", "markersize": 9, "zorder": 2}
        axes.plot(one["auc"].value, one["uauc"].value, label=f"no training: {wrapped(name, 40)}", **style)
    axes.axvline(0.5, color="#bbbbbb", linewidth=1, zorder=1)
    axes.axhline(0.5, color="#bbbbbb", linewidth=1, zorder=1)
    axes.margins(0.12)
    axes.set(xlabel="AUC: all users together", ylabel="uAUC: mean over users")
    note = "right: knows who is generous; up: knows what each likes; numbers: shots"
    axes.set_title(f"{wrapped(test_set.target)}: uAUC beside AUC\n{note}", fontsize=10)
    legend_below(axes)
    return axes.figure


def legend_below(axes):
    """A legend under the axes, where no curve crosses it."""
    gap = 0.72 / axes.figure.get_size_inches()[1]
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -gap), ncols=2, fontsize=8.5)


def tuned_method(run):
    """What the report calls the method that a tuner's run.json is of."""
    return method_of({"adapter": {"run": run}})


def validation_curves(tunings):
    """{(target, shots, title of a panel): run.json of the tuners' runs that have a history}, in order."""
    curves = {}
    for run in (run for run in tunings if run["results"].get("history")):
        stage, shots = f"{run.get('stage')} {run.get('source') or ''}".strip(), run.get("shots") or 0
        title = f"{run['target']}: {stage}" if run.get("target") else stage
        title += f", {shots_name(shots)}" if shots else ""
        curves.setdefault((run.get("target") or "", shots_order(shots), title), []).append(run)
    return dict(sorted(curves.items()))


def validation(curves, looks):
    """Validation AUC during training, a panel for each target, stage and number of shots."""
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    methods = dict.fromkeys(tuned_method(run) for runs in curves.values() for run in runs)
    figure = Figure(figsize=(max(3.6 * columns, 5), 2.9 * lines + 0.4 + 0.2 * len(methods)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, ((*_, title), runs) in zip(grid.flat, curves.items(), strict=False):
        for look, results in ((looks[tuned_method(run)], run["results"]) for run in runs):
            aucs = {one["step"]: np.nan if one["eval_auc"] is None else one["eval_auc"] for one in results["history"]}
            axes.plot(list(aucs), list(aucs.values()), linewidth=1.1, markersize=3, **look)
            if (best := results.get("best_step")) in aucs:
                axes.plot(best, aucs[best], "o", color=look["color"], markerfacecolor="none", markersize=9)
        axes.set_title(wrapped(title, 45), fontsize=9)
        axes.margins(x=0.08, y=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))  # steps are whole numbers
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for method in methods:
        axes.plot([], [], markersize=4, label=wrapped(method), **looks[method])
    figure.supxlabel("optimizer step (a line for each run; the ring is the checkpoint kept)", fontsize=9)
    figure.supylabel("validation AUC", fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8.5)
    return figure
