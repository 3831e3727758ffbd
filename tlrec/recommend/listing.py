"""The list: its order, what is printed of it, and what is written."""

import csv
from pathlib import Path

from tlrec.data.preferences import Item
from tlrec.files import printable, whole_file, write_json

WIDEST = 60  # characters of a title in the printed list
COLUMNS = 10  # items that --explain prints; --output has all


def ranked(p_yes):
    """Places in order of P(Yes), highest first; ties stay in the order of the catalogue."""
    return sorted(range(len(p_yes)), key=lambda place: -p_yes[place])


def rows_of(items, p_yes, p_no, preference, without=None):
    """The list as it is written: a dict for each of `items`, best first. without: with --explain their Scores without
    each item of the history, in its order."""
    rows = []
    for number, item in enumerate(items):
        row = {"rank": number + 1} | _named(item) | {"p_yes": float(p_yes[number]), "p_no": float(p_no[number])}
        if without is not None:
            row["without"] = [
                _named(left_out)
                | {"liked": place < len(preference.likes)}
                | {"p_yes": float(scores.p_yes[number]), "p_no": float(scores.p_no[number])}
                for place, (left_out, scores) in enumerate(zip(preference.history, without, strict=True))
            ]
        rows.append(row)
    return rows


def _named(item):
    return {"title": item.title, "creator": item.creator}


def table(rows):
    """The list as plain text; with creators only if there are any."""
    titles = [_shown(row["title"]) for row in rows]
    creators = [_shown(row["creator"]) for row in rows]
    widths = [max(map(len, column)) for column in (["title", *titles], ["creator", *creators])]
    lines = [("rank", "title", "creator", "P(Yes)", "P(No)")]
    lines += [
        (str(row["rank"]), title, creator, f"{row['p_yes']:.4f}", f"{row['p_no']:.4f}")
        for row, title, creator in zip(rows, titles, creators, strict=True)
    ]
    return "\n".join(
        f"{rank:>4}  {title:<{widths[0]}}  "
        + (f"{creator:<{widths[1]}}  " if any(creators) else "")
        + f"{p_yes:>6}  {p_no:>6}"
        for rank, title, creator, p_yes, p_no in lines
    )


def explanation(rows):
    """What --explain prints: a line for each item of the history, a column for each of the first items of the list."""
    rows = rows[:COLUMNS]
    lines = [("P(Yes) of the item at rank", [f"{row['rank']}" for row in rows])]
    lines.append(("with the whole history", [f"{row['p_yes']:.4f}" for row in rows]))
    for place, left_out in enumerate(rows[0]["without"]):
        name = f"without {'liked' if left_out['liked'] else 'disliked'} {_shown(left_out['title'])}"
        lines.append((name, [f"{row['without'][place]['p_yes']:.4f}" for row in rows]))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}" + "".join(f"  {value:>6}" for value in values) for name, values in lines)


def place_of_target(target, ordered):
    """A line about the item that the row itself asks about; ordered: all candidates, best first."""
    name = printable(str(target))
    if target not in ordered:
        return f"the row's own target, {name}, is not a candidate"
    return f"the row's own target, {name}, is at rank {ordered.index(target) + 1} of {len(ordered)}"


def write(path, rows):
    """Write the list, whole, as JSON or CSV. In CSV, --explain adds a column for each item of the history."""
    if Path(path).suffix == ".json":
        write_json(path, rows)
        return
    with whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        left_out = [str(Item(entry["title"], entry["creator"])) for entry in rows[0].get("without", [])]
        writer.writerow(["rank", "title", "creator", "p_yes", "p_no", *(f"p_yes without {name}" for name in left_out)])
        for row in rows:
            plain = [row[name] for name in ("rank", "title", "creator", "p_yes", "p_no")]
            writer.writerow(plain + [entry["p_yes"] for entry in row.get("without", [])])


def _shown(text):
    text = printable(text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
