"""Turn the hits of the generated chain-of-thought data into instruction records to tune on.

    python cot_data/preprocess_data.py --data_name netflix
    python cot_data/preprocess_data.py --data_name netflix amazon-book      # joins the two
    python cot_data/preprocess_data.py --data_name netflix --hits substring --any_form      # as published

Reads  <root_path>/cot_data/<data_name>/three_stages.json of one or several data names.
Writes <root_path>/cot_data/<data_name>/stage123.json for each of them, and <root_path>/cot_data/stage123.json, from which
       the launchers tune: the records of all names that were given. Without --data_name it takes all that are there, and
       writes the latter file only if that is one. A record is step 3: instruction.txt, the whole prompt, the answer.
       --curriculum also writes stage1.json and stage12.json, the same samples' steps 1 and 2; stage123.run.json beside
       them says what they were made from. Prints how many were kept, dropped and why, and how many exceed the token limit.
"""

import argparse
from collections import Counter
from pathlib import Path

from typing_extensions import TypedDict  # pydantic takes this one

from tlrec.cot.answers import ASKED_FOR, FEATURED, parse_list, parse_recommendations
from tlrec.cot.samples import fill, without_marker
from tlrec.errors import InputError, one_line_errors
from tlrec.files import parse_json, read_bytes, read_json, sha256, validate, write_json
from tlrec.model.prompts import FRAME_NAMES, load_frame

REPOSITORY = Path(__file__).resolve().parent.parent
INSTRUCTION = Path(__file__).resolve().parent / "prompts" / "instruction.txt"
OUTPUTS = {
    "stage1": ("Input_1", "Predictions_1"),
    "stage12": ("Input_2", "Predictions_2"),
    "stage123": ("Input_3", "Predictions"),
}


class Row(TypedDict):
    """What is needed of a row of three_stages.json."""

    PID: int
    Input_1: str
    Input_2: str
    Input_3: str
    Predictions_1: str
    Predictions_2: str
    Predictions: str
    Hit: int
    Hit_substring: int
    Kind: str
    History: list[str]
    Candidates: list[str]
    Models: list[str]


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--root_path", type=Path, default=REPOSITORY, help="the workspace (default: the repository)")
    add("--input_path", default="/cot_data/", help="below --root_path, also of the output (default: %(default)s)")
    add("--data_name", nargs="+", help="folders below --input_path (default: all with a three_stages.json)")
    add(
        "--hits",
        choices=("parsed", "substring"),
        default="parsed",
        help="the target is a recommended candidate, or its text is anywhere in the answer (default: %(default)s)",
    )
    add("--any_form", action="store_true", help="keep hits whose answers have not the form that was asked for")
    add("--curriculum", action="store_true", help="also write stage1.json and stage12.json")
    add("--base_model", help="folder of the tokenizer to count with (default: base_model/llama-7b below --root_path)")
    add("--cutoff_len", type=int, default=512, help="the tuner's token limit (default: %(default)s)")
    add("--prompt_frame", choices=FRAME_NAMES, default="alpaca", help="the tuner's frame (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace files of these names that this script did not write")
    return parser.parse_args()


def read_samples(path):
    """The rows of a three_stages.json; InputError if it is not one of ours."""
    if not path.exists():
        raise InputError(f"{path}: no such file; bash shell/generate_cot_data.sh makes it")
    rows = parse_json(read_bytes(path), path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a JSON array, found a {type(rows).__name__}")
    return [validate(row, Row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]


def format_break(sample):
    """How a sample's answers break the format that was asked for, or None."""
    featured = parse_list(sample["Predictions_2"], sample["History"])
    if None in featured or not featured:
        return "step 2 names something that is not in the history"
    if len(featured) > FEATURED:
        return f"step 2 names more than {FEATURED}"
    recommended = parse_recommendations(sample["Predictions"], sample["History"], sample["Candidates"])
    asked_for = min(ASKED_FOR, len(sample["Candidates"]))
    if len(recommended) != asked_for:
        return "step 3 does not recommend as many as asked for"
    candidates = [each.candidate for each in recommended]
    if None in candidates:
        return "step 3 recommends something that is not a candidate"
    if len(set(candidates)) < asked_for:
        return "step 3 recommends something twice"
    if any(each.liked is None for each in recommended):
        return "step 3 names something that is not in the history"
    return None


def main():
    args = parse_arguments()

    # 1. Check flags and files
    folder = args.root_path / args.input_path.lstrip("/")
    names = args.data_name or sorted(path.parent.name for path in folder.glob("*/three_stages.json"))
    if not names:
        raise InputError(f"{folder}: no three_stages.json in its folders; bash shell/generate_cot_data.sh makes them")
    if len(set(names)) < len(names):
        raise InputError(f"--data_name {' '.join(names)}: a name is given twice")
    if args.cutoff_len < 1:
        raise InputError(f"--cutoff_len {args.cutoff_len}: give 1 or more")
    base_model = args.base_model or args.root_path / "base_model" / "llama-7b"
    if args.base_model:
        from tlrec.model.folders import check_base_model

        check_base_model(base_model)
    paths = {name: folder / name / "three_stages.json" for name in names}
    samples = {name: read_samples(path) for name, path in paths.items()}
    stages = list(OUTPUTS) if args.curriculum else ["stage123"]
    places = {folder / name: [name] for name in names}
    if args.data_name or len(names) == 1:
        places[folder] = names
    for place in places:
        refuse_to_lose(place, stages, args.overwrite)

    # 2. Records of the hits whose answers keep the format
    instruction = INSTRUCTION.read_text(encoding="utf-8").strip()
    made = {}
    for name, rows in samples.items():
        kept, facts = choose(name, paths[name], rows, args)
        records = {stage: [record_of(sample, stage, instruction) for sample in kept] for stage in stages}
        made[name] = facts | {"records": records}
    if not any(each["kept"] for each in made.values()):
        raise InputError(f"{', '.join(names)}: no sample is left to learn from")

    # 3. How many exceed the tuner's limit
    measure(made, base_model, args)

    # 4. Write the records, and last what they were made from
    for place, its_names in places.items():
        write_place(place, {name: made[name] for name in its_names if made[name]["kept"]}, stages, args)
    if folder not in places:
        print(f"{folder / 'stage123.json'}: not written; give --data_name {' '.join(names)} to join these")


def write_place(place, made, stages, args):
    """Write the records of some names into a folder, joined, and stage123.run.json beside them."""
    from tlrec import runs
    from tlrec.data.records import write_records

    if not made:
        return
    outputs = {}
    for stage in stages:
        path = place / f"{stage}.json"
        rows = [record for each in made.values() for record in each["records"][stage]]
        write_records(path, rows)
        outputs[path.name] = sha256(path)
        print(f"{path}: {len(rows)} records")
    run = runs.describe_run(
        "preprocess_data.py",
        vars(args),
        {name: runs.describe_data(each["path"], each["rows"]) for name, each in made.items()},
        {key: {name: each[key] for name, each in made.items()} for key in ("kept", "dropped", "exceeding")},
        models=sorted({model for each in made.values() for model in each["models"]}),
        outputs=outputs,
    )
    write_json(place / "stage123.run.json", run)


def record_of(sample, stage, instruction):
    """A record: what is to be done, the prompt of this stage, and its answer. What is to be done at an earlier stage than
    the last stands in the last line of its prompt."""
    prompt, answer = (sample[field] for field in OUTPUTS[stage])
    prompt = without_marker(prompt)
    if stage == "stage123":
        told = fill(instruction, sample["Kind"], sample["History"], sample["Candidates"])
    else:
        told = prompt.splitlines()[-1]
    return {"instruction": told, "input": prompt, "output": answer}


def choose(name, path, rows, args):
    """(the samples of a three_stages.json to learn from, by PID; facts on them). Facts, printed too: path, rows, kept (how
    many), dropped {reason: number}, models (of those kept)."""
    rows = sorted(rows, key=lambda sample: sample["PID"])
    field = "Hit" if args.hits == "parsed" else "Hit_substring"
    reasons = ["no hit" if not row[field] else None if args.any_form else format_break(row) for row in rows]
    kept = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
    dropped = dict(Counter(filter(None, reasons)).most_common())
    print(f"{name}: {len(rows)} samples, kept {len(kept)}, answered by {', '.join(models_of(rows)) or 'nobody'}")
    parsed, substring = (sum(bool(row[each]) for row in rows) for each in ("Hit", "Hit_substring"))
    print(f"  hits: {parsed} parsed, {substring} by substring; --hits {args.hits}")
    for reason, count in dropped.items():
        print(f"  dropped {count}: {reason}")
    journal = path.with_suffix(".jsonl")
    if journal.exists() and journal.stat().st_mtime_ns > path.stat().st_mtime_ns:
        print(f"  note: {journal} is newer; generate_data.py was stopped, start it again to finish")
    facts = {"path": path, "rows": len(rows), "kept": len(kept), "dropped": dropped, "models": models_of(kept)}
    return kept, facts


def models_of(samples):
    return sorted({model for sample in samples for model in sample["Models"]})


def refuse_to_lose(place, stages, overwrite):
    """Raise InputError if an output in a folder exists that no earlier run of this script has written."""
    run_file = place / "stage123.run.json"
    written = read_json(run_file).get("outputs") if run_file.exists() and not overwrite else None
    written = written if isinstance(written, dict) else {}
    for path in (place / f"{stage}.json" for stage in stages):
        if path.exists() and not overwrite and written.get(path.name) != sha256(path):
            raise InputError(
                f"{path}: was not written by this script, or was changed; move it away, or give --overwrite"
            )


def measure(made, base_model, args):
    """Note for each name, and print, how many records of each stage exceed the tuner's limit: "exceeding"."""
    for each in made.values():
        each["exceeding"] = {}
    if not args.base_model and not base_model.exists():
        print(f"token limit: not checked, there is no tokenizer at {base_model}; give --base_model")
        return
    from tlrec.model import base_models
    from tlrec.model.tokenization import RecordTokenizer

    tokenizer = base_models.load_tokenizer(base_model)
    tokenizer.model_max_length = 10**9  # long records are counted here, so no warning is needed
    encoder = RecordTokenizer(tokenizer, load_frame(args.prompt_frame, tokenizer), args.cutoff_len)
    for name, each in made.items():
        for stage, rows in each["records"].items():
            examples = encoder.examples(rows)
            each["exceeding"][stage] = examples.truncated + len(examples.dropped)
            print(
                f"{name}, {stage}: {each['exceeding'][stage]} of {len(rows)} exceed --cutoff_len {args.cutoff_len}: the "
                f"tuner cuts the prompt of {examples.truncated} and leaves out {len(examples.dropped)} whose answer alone "
                "is too long"
            )


if __name__ == "__main__":
    with one_line_errors():
        main()
