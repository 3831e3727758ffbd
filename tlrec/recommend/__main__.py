"""The items of a catalogue that a user is most likely to like: P(Yes) for each of them -> the top N.

    python -m tlrec.recommend --base_model base_model/llama-7b/ --lora_weights output_model/movie/full/0_64 \
        --items rec_data/movie/item_mapping.csv --liked "Star Wars (1977)" "Alien (1979)" --disliked "Babe (1995)"
    python -m tlrec.recommend ... --items rec_data/movie/item_mapping.csv --record rec_data/movie/test.json --row 1

Reads  what a user liked and disliked, as titles or as a row of a record file, and a catalogue: CSV or Parquet with the
       column `title` and, if there is one, `creator`. Items that the user has rated are left out of the list.
Prints the list; --output writes it as `rank, title, creator, p_yes, p_no`, to .json (a list of such objects) or .csv.

P(Yes) is learnt from items that people chose to rate: the list says what a user would like if they tried it, not what
they will choose next.
"""

import argparse
from pathlib import Path

from tlrec.errors import InputError, one_line_errors
from tlrec.files import check_new_file
from tlrec.model.prompts import FRAME_NAMES

# Flags for a model that runs here; a served model runs elsewhere
RUN_HERE = ("lora_weights", "other_base", "prompt_frame", "cutoff_len", "dtype", "quantization", "attention")
RUN_HERE += ("device", "token_budget", "trust_remote_code")


def parse_arguments():
    """Parse the command line."""
    purpose, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tlrec.recommend",
        description=purpose,
        epilog=details,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("user").add_argument
    title = 'titles, in time order; of a book also `"Title" written by Author`'
    add("--liked", nargs="+", action="extend", default=[], metavar="TITLE", help=title)
    add("--disliked", nargs="+", action="extend", default=[], metavar="TITLE", help="the same")
    add(
        "--as_written",
        action="store_true",
        help="do not ask about titles that are not in the catalogue: take them as they are",
    )
    add("--record", metavar="FILE", help="instead of titles: preference records, labelled or not")
    add("--row", type=int, metavar="N", help="row of --record, counted from 1")
    add = parser.add_argument_group("list").add_argument
    add("--items", required=True, metavar="FILE", help="catalogue, CSV or Parquet, such as item_mapping.csv")
    add("--kind", help="what the prompt calls an item (default: what the catalogue's column `kind` says, else movie)")
    add("--top", type=int, default=10, metavar="N", help="length of the list (default: %(default)s)")
    add("--explain", action="store_true", help="also P(Yes) without each item of the history")
    add("--output", metavar="FILE", help="also write the list, to a new file that ends in .json or .csv")
    add("--overwrite", action="store_true", help="replace --output if it exists")
    add = parser.add_argument_group("model").add_argument
    add("--base_model", default="base_model/llama-7b/", help="folder or hub name of a causal LM (default: %(default)s)")
    add("--lora_weights", help="adapter folder (default: none, the base model alone)")
    add(
        "--served",
        metavar="URL",
        help="ask vLLM at this address, such as http://localhost:8000/v1; --base_model is then the folder that "
        "export_model.py wrote (weights not needed); if the server needs a key, it is read from OPENAI_API_KEY",
    )
    add("--served_name", help="name of the model at the server (default: the only one it serves)")
    add("--other_base", action="store_true", help="take an adapter that was tuned on another base model")
    add = parser.add_argument_group("scoring settings, by default those of the adapter's tuning").add_argument
    add("--prompt_frame", choices=FRAME_NAMES, help="(default: the adapter's, else alpaca)")
    add("--cutoff_len", type=int, help="tokens of a prompt (default: the adapter's, else 512)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="(default: the adapter's, else auto)")
    add("--quantization", choices=["none", "8bit", "4bit"], help="of the base (default: the adapter's, else none)")
    attention = ["auto", "sdpa", "eager", "flash_attention_2"]
    add("--attention", choices=attention, help="(default: the adapter's, else auto)")
    add = parser.add_argument_group("machine").add_argument
    add("--device", choices=["auto", "cpu", "cuda"], help="(default: auto)")
    add("--token_budget", type=int, help="tokens in one forward pass (default: by device)")
    add("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    return parser.parse_args()


def check_flags(args):
    """Raise InputError for flags that do not go together, and for an --output that could not be written."""
    if args.record and (args.liked or args.disliked or args.kind):
        raise InputError("--record names history and kind itself; give it without --liked, --disliked and --kind")
    if not (args.record or args.liked or args.disliked):
        raise InputError("no history: give --liked and --disliked titles, or --record FILE --row N")
    if bool(args.record) != (args.row is not None):
        raise InputError("--record and --row go together: a record file, and a row of it counted from 1")
    for name, least in (("top", 1), ("cutoff_len", 1), ("token_budget", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: give {least} or more")
    for name in RUN_HERE if args.served else ["served_name"]:
        if getattr(args, name) not in (None, False):
            why = "is for a model run here, not for --served" if args.served else "needs --served"
            raise InputError(f"--{name} {why}")
    if args.output:
        if Path(args.output).suffix not in (".json", ".csv"):
            raise InputError(f"--output {args.output}: the name must end in .json or .csv")
        check_new_file(args.output, "--output", args.overwrite)


def main():
    """Check, score, sort, print and write."""
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    check_flags(args)
    from tlrec.data.catalogue import read_catalogue  # imports pandas and numpy, which --help does not need
    from tlrec.recommend import listing, scorers, user
    from tlrec.scoring.served import read_prompt_frame

    if args.served:
        prompt_frame = read_prompt_frame(args.base_model, "--base_model")
    else:
        kept, given = scorers.check_local(args)

    # 2. Catalogue and history; rated items are not candidates
    catalogue = read_catalogue(args.items)
    if catalogue.repeated:
        print(f"{args.items}: {catalogue.repeated} rows repeat an earlier item and are left out")
    by_row = args.record is not None
    asked = user.read_row(args.record, args.row, catalogue) if by_row else user.read_titles(args, catalogue)
    rated = {place for item in asked.preference.history for place in catalogue.find(item)}
    items = [item for place, item in enumerate(catalogue.items) if place not in rated]
    if not items:
        raise InputError(f"{args.items}: the user has rated all {len(rated)} items, so none is left to recommend")
    print(f"candidates: {len(items)}; rated by the user and left out: {len(rated)}")
    if args.top > len(items):
        print(f"--top {args.top}: there are only {len(items)} candidates; all are listed")

    # 3. P(Yes) of all of them, in one order
    score = scorers.served_scorer(args, prompt_frame) if args.served else scorers.local_scorer(args, kept, given)
    (scores,) = score([(asked.record, items)])
    if scores.truncated:
        print(f"{scores.truncated} of {len(items)} prompts were too long, so the oldest history items were cut")
    order = listing.ranked(scores.p_yes)

    # 4. The best of them, and what they would be without each item of the history
    best = order[: args.top]
    top = [items[place] for place in best]
    without = score([(record, top) for record in asked.without]) if args.explain else None
    rows = listing.rows_of(top, scores.p_yes[best], scores.p_no[best], asked.preference, without)

    # 5. Print and write
    print(f"\n{listing.table(rows)}\n")
    if by_row:
        print(f"{listing.place_of_target(asked.preference.target, [items[place] for place in order])}\n")
    if args.explain and asked.without:
        print(listing.explanation(rows))
    if args.output:
        listing.write(args.output, rows)


if __name__ == "__main__":
    with one_line_errors():
        main()
