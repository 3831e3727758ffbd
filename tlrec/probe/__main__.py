"""What a model already knows about a catalogue's titles and about real rating histories.

    python -m tlrec.probe --base_model base_model/llama-7b/ --items rec_data/movie/item_mapping.csv \
        --records rec_data/movie/test.json --lora_weights output_model/movie/full/0_64 --output_dir probes/movie

Reads  a catalogue (CSV or Parquet with the column `title`, perhaps `creator`), labelled preference records, or both.
Writes probe.json into --output_dir, for the report; prints the same as tables.

Titles: how often, and how probably, the model completes the release year (`"Title (`) or, where the catalogue has
creators, the author (`"Title" written by `), compared with the same titles with shuffled years or authors.
Histories: how probable the second half of what a user liked is after the first half, compared with another user's.
All of it for the base model alone, and with --lora_weights also with the adapter. It gives numbers, not a verdict.
"""

import argparse
from pathlib import Path

from tlrec.errors import InputError, one_line_errors
from tlrec.files import check_new_file


def parse_arguments():
    """Parse the command line."""
    purpose, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tlrec.probe",
        description=purpose,
        epilog=details,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("what is asked").add_argument
    add("--items", metavar="FILE", help="catalogue, CSV or Parquet, such as item_mapping.csv")
    add("--records", metavar="FILE", help="labelled preference records")
    add("--max_items", type=int, metavar="N", help="draw at most N titles and N users (default: all)")
    add("--candidates", type=int, default=10, metavar="N", help="years or authors ranked (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the draws and the shuffles (default: %(default)s)")
    add("--output_dir", required=True, help="folder of probe.json")
    add("--overwrite", action="store_true", help="replace a probe.json that is there")
    add = parser.add_argument_group("model").add_argument
    add("--base_model", default="base_model/llama-7b/", help="folder or hub name of a causal LM (default: %(default)s)")
    add("--lora_weights", help="adapter, folder or hub name, for the numbers with it beside those of the base alone")
    add("--other_base", action="store_true", help="take an adapter that was tuned on another base model")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="(default: the adapter's, else auto)")
    add("--quantization", choices=["none", "8bit", "4bit"], help="of the base (default: the adapter's, else none)")
    attention = ["auto", "sdpa", "eager", "flash_attention_2"]
    add("--attention", choices=attention, help="(default: the adapter's, else auto)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--token_budget", type=int, help="tokens in one forward pass (default: by device)")
    add("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    return parser.parse_args()


def check_flags(args):
    """Raise InputError for wrong flags, and for a probe.json that exists or could not be written."""
    if not (args.items or args.records):
        raise InputError("nothing to ask: give a catalogue with --items, records with --records, or both")
    for name, least in (("max_items", 2), ("candidates", 2), ("seed", 0), ("token_budget", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: give {least} or more")
    check_new_file(Path(args.output_dir) / "probe.json", "--output_dir", args.overwrite)


def read_questions(args):
    """({part: Questions}, {part: what is asked}, {name: data file}) of the parts titles and histories, the last two as
    probe.json has them; prints what is left out."""
    from tlrec.data.catalogue import read_catalogue
    from tlrec.data.preferences import read_checked
    from tlrec.data.records import labels_of
    from tlrec.files import sha256
    from tlrec.probe.questions import history_questions, title_questions
    from tlrec.runs import describe_data

    questions, asked, data = {}, {"titles": None, "histories": None}, {}
    if args.items:
        catalogue = read_catalogue(args.items)
        if catalogue.repeated:
            print(f"{args.items}: {catalogue.repeated} rows repeat an earlier item and are left out")
        questions["titles"] = titles = title_questions(catalogue, args.candidates, args.max_items, args.seed)
        left = f"; {titles.left_out} titles without a year left out" if titles.left_out else ""
        what = 'release years, `"Title (`' if titles.kind == "year" else 'authors, `"Title" written by `'
        n, candidates = len(titles.rows), max(len(row.completions) for row in titles.rows)
        said = f"{args.items}: {n} titles completed with {what}; {candidates} candidates each{left}."
        asked["titles"] = {"said": said, "kind": titles.kind, "n": n, "left_out": titles.left_out}
        asked["titles"] |= {"repeated": catalogue.repeated, "candidates": candidates}
        data["catalogue"] = describe_data(args.items, len(catalogue.items) + catalogue.repeated, sha256(args.items))
    if args.records:
        records, preferences = read_checked(args.records)
        if preferences is None:
            raise InputError(f"{args.records}: no row is answered Yes. or No.; give labelled preference records")
        questions["histories"] = histories = history_questions(
            preferences, labels_of(records), args.records, args.max_items, args.seed
        )
        left = f"; {histories.left_out} users left out" if histories.left_out else ""
        n, mean = len(histories.rows), sum(row.size for row in histories.rows) / len(histories.rows)
        said = f"{args.records}: the second half of what {n} users liked, {mean:.1f} titles each on average, after the "
        asked["histories"] = {
            "said": f"{said}first half{left}.",
            "n": n,
            "left_out": histories.left_out,
            "titles": mean,
        }
        data["records"] = describe_data(args.records, len(records), sha256(args.records))
    return questions, asked, data


def measure(args, setup, adapter, questions):
    """The numbers of the base alone and, if there is one, with the adapter: the "models" of probe.json."""
    from tlrec.probe.knowledge import history_numbers, title_numbers
    from tlrec.scoring.completions import score_completions

    models = []
    for folder in dict.fromkeys([None, adapter or None]):
        model = setup.attach(folder)
        entry = {"adapter": folder and args.lora_weights, "titles": None, "histories": None}
        for part, asked in questions.items():
            pairs = [(row.context, row.completions) for row in asked.rows]
            scores = score_completions(model, setup.tokenizer, pairs, args.token_budget, part)
            if part == "titles":
                entry[part] = title_numbers(scores)
            else:
                entry[part] = history_numbers(scores, [row.size for row in asked.rows])
        models.append(entry)
    return models


def show(probe):
    """Print what was asked, the tables, and what each number means."""
    from tlrec.probe import knowledge

    for said, header, rows in knowledge.tables(probe):
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        print(f"\n{said}")
        for row in (header, *rows):
            print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    print()
    print("\n".join(knowledge.meanings(probe)))


def main():
    """Check, ask, print and write."""
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    check_flags(args)
    from tlrec.model.folders import adapter_folder, check_base_model, check_lora_weights
    from tlrec.model.identity import base_identity
    from tlrec.runs import HOW, describe_adapter, describe_run, scoring_of

    check_base_model(args.base_model)
    base, adapter = base_identity(args.base_model), adapter_folder(args.lora_weights, "--lora_weights")
    if adapter:
        check_lora_weights(adapter, args.base_model, base, args.other_base)
    questions, asked, data = read_questions(args)

    # 2. Log-probabilities of all continuations
    from tlrec.scoring.loaded import load_as_tuned

    given = {name: getattr(args, name) for name in HOW if getattr(args, name) is not None}
    setup, _ = load_as_tuned(args, adapter, scoring_of(adapter, args.base_model), given)
    models = measure(args, setup, adapter, questions)

    # 3. Print and write
    from tlrec.evaluation.intervals import LEVEL
    from tlrec.files import plain_json, write_json

    facts = {"adapter": describe_adapter(adapter), "base_model": args.base_model, "base": base}
    run = describe_run("tlrec.probe", vars(args), data, **facts, seed=args.seed, scoring=setup.machine_scoring)
    intervals = {"level": LEVEL}
    probe = asked | {"models": models, "intervals": intervals, "run": run}
    show(probe)
    if setup.first:
        path = Path(args.output_dir) / "probe.json"
        write_json(path, plain_json(probe))
        print(f"\nwritten: {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
