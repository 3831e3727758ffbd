"""The report as pandas tables: `runs`, a row for each evaluation, and `sections`, which results.md and index.html
show."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tlrec.evaluation.hits import NAMES as RANK_METRICS
from tlrec.evaluation.metrics import CALIBRATION, METRICS
from tlrec.evaluation.ranks import NOT_NEXT, SAMPLED, metric_text, metric_title, shown_metrics
from tlrec.probe import knowledge
from tlrec.report.cells import shots_name, shots_order
from tlrec.report.published import SAID
from tlrec.report.rankings import FLOORS, RULES

LEGEND = (
    "AUC as published: rows in order of P(Yes) - P(No), 0.5 is chance. Mean ± standard deviation over seeds, number of "
    "seeds in brackets; then what selected the checkpoints. ▲ above the best rule without training, ▼ below it, ≈ "
    "within noise of it; ★ best here, ☆ within noise of the best: the paired 95 % interval of the difference, over "
    "{unit}, contains 0. That interval leaves out users, not seeds: read it beside the ±. No sign: {unit} do not tell "
    "how certain it is. ‡ most other cells have other scoring settings (see Checks). Without training: history is the "
    "share of liked items in the history, item is the like-rate of the target item in the training split."
)
WITHIN_USERS = (
    "AUC ranks the rows of all users together; uAUC ranks each user's rows separately and is averaged over the {users} "
    "users with both labels. A method with a high AUC and a uAUC near chance tells generous users from strict ones, "
    "but not what a user likes."
)


@dataclass
class Section:
    """A heading, paragraphs, {caption: DataFrame of strings}, {PNG file: what it shows}."""

    heading: str
    paragraphs: list = field(default_factory=list)
    tables: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)


def sections(test_sets, findings, workspace, pictures):
    """The report as a list of Sections. findings: of tlrec.report.checks; pictures: of tlrec.report.figures."""
    result = [test_section(test_set, pictures[test_set.target]) for test_set in test_sets]
    if not test_sets:
        result.append(Section("No results", ["No evaluation that can be read; evaluate.py makes them."]))
    if pictures[None]:
        result.append(Section("Tuning", pictures=pictures[None]))
    if workspace.probes:
        result.append(knowledge_section(workspace.probes))
    caption = "Leaks between data files, what selected the checkpoints, labels, cut prompts, seeds"
    result.append(Section("Checks", [] if len(findings) else ["Nothing to check."], {caption: findings}))
    problems = pd.DataFrame(workspace.problems, columns=["Folder", "Problem"])
    paragraphs = [] if len(problems) else ["None."]
    result.append(Section("Damaged or unfinished runs", paragraphs, {"Left out of all tables above": problems}))
    if test_sets:
        names = ["folder", "target", "method", "selected_by", "base_model", "frame", "hardware", "revision"]
        every = runs(test_sets)[[*names, "shots", "seed", "auc"]]
        every = every.assign(shots=every["shots"].map(shots_name), auc=every["auc"].map(number))
        result.append(Section("Evaluations", [], {"More in results.csv": every.astype("string").fillna("-")}))
    for section in result:
        section.tables = {caption: table for caption, table in section.tables.items() if len(table)}
    return result


def test_section(test_set, pictures):
    """What is known of a test set: a few sentences, the tables by method and shots, rankings, every cell."""
    section = Section(test_set.target, [headline(test_set), LEGEND.format(unit=test_set.unit)], {}, pictures)
    for metric in [name for name in ("auc", "uauc") if name in test_set.metrics] or ["auc"]:
        section.tables[f"{metric.replace('auc', 'AUC')} by method and shots"] = main_table(test_set, metric)
    if users := test_set.evaluations[0].metrics["uauc_users"]:
        section.paragraphs.append(WITHIN_USERS.format(users=users))
    for ranked in test_set.rankings:
        section.tables[f"Ranking: {ranked.title}"] = ranking_table(ranked)
    if test_set.rankings:
        sampled = any(ranked.facts["protocol"] != "full" for ranked in test_set.rankings)
        section.paragraphs.append(RULES + NOT_NEXT + f" {SAMPLED}" * sampled)
    if test_set.published:
        section.paragraphs.append(SAID)
    section.tables["Every cell, mean over its seeds (log-odds: AUC in that order)"] = detail_table(test_set)
    return section


def knowledge_section(probes):
    """What the probes found, a table for each catalogue and record file of each, and what the numbers mean."""
    first = "How well the models complete titles of the catalogues and histories, before any test row is seen."
    section, meanings = Section("What the model knows beforehand", [first]), {}
    for folder, probe in probes:
        where = f"{folder}, base model {probe['run'].get('base_model') or 'not known'}; "
        for said, header, rows in knowledge.tables(probe):
            section.tables[where + said] = pd.DataFrame(rows, columns=pd.Index(header))
        meanings |= dict.fromkeys(knowledge.meanings(probe))
    section.paragraphs += meanings
    return section


def headline(test_set):
    """What the test set says, in a few sentences."""
    n, liked = len(test_set.labels), int(test_set.labels.sum())
    users, best = test_set.evaluations[0].metrics["users"], test_set.best
    known = f" of {users['n']} users ({users['source']})" if users["n"] else ""
    name = f"{test_set.test['published']}, as published: " if test_set.test["published"] else ""
    words = [f"{name}{n} test rows{known}, {liked} of them liked."]
    if best is None:
        return f"{words[0]} Only one label occurs, so AUC is not defined."
    words.append(f"Best: {best.method}, {shots_name(best.shots)}.")
    for metric, name in (("auc", "AUC"), ("uauc", "uAUC")):
        if floor := test_set.best_floor.get(metric):
            over, rule = best.over_floor[metric], f"{floor}, {number(test_set.floors[floor][metric].value)}"
            words.append(
                f"Its {name}, {number(best.numbers[metric].value)}, differs from that of the best rule without "
                f"training ({rule}) by {number(over.value, '+')}, 95 % interval {between(over.interval, '+')}."
            )
    return " ".join(words)


def main_table(test_set, metric):
    """Method x shots, then floors and published numbers."""
    cells = {(cell.method, cell.shots): cell for cell in test_set.cells}
    published = test_set.published.items()
    shots = {shots for _, shots in cells} | {shots for _, aucs in published for shots in aucs}
    shots = sorted(shots, key=shots_order)
    rows = [[m, *(cell_text(cells.get((m, s)), test_set, metric) for s in shots)] for m in test_set.methods]
    floors = {name: number(one[metric].value) for name, one in test_set.floors.items()}
    rows += [[f"no training: {name}", *[text] * len(shots)] for name, text in floors.items()]
    if metric == "auc":
        rows += [[f"published: {name}", *(number(aucs.get(s), missing="") for s in shots)] for name, aucs in published]
    return pd.DataFrame(rows, columns=["Method", *map(shots_name, shots)])


def cell_text(cell, test_set, metric="auc"):
    """Such as "0.731 ± 0.004 (3) ▲ ☆ [1000 target rows]"."""
    if cell is None:
        return ""
    if cell.numbers[metric].value is None:
        return f"not defined [{cell.selected}]"
    words, over = [number(cell.numbers[metric].value)], cell.over_floor.get(metric)
    words += [f"± {number(cell.spread[metric])}"] if metric in cell.spread else []
    words += [f"({len(cell.evaluations)})", sign(over) if over else ""]
    if metric == "auc":
        near = sign(test_set.measure(cell.names, test_set.best.names)["auc"]) == "≈"
        words += ["★" if cell is test_set.best else "☆" if near else "", "‡" if cell.other_scoring else ""]
    return " ".join(word for word in (*words, f"[{cell.selected}]") if word)


def sign(difference):
    """▲ above 0, ▼ below it, ≈ within noise of it; "" where a Measured difference has no interval."""
    low, high = difference.interval or (np.nan, np.nan)
    return "▲" if low > 0 else "▼" if high < 0 else "≈" if low <= high else ""


def cell_row(cell, evaluations):
    """What both tables with a row for each cell begin with."""
    seeds = ", ".join("-" if one.facts["seed"] is None else str(one.facts["seed"]) for one in evaluations)
    return {"Method": cell.method, "Shots": shots_name(cell.shots), "Seeds": seeds, "Selected by": cell.selected}


def detail_table(test_set):
    """A row for each cell: spread over seeds beside the interval over users, difference to the best floor, the rest."""
    rows, over = [], f"95 % over {test_set.unit}"
    for cell in test_set.cells:
        row = cell_row(cell, cell.evaluations)
        for metric in test_set.metrics:
            value, interval = cell.numbers[metric]
            row |= {metric: number(value), f"{metric}, ± over seeds": number(cell.spread.get(metric))}
            row[f"{metric}, {over}"] = between(interval)
            if floor := test_set.best_floor.get(metric):
                value, interval = cell.over_floor[metric]
                floor = f"{metric} - {floor}"
                row |= {floor: number(value, "+"), f"{floor}, {over}": between(interval, "+")}
        metrics = pd.DataFrame([evaluation.metrics for evaluation in cell.evaluations])
        mean = metrics[["auc_logodds", *CALIBRATION]].astype(float).mean()
        rows.append(row | {name: number(value) for name, value in mean.items()})
    return pd.DataFrame(rows)


def ranking_table(ranked):
    """A row for each cell and floor: HR, NDCG, MRR, mean rank."""
    names, rows = shown_metrics(ranked.facts["most_candidates"]), []
    for cell, chosen, means in ranked.cells:
        found = {metric_title(metric): metric_text(metric, means[metric]) for metric in names}
        found[f"{ranked.main.upper()}, 95 % (users)"] = between(means["intervals"][ranked.main]["users"], digits=4)
        rows.append(cell_row(cell, chosen) | found)
    for name, means in ranked.floors.items():
        found = {metric_title(metric): metric_text(metric, means[metric]) for metric in names}
        rows.append({"Method": f"no training: {FLOORS.get(name, name)}"} | found)
    return pd.DataFrame(rows).fillna("")


def runs(test_sets):
    """The tidy table of results.csv: a row for each evaluation, one value in each column; NaN where not known."""
    rows = [run_row(test_set, cell, e) for test_set in test_sets for cell in test_set.cells for e in cell.evaluations]
    return pd.DataFrame(rows).astype({name: "Int64" for name in ("shots", "seed", "users", "rank_rows") if rows})


def run_row(test_set, cell, evaluation):
    """{column: value} of one evaluation."""
    metrics, run, unit = evaluation.metrics, evaluation.metrics["run"], test_set.unit
    row = {"folder": evaluation.folder} | evaluation.facts | {"target": test_set.target, "method": cell.method}
    row |= {"test": test_set.test["published"], "test_path": test_set.test["path"], "selected_by": cell.selected}
    for metric in METRICS:
        row |= {metric: metrics[metric]} | bounds(f"{metric}_{unit}", metrics["intervals"][metric].get(unit))
    row |= {name: metrics[name] for name in ("auc_logodds", *CALIBRATION, "answer_mass", "n", "n_positive")}
    row |= {"users": metrics["users"]["n"], "users_source": metrics["users"]["source"]}
    for name, floor in metrics["floors"].items():
        row |= {f"floor_{name.replace(' + ', '_')}_{metric}": floor[metric] for metric in METRICS}
    if best := metrics["difference_to_best_floor"]:
        row |= {"best_floor": best["floor"], "over_best_floor": best["auc"]}
        row |= bounds(f"over_best_floor_{unit}", best["intervals"]["auc"].get(unit))
    ranking, seconds = evaluation.ranking or {}, [stage["seconds"] for stage in evaluation.chain]
    row |= {f"rank_{name}": ranking.get(name) for name in ("protocol", "rows", "candidates", *RANK_METRICS)}
    row |= {
        "frame": run.get("frame"),
        "truncated_test": (run["results"].get("truncated") or {}).get("test"),
        "tuning_seconds": sum(seconds) if seconds else None,
        "evaluation_seconds": run["seconds"],
        "ended": run["ended"],
        "hardware": row["hardware"] or f"{run['platform'].get('cpus')} CPU cores",
    }
    return row | {name: run["versions"].get(name) for name in ("python", "torch", "transformers", "peft")}


def bounds(name, interval):
    """{name_low, name_high} of an interval that may be None."""
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def number(value, sign="", missing="-"):
    """Three decimal places: 0.703, or +0.016."""
    return missing if value is None or pd.isna(value) else f"{value:{sign}.3f}"


def between(interval, sign="", digits=3):
    """ "0.651 to 0.755"; "none" where there is no interval."""
    return "none" if interval is None else f"{interval[0]:{sign}.{digits}f} to {interval[1]:{sign}.{digits}f}"
