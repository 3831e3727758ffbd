"""Make a demo workspace: fictional records in exactly the format of the real ones, with known ground truth.

    python -m tlrec.demo.workspace demo_workspace --seed 0

In: nothing. Out, below the folder: `instruction_data/{netflix,amazon-book}/{train,valid}.json`,
`rec_data/{movie,book}/{train,valid,test}.json` and `item_mapping.csv` (all items, to rank or recommend), a `DEMO.md` in
each folder, and `demo.json` with seed, sizes and, for each file, the best reachable AUC (of an oracle that knows the
simulated tastes but sees only the record) and that of the share of likes. The same command again changes nothing;
another seed or size needs `--overwrite`, and a folder with other data is never changed without it.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from tlrec.data.preferences import build_record
from tlrec.data.records import write_records
from tlrec.demo.world import DOMAINS, THEME_NAMES, make_catalogue, make_examples
from tlrec.errors import InputError, one_line_errors
from tlrec.files import read_json, sha256, whole_file, write_json
from tlrec.runs import differences

# folder of each domain, and the default rows of each of its files
FILES = {
    "netflix": ("instruction_data/netflix", {"train": 2000, "valid": 200}),
    "amazon-book": ("instruction_data/amazon-book", {"train": 1000, "valid": 200}),
    "movie": ("rec_data/movie", {"train": 600, "valid": 200, "test": 1000}),
    "book": ("rec_data/book", {"train": 600, "valid": 200, "test": 500}),
}

_BANNER = """# Demo data: every film, book, author and user here is invented

Made by `python -m tlrec.demo.workspace` from a seed. No row comes from Netflix, MovieLens, Amazon or Book-Crossing: the
folders have those names only because the launchers look for them. Films are dated 2101 to 2199. Numbers measured here
show whether the code works; they say nothing about any real data set.
"""


def make_workspace(root, seed, sizes, overwrite=False):
    """Write the workspace; returns `demo.json` as a dict and whether anything had to be written.

    sizes: {domain: {split: rows}}. Raises InputError if `root` holds something else and `overwrite` is not given.
    """
    root = Path(root)
    wanted = {"fictional": True, "seed": seed, "sizes": sizes}
    if not overwrite and (made := _made_already(root, wanted)):
        return made, False

    files = {}
    for number, (name, (folder, _)) in enumerate(FILES.items()):
        domain = DOMAINS[name]
        catalogue = make_catalogue(np.random.default_rng([seed, number, 0]), domain)
        for part, (split, rows) in enumerate(sizes[name].items(), start=1):
            examples = make_examples(np.random.default_rng([seed, number, part]), domain, catalogue, rows)
            quoted = domain.name == "book"  # published Book-Crossing files quote the whole target once more
            path = f"{folder}/{split}.json"
            write_records(root / path, [build_record(e.preference, e.liked, quoted) for e in examples])
            files[path] = {"rows": rows, "sha256": sha256(root / path), **_ground_truth(examples)}
        if folder.startswith("rec_data"):
            _write_items(root / folder / "item_mapping.csv", catalogue, domain.kind)
        _write_text(root / folder / "DEMO.md", _BANNER)
    _write_text(root / "DEMO.md", _BANNER + _explanation(files))
    demo = wanted | {"files": files}
    write_json(root / "demo.json", demo)  # last: a folder without it is not a finished demo
    return demo, True


def _write_items(path, catalogue, kind):
    with whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["item_id", "title", "creator", "kind"])  # as prepare_data.py writes it
        items = [item for items in catalogue.values() for item in items]
        writer.writerows([number, item.title, item.creator, kind] for number, item in enumerate(items, start=1))


def _ground_truth(examples):
    from sklearn.metrics import roc_auc_score

    labels = [example.liked for example in examples]
    shares = [(len(e.preference.likes) + 0.5) / (len(e.preference.history) + 1) for e in examples]
    scores = {"best_reachable_auc": [e.posterior for e in examples], "history_floor_auc": shares}
    defined = len(set(labels)) == 2
    aucs = {name: round(float(roc_auc_score(labels, score)), 4) if defined else None for name, score in scores.items()}
    return aucs | {"like_rate": round(float(np.mean(labels)), 4)}


def _explanation(files):
    rows = "\n".join(
        f"| `{path}` | {facts['rows']} | {_shown(facts['history_floor_auc'])} | {_shown(facts['best_reachable_auc'])} |"
        for path, facts in files.items()
    )
    return f"""
## How the answers come about

An item has one theme, given by the words of its title ({", ".join(THEME_NAMES)}); an author writes on one theme only. A
user follows a few themes and loves, hates or does not mind each. P(like) = sigmoid(generosity + taste for the theme),
and the label is drawn from it. Source and target domains share themes and words but no item and no user, so comparing a
title with the lists carries over. One thing can be learnt from target records only: in `movie` and `book` users
dislike sequels. A title with "II" loses {-DOMAINS["movie"].sequels} log-odds there and nothing in the source domains.

*Best reachable* is the AUC of an oracle that knows the simulated tastes but sees only the record: P(target liked | the
history in the record), computed exactly except for a grid. No model can expect more. The *history baseline* is the AUC of the
share of liked items in the history.

| file | rows | history baseline | best reachable |
|---|---|---|---|
{rows}
"""


def _shown(value):
    return "-" if value is None else f"{value:.4f}"


def _made_already(root, wanted):
    """The content of demo.json if the folder holds this demo unchanged, None if it holds nothing; InputError if it holds
    another demo or other data."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; give a folder")
    demo = read_json(root / "demo.json") if (root / "demo.json").exists() else {}
    if demo.get("fictional"):
        written = {path: facts["sha256"] for path, facts in demo["files"].items()}
        there = {path: sha256(root / path) if (root / path).exists() else None for path in written}
        if not (other := differences(_settings(demo) | there, _settings(wanted) | written)):
            return demo
        raise InputError(
            f"{root}: holds another demo, or a changed one: {', '.join(other)}; "
            "give --overwrite to replace it, or another folder"
        )
    if found := sorted(path for folder, _ in FILES.values() for path in (root / folder).glob("*.json")):
        raise InputError(
            f"{root}: holds data that is not a demo ({found[0].relative_to(root)}); give another folder, or --overwrite "
            "to replace it"
        )
    return None


def _settings(demo):
    rows = {f"rows of {name} {split}": n for name, splits in demo["sizes"].items() for split, n in splits.items()}
    return {"--seed": demo["seed"], **rows}


def _write_text(path, text):
    with whole_file(path) as file:
        file.write(text)


def _flag(name, split):
    return f"{name.replace('-', '_')}_{split}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="the workspace to make")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    for name, (_, splits) in FILES.items():
        for split, rows in splits.items():
            parser.add_argument(f"--{_flag(name, split)}", type=int, default=rows, help=f"rows ({rows})")
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    args = parser.parse_args()

    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: give 0 or more")
    sizes = {
        name: {split: getattr(args, _flag(name, split)) for split in splits} for name, (_, splits) in FILES.items()
    }
    for name, splits in sizes.items():
        for split, rows in splits.items():
            if rows < 1:
                raise InputError(f"--{_flag(name, split)} {rows}: give at least one row")
    demo, written = make_workspace(args.folder, args.seed, sizes, args.overwrite)
    print(f"{args.folder}: demo workspace {'written' if written else 'already there, left unchanged'}")
    for path, facts in demo["files"].items():
        floor, best = (_shown(facts[key]) for key in ("history_floor_auc", "best_reachable_auc"))
        print(f"  {path:35} {facts['rows']:5} rows   history baseline {floor}   best reachable {best}")


if __name__ == "__main__":
    with one_line_errors():
        main()
