"""Which flags tune a small model best? A search in three rounds on the rows of a source domain; no target is ever read.

    python benchmarks/search_recipe.py --output_dir recipe_search

Input:  a base model and source records. Validation users are cut out of the records first, by
        instruction_data/split_users.py; every cell learns from the other users and is scored on the same validation rows.
Output: in --output_dir: data/ (the two files), untuned/ (the base model's evaluation), cells/ (an adapter with run.json,
        metrics.json and predictions.jsonl for each cell, and its log), cells.csv and table.md, renewed after each cell.
        The same command again continues where it stopped.

The rule, fixed before the search:
1. One setting at a time: the start recipe, and it with each other value of one setting (SETTINGS), --rows rows each.
2. Crossed: of each setting the other value with the highest AUC; of these, those of the CROSSED settings with the highest
   AUC, in all combinations that round 1 has not run.
3. Decided: the start and the FINALISTS other cells with the highest AUC, anew with --final_rows rows, for each of SEEDS.
The recipe is the one with the highest mean AUC in round 3. Each cell makes one pass over its rows and is scored after its
last step, so no cell chooses a checkpoint; the validation rows choose between cells only. Fixed: no LoRA dropout, alpha
twice the rank, warm-up for an eighth of the steps. Equal rows mean equal time, not equal steps: a larger batch has fewer.
"""

import argparse
import csv
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # tlrec and benchmarks, wherever this is called from

from tlrec.compare import compare
from tlrec.data.records import RecordSet
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.results import read_metrics
from tlrec.files import sha256, whole_file
from tlrec.model.checks import check_base_model
from tlrec.runs import read_run

# 1. The recipe to start from, and all values of its settings
SETTINGS = {
    "learning_rate": (1e-3, 3e-4, 3e-3),  # the first value is the start's
    "targets": ("all-linear", "q v"),
    "batch": (16, 32, 128),
    "prompt_weight": (0.0, 0.05, 1.0),
    "rank": (8, 32),
}
CROSSED, FINALISTS, SEEDS = 3, 2, (0, 1)
COLUMNS = ("round", *SETTINGS, "rows", "steps", "seed", "auc", "low", "high", "minus_start", "minus_low", "minus_high")
COLUMNS += ("log_loss", "seconds", "rows_per_second", "validation_rows", "threads", "hardware")


@dataclass(frozen=True)
class Cell:
    """One tuning: a value of each setting, how many rows it learns from, and the seed of rows, order and LoRA's start."""

    learning_rate: float
    targets: str
    batch: int
    prompt_weight: float
    rank: int
    rows: int
    seed: int = 0

    @property
    def name(self):
        targets = self.targets.replace(" ", "")
        return (
            f"lr{self.learning_rate:g}_{targets}_batch{self.batch}_prompt{self.prompt_weight:g}_rank{self.rank}"
            f"_rows{self.rows}_seed{self.seed}"
        )

    @property
    def steps(self):
        return -(-self.rows // self.batch)

    def flags(self):
        """What ins_tuning.py is given for it."""
        flags = ["--learning_rate", self.learning_rate, "--batch_size", self.batch, "--seed", self.seed]
        flags += ["--prompt_loss_weight", self.prompt_weight, "--lora_r", self.rank, "--lora_alpha", 2 * self.rank]
        if self.targets != "q v":  # these are the default, by whatever names the model has for them
            flags += ["--lora_target_modules", self.targets]
        flags += ["--lora_dropout", 0, "--num_epochs", 1, "--warmup_steps", self.steps // 8, "--eval_steps", self.steps]
        return [*flags, "--share_prefix", "--max_train_samples", self.rows]


def start(rows, seed=0):
    return Cell(*(values[0] for values in SETTINGS.values()), rows, seed)


# 2. The rule. aucs: {Cell: AUC} of the cells that are done
def one_at_a_time(rows):
    """Cells of round 1."""
    others = [replace(start(rows), **{name: value}) for name, values in SETTINGS.items() for value in values[1:]]
    return [start(rows), *others]


def crossed(aucs, rows):
    """Cells of round 2."""
    best = {}  # setting: (AUC, value)
    for name, values in SETTINGS.items():
        alone = [(aucs[replace(start(rows), **{name: value})], value) for value in values[1:]]
        best[name] = max(alone, key=lambda pair: pair[0])
    names = sorted(best, key=lambda name: -best[name][0])[:CROSSED]
    together = [group for size in range(2, CROSSED + 1) for group in itertools.combinations(names, size)]
    return [replace(start(rows), **{name: best[name][1] for name in group}) for group in together]


def decided(aucs, rows):
    """Cells of round 3."""
    others = sorted((cell for cell in aucs if cell != start(cell.rows)), key=lambda cell: -aucs[cell])[:FINALISTS]
    finalists = [start(rows), *others]
    return [replace(cell, rows=rows, seed=seed) for cell in finalists for seed in SEEDS]


def planned_rows(args):
    """Rows that all three rounds tune on, known before the first."""
    singles = sum(len(values) for values in SETTINGS.values()) - len(SETTINGS) + 1
    combinations = 2**CROSSED - CROSSED - 1
    return (singles + combinations) * args.rows + (1 + FINALISTS) * len(SEEDS) * args.final_rows


class Search:
    """A search in its folder: makes cells by the project's own scripts, and keeps the tables."""

    def __init__(self, args):
        self.args, self.folder = args, Path(args.output_dir)
        self.data, self.untuned = self.folder / "data", self.folder / "untuned"
        self.machine = ["--base_model", args.base_model, "--device", args.device, "--dtype", args.dtype]
        self.valid = self.data / "valid.json"
        self.rounds = {}  # Cell: number of its round, in the order of running

    def cell_folder(self, cell):
        return self.folder / "cells" / cell.name

    def prepare(self):
        """The two files and the base model's evaluation, unless they are there."""
        if not self.data.exists():
            flags = ["--output", self.data, "--valid_rows", self.args.val_rows]
            call(self.folder / "data.log", "instruction_data/split_users.py", *self.args.records, *flags)
        made = json.loads((self.data / "split.json").read_text())
        digests = sorted(file["sha256"] for file in made["records"].values())
        if made["valid_rows"] != self.args.val_rows or digests != sorted({sha256(path) for path in self.args.records}):
            raise InputError(
                f"{self.data}: was cut out of other records or with another --val_rows; give another folder"
            )
        most = max(self.args.rows, self.args.final_rows)
        if most > (there := made["train"]["rows"]):
            raise InputError(f"{most} rows for a cell: {self.data / 'train.json'} has {there}")
        self.score(self.untuned, "--output_dir", self.untuned)

    def score(self, folder, *flags):
        """evaluate.py on the validation rows, unless `folder` holds its result."""
        if not (folder / "metrics.json").exists():
            call(folder.with_suffix(".log"), "evaluate.py", *self.machine, "--test_data_path", self.valid, *flags)
        return read_metrics(folder)

    def run(self, cell, number):
        """Tune and score one cell of a round; cells that are there are only read. Returns its AUC."""
        folder = self.cell_folder(cell)
        data = ["--train_data_path", self.data / "train.json", "--val_data_path", self.valid]
        few = [
            "--max_val_samples",
            min(16, len(RecordSet(self.valid))),
        ]  # the tuner must validate; evaluate.py decides
        micro = ["--micro_batch_size", min(self.args.micro_batch_size, cell.batch)]
        output = ["--output_dir", folder, "--resume"]
        call(Path(f"{folder}.log"), "ins_tuning.py", *self.machine, *data, *few, *micro, *output, *cell.flags())
        self.rounds[cell] = number
        return self.score(folder, "--lora_weights", folder)["auc"]

    def seconds(self, cell):
        """Seconds that a cell has taken: loading, tuning, and the scoring of its validation rows."""
        return read_run(self.cell_folder(cell))["seconds"] + read_metrics(self.cell_folder(cell))["run"]["seconds"]

    def row(self, cell, environment):
        """The cell's row of cells.csv."""
        folder, first = self.cell_folder(cell), start(cell.rows, cell.seed)
        metrics, tuned = read_metrics(folder), read_run(folder)["results"]
        low, high = bounds_of(metrics["intervals"]["auc"])
        row = dict.fromkeys(COLUMNS) | {name: getattr(cell, name) for name in (*SETTINGS, "rows", "steps", "seed")}
        row |= {"round": self.rounds[cell], "auc": metrics["auc"], "low": low, "high": high}
        row |= {"log_loss": metrics["log_loss"], "seconds": round(self.seconds(cell))}
        row["rows_per_second"] = round(cell.rows / (tuned["seconds"] - tuned["seconds_validation"]), 2)
        if cell != first and first in self.rounds:
            difference = compare(folder, self.cell_folder(first))
            row["minus_start"] = difference["difference"]
            row["minus_low"], row["minus_high"] = bounds_of(difference["interval"])
        return row | {"validation_rows": metrics["n"]} | environment

    def write_tables(self, environment):
        rows = [self.row(cell, environment) for cell in self.rounds]
        with whole_file(self.folder / "cells.csv") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        with whole_file(self.folder / "table.md") as file:
            file.write(markdown(rows, read_metrics(self.untuned)))
        return rows


def bounds_of(intervals):
    """[low, high] over users, or over rows where users are not known; (None, None) where it is not defined."""
    return intervals.get("users", intervals["rows"]) or (None, None)


def call(log, script, *arguments):
    """Run a script of the project; its output goes to the file `log`. InputError with its last line if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    with open(log, "a") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
        try:
            status = process.wait()
        except BaseException:  # Ctrl-C, SIGTERM: the script saves a checkpoint
            while process.poll() is None:
                process.terminate()  # again if it came before the script had begun
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            raise
    if status:
        last = log.read_text().strip().splitlines()[-1:] or [f"ended with status {status}"]
        raise InputError(f"{script}: {last[0].removeprefix('error: ')} (all of it: {log})")


def markdown(rows, untuned):
    """The table of table.md."""

    def number(value, form=".4f"):
        return "" if value is None else f"{value:{form}}"

    def between(low, high, form=".4f"):
        return "" if low is None else f"{low:{form}} to {high:{form}}"

    rule = untuned["floors"]["history"]
    floor, base = (bounds_of(found) for found in (rule["interval"], untuned["intervals"]["auc"]))
    lines = [
        "| round | learning rate | targets | batch | prompt weight | rank | rows | steps | seed | AUC | 95 % over users "
        "| minus start | 95 % paired | log-loss | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        f"| | *the rule that counts likes* |{' |' * 7} {number(rule['auc'])} | {between(*floor)} | | | | |",
        f"| | *untuned* |{' |' * 7} {number(untuned['auc'])} | {between(*base)} | | | {number(untuned['log_loss'])} | |",
    ]
    for row in rows:
        cells = [row["round"], f"{row['learning_rate']:g}", row["targets"], row["batch"], f"{row['prompt_weight']:g}"]
        cells += [row["rank"], row["rows"], row["steps"], row["seed"], number(row["auc"])]
        cells += [between(row["low"], row["high"]), number(row["minus_start"], "+.4f")]
        cells += [between(row["minus_low"], row["minus_high"], "+.4f"), number(row["log_loss"]), row["seconds"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def means(rows):
    """[(mean AUC over seeds, {setting: value})] of round 3, the best first."""
    groups = {}
    for row in rows:
        if row["round"] == 3:
            groups.setdefault(tuple(row[name] for name in SETTINGS), []).append(row["auc"])
    ordered = sorted(groups.items(), key=lambda group: -statistics.mean(group[1]))
    return [(statistics.mean(aucs), dict(zip(SETTINGS, values))) for values, aucs in ordered]


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="folder of this search")
    add("--base_model", default="base_model/smollm2-135m", help="(default: %(default)s)")
    add(
        "--records",
        nargs="+",
        type=Path,
        default=[Path("instruction_data/netflix/train.json")],
        help="of the source (default: instruction_data/netflix/train.json)",
    )
    add("--rows", type=int, default=512, help="that a cell of rounds 1 and 2 learns from (default: %(default)s)")
    add("--final_rows", type=int, default=1024, help="that a cell of round 3 learns from (default: %(default)s)")
    add("--val_rows", type=int, default=300, help="validation rows at most, of whole users (default: %(default)s)")
    add("--micro_batch_size", type=int, default=16, help="rows in one forward pass (default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    for flag in ("rows", "final_rows", "val_rows"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: give 1 or more")
    wrong = args.micro_batch_size < 1 or 16 % args.micro_batch_size
    if wrong:
        raise InputError(f"--micro_batch_size {args.micro_batch_size}: give 1, 2, 4, 8 or 16")
    return args


def hardware(device):
    """{"threads", "hardware"} of this machine."""
    import torch

    from tlrec.model import base_models

    return {
        "threads": torch.get_num_threads(),
        "hardware": base_models.hardware(base_models.resolve_device(device)),
    }


def main(arguments=None):
    args = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a script that is running is stopped, too

    # 3. Rows and the base model without tuning
    check_base_model(args.base_model)
    search = Search(args)
    search.prepare()
    machine = hardware(args.device)

    # 4. Three rounds
    aucs, all_rows = {}, planned_rows(args)
    rounds = (
        lambda: one_at_a_time(args.rows),
        lambda: crossed(aucs, args.rows),
        lambda: decided(aucs, args.final_rows),
    )
    for number, cells_of in enumerate(rounds, start=1):
        cells = cells_of()
        for place, cell in enumerate(cells, start=1):
            auc = search.run(cell, number)
            aucs[cell] = auc
            table = search.write_tables(machine)
            seconds, done = sum(map(search.seconds, search.rounds)), sum(cell.rows for cell in search.rounds)
            left = (all_rows - done) * seconds / done / 60
            print(f"round {number}, cell {place} of {len(cells)}: {cell.name}: AUC {auc:.4f}; {left:.0f} min left")

    # 5. The recipe
    print((search.folder / "table.md").read_text())
    for mean, settings in means(table):
        words = ", ".join(f"{name} {value}" for name, value in settings.items())
        print(f"mean AUC over seeds {mean:.4f}: {words}")
    print(f"{seconds / 60:.0f} min of tuning and scoring, {machine['hardware']}; tables: {search.folder}")


if __name__ == "__main__":
    with one_line_errors():
        main()
