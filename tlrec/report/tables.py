"""The report's words and tables: `sections` for results.md and the page, and results.csv."""

import csv
import re
from dataclasses import dataclass, field
from html import escape

from tlrec.evaluation.ranking_metrics import NAMES as RANK_METRICS
from tlrec.files import printable, whole_file
from tlrec.probe import knowledge
from tlrec.report import rankings
from tlrec.report.cells import shots_order
from tlrec.report.checks import other_scoring, shots_name, target_selection
from tlrec.report.published import SEQUENTIAL

LEGEND = (
    "AUC as published: rows in order of P(Yes) - P(No), 0.5 is chance. Mean ± standard deviation over seeds, number of "
    "seeds in brackets. ▲ above the best floor, ▼ below it, ≈ within noise of it; ★ best here, ☆ within noise of the "
    "best: the paired 95 % bootstrap interval of the difference, over {unit}, contains 0. † checkpoints selected on "
    "labelled rows of the target. ‡ most other cells have other scoring settings (see Checks). Floors need no language "
    "model: history is the share of liked items in the history, item is the like-rate of the target item in the "
    "training split."
)
WITHIN_USERS = (
    "AUC ranks the rows of all users together; uAUC ranks each user's rows separately and is averaged over the {users} "
    "users with both labels. A method with a high AUC and a uAUC near 0.5 tells generous users from strict ones, but "
    "not what a user likes."
)


@dataclass
class Table:
    """A caption, column names, and rows of strings; the first `text_columns` columns are words, the others numbers."""

    caption: str
    header: list
    rows: list
    text_columns: int = 1


@dataclass
class Section:
    """A heading, paragraphs, tables; `pictures` names the test set whose figures belong here ("" for tuning)."""

    heading: str
    paragraphs: list = field(default_factory=list)
    tables: list = field(default_factory=list)
    pictures: str | None = None


def sections(test_sets, findings, workspace):
    """The report as a list of Sections."""
    result = []
    for test_set in test_sets:
        tables = [main_table(test_set), detail_table(test_set)]
        paragraphs = [headline(test_set), LEGEND.format(unit=test_set.unit)]
        if test_set.uauc_users:
            tables.insert(1, uauc_table(test_set))
            paragraphs.insert(1, WITHIN_USERS.format(users=test_set.uauc_users))
        if test_set.rankings:
            tables[-1:-1] = [ranking_table(ranked) for ranked in test_set.rankings]
            paragraphs.append(rankings.said(test_set.rankings))
        if test_set.published:
            other = "" if test_set.published[0].same_rows else " They were measured on other rows: do not compare."
            paragraphs.append(f"Published numbers are of LLaMA-7B.{other} {SEQUENTIAL}")
        result.append(Section(test_set.target, paragraphs, tables, test_set.target))
    if not test_sets:
        result.append(Section("No results", ["No evaluation that can be read; evaluate.py makes them."]))
    if any(run.get("results", {}).get("history") for _, run in workspace.tunings):
        result.append(Section("Tuning", pictures=""))
    if workspace.probes:
        result.append(knowledge_section(workspace.probes))
    rows = [[finding.level, finding.subject, finding.text] for finding in findings]
    caption = "Leaks between data files, what selected the checkpoints, labels, cut prompts, seeds"
    table = Table(caption, ["", "What", "Found"], rows, 3)
    result.append(Section("Checks", [] if rows else ["Nothing to check."], [table] if rows else []))
    rows = [[folder, problem] for folder, problem in workspace.problems]
    table = Table("Left out of all tables above", ["Folder", "Problem"], rows, 2)
    result.append(Section("Damaged or unfinished runs", [] if rows else ["None."], [table] if rows else []))
    if workspace.evaluations:
        result.append(Section("Evaluations", [], [run_table(test_sets)]))
    return result


def knowledge_section(probes):
    """What the probes found, a table for each catalogue and record file of each, and what the numbers mean."""
    tables, meanings = [], {}
    for folder, probe in probes:
        where = f"{folder}, base model {probe['run'].get('base_model') or 'not known'}; "
        tables += [Table(where + said, header, rows) for said, header, rows in knowledge.tables(probe)]
        meanings |= dict.fromkeys(knowledge.meanings(probe))
    first = "How well the models complete titles of the catalogues and histories, before any test row is seen."
    return Section("What the model knows beforehand", [first, *meanings], tables)


def headline(test_set):
    """What the test set says, in a few sentences."""
    n, liked = len(test_set.labels), int(test_set.labels.sum())
    users = test_set.evaluations[0].metrics["users"]
    known = f" of {users['n']} users ({users['source']})" if users["n"] else ""
    words = [f"{n} test rows{known}, {liked} of them liked."]
    best = test_set.best
    if best is None:
        return f"{words[0]} Only one label occurs, so AUC is not defined."
    words.append(f"Best: {best.method}, {shots_name(best.shots)}, AUC {best.mean:.4f}.")
    if test_set.best_floor:
        floor = f"the best floor ({test_set.best_floor}, {test_set.floors[test_set.best_floor]:.4f})"
        if best.near_floor is None:
            words.append(f"It cannot be compared with {floor}: there is only one user.")
        else:
            low, high = best.over_floor_interval
            verdict = "within noise of" if best.near_floor else "above" if best.over_floor > 0 else "below"
            words.append(f"It is {verdict} {floor}: {best.over_floor:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}.")
    if best.uauc is not None:
        floors = f", the best floor ({test_set.best_uauc_floor})" if test_set.best_uauc_floor else ""
        floors += f" {number(test_set.uauc_floors.get(test_set.best_uauc_floor), '')}" if floors else ""
        words.append(f"Within users it has uAUC {number(best.uauc)}{floors}.")
    return " ".join(words)


def main_table(test_set):
    """Method x shots, then floors and published numbers."""
    shots = sorted({*test_set.shots, *(s for entry in test_set.published for s in entry.aucs)}, key=shots_order)
    rows = [[method, *(cell_text(test_set.cell(method, s), test_set) for s in shots)] for method in test_set.methods]
    rows += [[f"floor: {name}", *[number(value)] * len(shots)] for name, value in test_set.floors.items()]
    rows += [[entry.label, *(number(entry.aucs.get(s), "") for s in shots)] for entry in test_set.published]
    return Table("AUC by method and shots", ["Method", *map(shots_name, shots)], rows)


def uauc_table(test_set):
    """Method x shots, then floors: uAUC."""

    def text(cell):
        if cell is None:
            return ""
        sign = {None: "", True: " ≈", False: " ▲" if (cell.uauc_over_floor or 0) > 0 else " ▼"}[cell.uauc_near_floor]
        return f"{number(cell.uauc)} ({len(cell.evaluations)}){sign}"

    rows = [[method, *(text(test_set.cell(method, s)) for s in test_set.shots)] for method in test_set.methods]
    rows += [[f"floor: {name}", *[number(value)] * len(test_set.shots)] for name, value in test_set.uauc_floors.items()]
    caption = f"uAUC by method and shots, mean over {test_set.uauc_users} users, against the best floor's uAUC"
    return Table(caption, ["Method", *map(shots_name, test_set.shots)], rows)


def ranking_table(ranked):
    """A row for each cell and floor: HR, NDCG, MRR, mean rank."""

    def texts(means):
        return [f"{means[name]:.1f}" if name == "mean_rank" else number(means[name]) for name in names]

    names = rankings.columns(ranked)
    header = ["Method", "Shots", "Seeds", *(name.upper().replace("_", " ") for name in names)]
    header.append(f"{ranked.main.upper()}, 95 % (users)")
    rows = [
        [
            cell.method,
            shots_name(cell.shots),
            seeds_text(cell.seeds),
            *texts(cell.means),
            bounds(cell.intervals[ranked.main]),
        ]
        for cell in ranked.cells
    ]
    rows += [
        [f"floor: {rankings.FLOORS.get(name, name)}", "", "", *texts(means), ""]
        for name, means in ranked.floors.items()
    ]
    return Table(f"Ranking: {ranked.title}", header, rows, 3)


def seeds_text(seeds):
    return ", ".join("-" if seed is None else str(seed) for seed in seeds)


def cell_text(cell, test_set):
    """Such as "0.7312 ± 0.0041 (3) ▲ ☆"."""
    if cell is None:
        return ""
    if cell.mean is None:
        return "not defined"
    words = [number(cell.mean)]
    if cell.sd is not None:
        words.append(f"± {number(cell.sd)}")
    words.append(f"({len(cell.evaluations)})")
    if cell.near_floor is not None:
        words.append("≈" if cell.near_floor else "▲" if cell.over_floor > 0 else "▼")
    words += ["★"] * (cell is test_set.best) + ["☆"] * (cell is not test_set.best and bool(cell.near_best))
    words += ["†"] * (cell.shots == 0 and bool(target_selection(cell, test_set)))
    words += ["‡"] * bool(other_scoring(cell, test_set))
    return " ".join(words)


def detail_table(test_set):
    """A row for each cell: intervals, difference to the best floor, calibration."""
    header = [
        "Method",
        "Shots",
        "Seeds",
        "AUC",
        "sd",
        f"95 % ({test_set.unit})",
        "uAUC",
        "95 % (users)",
        "Log-odds",
        "- best floor",
        f"95 % ({test_set.unit})",
        "Log-loss",
        "ECE",
    ]
    rows = []
    for cell in test_set.cells:
        metrics = [evaluation.metrics for evaluation in cell.evaluations]
        rows.append(
            [
                cell.method,
                shots_name(cell.shots),
                seeds_text(cell.seeds),
                number(cell.mean, "not defined"),
                number(cell.sd),
                bounds(cell.interval),
                number(cell.uauc),
                bounds(cell.uauc_interval),
                number(mean([m["auc_logodds"] for m in metrics]), "not defined"),
                number(cell.over_floor, sign="+"),
                bounds(cell.over_floor_interval, "+"),
                number(mean([m["log_loss"] for m in metrics])),
                number(mean([m["ece"] for m in metrics])),
            ]
        )
    return Table("Every cell, mean over its seeds (Log-odds: AUC in order of log P(Yes) - log P(No))", header, rows, 3)


def run_table(test_sets):
    """A row for each evaluation: where it is and what made it."""
    header = ["Folder", "Test", "Method", "Base model", "Frame", "Hardware", "Code", "Shots", "Seed", "AUC"]
    rows = [
        [
            evaluation.folder,
            test_set.target,
            evaluation.method,
            evaluation.base_model,
            str(evaluation.run.get("frame") or "-"),
            hardware(evaluation.run),
            revision(evaluation.run),
            shots_name(evaluation.shots),
            "-" if evaluation.seed is None else str(evaluation.seed),
            number(evaluation.metrics["auc"], "not defined"),
        ]
        for test_set in test_sets
        for evaluation in test_set.evaluations
    ]
    return Table("More in results.csv", header, rows, 8)


def write_csv(path, test_sets):
    """A row for each evaluation, one value in each column; empty where not known or not defined."""
    rows = [csv_row(test_set, evaluation) for test_set in test_sets for evaluation in test_set.evaluations]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["folder"]
    with whole_file(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def csv_row(test_set, evaluation):
    """{column: value} of one evaluation."""
    metrics, run = evaluation.metrics, evaluation.run
    cell = next(cell for cell in test_set.cells if evaluation in cell.evaluations)
    row = {
        "folder": evaluation.folder,
        "target": test_set.target,
        "method": cell.method,
        "shots": evaluation.shots,
        "seed": evaluation.seed,
    }
    row |= {
        name: metrics[name]
        for name in (
            "auc",
            "auc_logodds",
            "accuracy",
            "log_loss",
            "brier",
            "ece",
            "answer_mass",
            "n",
            "n_positive",
        )
    }
    for unit in ("rows", "users"):
        row |= spread(f"auc_{unit}", metrics["intervals"]["auc"].get(unit))
    within = cell.uaucs[cell.evaluations.index(evaluation)] if cell.uaucs else (None, None, None)
    row |= dict(zip(("uauc", "uauc_weighted", "uauc_users"), within, strict=True))
    row |= spread("uauc", metrics["intervals"].get("uauc", {}).get("users"))
    row |= {"users": metrics["users"]["n"], "users_source": metrics["users"]["source"]}
    row |= {f"floor_{name.replace(' + ', '_')}": floor["auc"] for name, floor in metrics["floors"].items()}
    row |= {f"floor_{name.replace(' + ', '_')}_uauc": value for name, value in test_set.uauc_floors.items()}
    best = metrics["difference_to_best_floor"] or {"floor": None, "auc": None, "interval": {}}
    row |= {"best_floor": best["floor"], "over_best_floor": best["auc"]}
    for unit in ("rows", "users"):
        row |= spread(f"over_best_floor_{unit}", best["interval"].get(unit))
    ranking = evaluation.ranking or {}
    row |= {f"rank_{name}": ranking.get(name) for name in ("protocol", "rows", "candidates", *RANK_METRICS)}
    row |= {
        "base_model": evaluation.base_model,
        "frame": run.get("frame"),
        "truncated_test": (run.get("results", {}).get("truncated") or {}).get("test"),
        "test_path": evaluation.test["path"],
        "test_sha256": evaluation.test["sha256"],
        "tuning_seconds": total([stage.get("seconds") for stage in evaluation.chain]),
        "evaluation_seconds": run.get("seconds"),
        "ended": run.get("ended"),
        "hardware": hardware(run),
        "revision": revision(run),
    }
    return row | {name: run.get("versions", {}).get(name) for name in ("python", "torch", "transformers", "peft")}


def spread(name, interval):
    """{name_low, name_high} of an interval that may be None."""
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def write_markdown(path, sections, pictures):
    """The sections as Markdown, with links to the figures."""
    lines = ["# TLRec report", ""]
    for section in sections:
        lines += [f"## {markdown_text(section.heading)}", ""]
        for paragraph in section.paragraphs:
            lines += [markdown_text(paragraph), ""]
        for table in section.tables:
            lines += [f"**{markdown_text(table.caption)}**", "", *markdown_table(table), ""]
        for picture in pictures:
            if picture.section == section.pictures:
                lines += [f"![{markdown_text(picture.text)}]({picture.path.name})", ""]
    with whole_file(path) as file:
        file.write("\n".join(lines).rstrip() + "\n")


def markdown_table(table):
    """Lines of a Markdown table."""
    rules = ["---" if column < table.text_columns else "---:" for column in range(len(table.header))]
    rows = [[markdown_text(cell) for cell in row] for row in (table.header, *table.rows)]
    return [f"| {' | '.join(row)} |" for row in (rows[0], rules, *rows[1:])]


def markdown_text(text):
    """`text` escaped for Markdown and HTML: names come from folders and files, so they may contain anything."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escape(printable(text), quote=False))


def hardware(run):
    """What an evaluation ran on, as the script said; else the number of CPU cores."""
    known = run.get("hardware")
    if known:
        return ", ".join(map(str, known)) if isinstance(known, list) else str(known)
    return f"{run.get('platform', {}).get('cpus')} CPU cores"


def revision(run):
    """The first ten digits of the revision, and whether the checkout had changes."""
    git = run.get("git")
    return f"{git['revision'][:10]}{' + changes' if git['dirty'] else ''}" if git else "-"


def total(values):
    """Sum of numbers; None if one of them is None or there are none."""
    return None if None in values or not values else sum(values)


def mean(values):
    """Mean of numbers; None if one of them is None."""
    return None if None in values else sum(values) / len(values)


def number(value, missing="-", sign=""):
    """Four decimal places."""
    return missing if value is None else f"{value:{sign}.4f}"


def bounds(interval, sign=""):
    """Two numbers, or a dash."""
    return "-" if interval is None else f"{interval[0]:{sign}.4f} to {interval[1]:{sign}.4f}"
