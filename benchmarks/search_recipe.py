"""Which flags tune a small model best? A search in three rounds on the rows of a source domain; no target is ever read.

    python benchmarks/search_recipe.py --output_dir recipe_search
    python benchmarks/search_recipe.py --output_dir few_shot_search --start_adapter instruction_model/movie/source \
        --records instruction_data/amazon-book/train.json --rows 64 --final_rows 64        # few shots, from an adapter

Input:  a base model and source records. Validation users are cut out of the records first, by
        instruction_data/split_users.py; every cell learns from the other users and is scored on the same validation rows.
        With --start_adapter, of another source, the cells are few-shot runs from it: rows are shots.
Output: in --output_dir: data/ (the two files), start/ (evaluation before any tuning), cells/ (an adapter with run.json,
        metrics.json and predictions.jsonl for each cell, and its log), cells.csv and table.md, renewed after each cell.
        The same command again continues where it stopped.

The rule, fixed before the search:
1. One setting at a time: the start recipe, and it with each other value of one setting (SETTINGS), --rows rows each.
2. Crossed: of each setting the other value with the highest AUC; of these, those of the CROSSED settings with the highest
   AUC, in all combinations that round 1 has not run.
3. Decided: the start and the FINALISTS other cells with the highest AUC, anew with --final_rows rows, for each of SEEDS.
The recipe is the one with the highest mean AUC in round 3. Each cell is scored after its last step, so no cell chooses a
checkpoint; the validation rows choose between cells only. Fixed: no LoRA dropout, alpha twice the rank, warm-up for an
eighth of the steps. In the source stage every cell makes one pass: equal rows mean equal time, not equal steps.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tlrec.compare import compare
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.results import read_metrics
from tlrec.files import sha256, whole_file
from tlrec.model.folders import check_base_model
from tlrec.runs import read_run

REPOSITORY = Path(__file__).resolve().parent.parent

# 1. The recipe to start from, the first value of each setting, and all values
SETTINGS = {
    "source": {
        "learning_rate": (1e-3, 3e-4, 3e-3),
        "targets": ("all-linear", "q v"),
        "batch": (16, 32, 128),
        "prompt_weight": (0.0, 0.05, 1.0),
        "rank": (8, 32),
    },
    "few-shot": {"learning_rate": (5e-4, 1e-4, 2e-4, 1e-3), "epochs": (4, 1, 2, 8)},
}
FIXED = {"targets": "all-linear", "batch": 16, "prompt_weight": 0.0, "rank": 8, "epochs": 1}  # where it is no setting
CROSSED, FINALISTS, SEEDS = 3, 2, (0, 1)


class Cell(NamedTuple):
    """One tuning: a value of each setting of its stage, how many rows it learns from, and the seed."""

    values: tuple
    rows: int
    seed: int = 0

    def settings(self, stage):
        return dict(zip(SETTINGS[stage], self.values))

    def flags(self, stage):
        """What the tuner of this stage is given."""
        use = FIXED | self.settings(stage)
        steps = -(-self.rows // use["batch"]) * use["epochs"]
        flags = ["--learning_rate", use["learning_rate"], "--batch_size", use["batch"], "--seed", self.seed]
        flags += ["--micro_batch_size", 16, "--prompt_loss_weight", use["prompt_weight"], "--lora_r", use["rank"]]
        flags += ["--lora_alpha", 2 * use["rank"], "--lora_dropout", 0, "--num_epochs", use["epochs"]]
        if use["targets"] != "q v":  # these are the default, by whatever names the model has for them
            flags += ["--lora_target_modules", use["targets"]]
        flags += ["--warmup_steps", steps // 8, "--eval_steps", steps, "--metric_for_best_model", "last"]
        return [*flags, "--share_prefix", "--sample" if stage == "few-shot" else "--max_train_samples", self.rows]


# 2. The rule. aucs: {Cell: AUC} of the cells that are done
def start(stage, rows, **changes):
    """The cell of the start's recipe, with these settings changed."""
    values = {name: values[0] for name, values in SETTINGS[stage].items()}
    return Cell(tuple((values | changes).values()), rows)


def one_at_a_time(stage, rows):
    """Cells of round 1."""
    others = [start(stage, rows, **{name: value}) for name, values in SETTINGS[stage].items() for value in values[1:]]
    return [start(stage, rows), *others]


def crossed(stage, rows, aucs):
    """Cells of round 2."""
    best = {}  # setting: (AUC, value)
    for name, values in SETTINGS[stage].items():
        alone = [(aucs[start(stage, rows, **{name: value})], value) for value in values[1:]]
        best[name] = max(alone, key=lambda pair: pair[0])
    names = sorted(best, key=lambda name: -best[name][0])[:CROSSED]
    together = [group for size in range(2, len(names) + 1) for group in itertools.combinations(names, size)]
    return [start(stage, rows, **{name: best[name][1] for name in group}) for group in together]


def decided(stage, rows, aucs):
    """Cells of round 3."""
    others = sorted((cell for cell in aucs if cell != start(stage, cell.rows)), key=lambda cell: -aucs[cell])
    return [Cell(cell.values, rows, seed) for cell in [start(stage, rows), *others[:FINALISTS]] for seed in SEEDS]


# 3. Running a cell, and the tables
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


def prepare(args):
    """Cut the validation users out of the records, and score them before any tuning, unless that is done."""
    data = args.output_dir / "data"
    if not data.exists():
        flags = ["--output", data, "--valid_rows", args.val_rows]
        call(args.output_dir / "data.log", "instruction_data/split_users.py", *args.records, *flags)
    made = json.loads((data / "split.json").read_text())
    digests = sorted(file["sha256"] for file in made["records"].values())
    if made["valid_rows"] != args.val_rows or digests != sorted({sha256(path) for path in args.records}):
        raise InputError(f"{data}: was cut out of other records or with another --val_rows; give another folder")
    if (most := max(args.rows, args.final_rows)) > (there := made["train"]["rows"]):
        raise InputError(f"{most} rows for a cell: {data / 'train.json'} has {there}")
    adapter = ["--lora_weights", args.start_adapter] if args.start_adapter else []
    score(args, args.output_dir / "start", *adapter, "--output_dir", args.output_dir / "start")


def score(args, folder, *flags):
    """evaluate.py on the validation rows, unless `folder` holds its result."""
    if not (folder / "metrics.json").exists():
        test = ["--test_data_path", args.output_dir / "data" / "valid.json"]
        call(folder.with_suffix(".log"), "evaluate.py", *args.machine, *test, *flags)


def run(args, cell):
    """Tune and score one cell, unless it is there; returns its row of the table."""
    settings = cell.settings(args.stage)
    name = "_".join(f"{key}-{value}" for key, value in settings.items()).replace(" ", "")
    folder = args.output_dir / "cells" / f"{name}_rows-{cell.rows}_seed-{cell.seed}"
    data = ["--train_data_path", args.output_dir / "data" / "train.json"]
    data += ["--val_data_path", args.output_dir / "data" / "valid.json"]
    data += ["--max_val_samples", min(16, args.val_rows)]  # the tuner must validate; evaluate.py decides
    begin = ["--resume_from_checkpoint", args.start_adapter] if args.start_adapter else []
    script = "rec_tuning.py" if args.start_adapter else "ins_tuning.py"
    output = ["--output_dir", folder, "--resume"]
    call(Path(f"{folder}.log"), script, *args.machine, *data, *begin, *output, *cell.flags(args.stage))
    score(args, folder, "--lora_weights", folder)
    metrics, tuned = read_metrics(folder), read_run(folder)
    row = settings | {"rows": cell.rows, "seed": cell.seed, "auc": metrics["auc"]}
    row["low"], row["high"] = bounds_of(metrics["intervals"]["auc"])
    row |= {"log_loss": metrics["log_loss"], "seconds": round(tuned["seconds"] + metrics["run"]["seconds"])}
    return row | {"folder": str(folder)}


def bounds_of(intervals):
    """[low, high] over users, or over rows where users are not known; (None, None) where it is not defined."""
    return intervals.get("users", intervals.get("rows")) or (None, None)


def beside_start(row, first):
    """The paired difference of a cell's AUC to that of the start's cell with the same rows and seed; {} for itself."""
    if row["folder"] == first:
        return {}
    found = compare(row["folder"], first)["difference"]
    low, high = bounds_of(found["intervals"]["auc"])
    return {"minus_start": found["auc"], "minus_low": low, "minus_high": high}


def write_tables(args, rows):
    """cells.csv and table.md; returns the table as a DataFrame."""
    import pandas as pd

    before = read_metrics(args.output_dir / "start")
    beside = []
    for name, found in (
        ("history baseline", before["floors"]["history"]),
        ("start adapter" if args.start_adapter else "untuned", before),
    ):
        low, high = bounds_of(found["intervals"]["auc"])
        beside.append({"round": name, "auc": found["auc"], "low": low, "high": high, "log_loss": found.get("log_loss")})
    table = pd.DataFrame(rows).drop(columns="folder")
    with whole_file(args.output_dir / "cells.csv") as file:
        table.to_csv(file, index=False)
    text = pd.concat([pd.DataFrame(beside), table])[table.columns].astype(object)
    text = text.map(lambda cell: f"{cell:.4g}" if isinstance(cell, float) else str(cell), na_action="ignore").fillna("")
    with whole_file(args.output_dir / "table.md") as file:
        for cells in (text.columns, ["---"] * text.shape[1], *text.to_numpy()):
            file.write(f"| {' | '.join(cells)} |\n")
    return table


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, netflix = parser.add_argument, [Path("instruction_data/netflix/train.json")]
    add("--output_dir", type=Path, required=True, help="folder of this search")
    add("--base_model", default="base_model/smollm2-135m", help="(default: %(default)s)")
    add("--start_adapter", help="search few-shot flags from this adapter (default: those of the source stage)")
    add("--records", nargs="+", type=Path, default=netflix, help=f"of the source (default: {netflix[0]})")
    add("--rows", type=int, default=512, help="that a cell of rounds 1 and 2 learns from (default: %(default)s)")
    add("--final_rows", type=int, default=1024, help="that a cell of round 3 learns from (default: %(default)s)")
    add("--val_rows", type=int, default=300, help="validation rows at most, of whole users (default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    for flag in ("rows", "final_rows", "val_rows"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: give 1 or more")
    args.stage = "few-shot" if args.start_adapter else "source"
    args.machine = ["--base_model", args.base_model, "--device", args.device, "--dtype", args.dtype]
    return args


def main(arguments=None):
    args = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a script that is running is stopped, too
    check_base_model(args.base_model)
    prepare(args)

    rows, aucs, firsts = [], {}, {}
    rounds = (
        lambda: one_at_a_time(args.stage, args.rows),
        lambda: crossed(args.stage, args.rows, aucs),
        lambda: decided(args.stage, args.final_rows, aucs),
    )
    for number, cells_of in enumerate(rounds, start=1):
        cells = cells_of()
        for place, cell in enumerate(cells, start=1):
            row = run(args, cell)
            aucs[cell] = row["auc"]
            first = firsts.setdefault((number == 3, cell.seed), row["folder"])  # the start comes first
            rows.append({"round": number} | row | beside_start(row, first))
            table = write_tables(args, rows)
            print(f"round {number}, cell {place} of {len(cells)}: {Path(row['folder']).name}: AUC {row['auc']:.4f}")

    print((args.output_dir / "table.md").read_text())
    means = table[table["round"] == 3].groupby(list(SETTINGS[args.stage]))["auc"].mean().sort_values(ascending=False)
    print(f"mean AUC over seeds in round 3, the best first:\n{means.to_string()}")


if __name__ == "__main__":
    with one_line_errors():
        main()
