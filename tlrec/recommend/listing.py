"""The list: its order, what is printed of it, and what is written."""

import csv
from pathlib import Path

from tlrec.data.preferences import Item
from tlrec.files import printable, whole_file, write_json

WIDEST = 60  # characters of a title in the printed list
COLUMNS = 10  # items that --explain prints; --output has all
WRITTEN = ["rank", "title", "creator", "p_yes", "p_no"]


def ranked(p_yes):
    """Places in order of P(Yes), highest first; ties stay in the order of the catalogue."""
    return sorted(range(len(p_yes)), key=lambda place: -p_yes[place])


def rows_of(items, p_yes, p_no, preference, without=None):
    """The list as it is written: a dict for each of `items`, best first. without: with --explain their Scores without
    each item of the history, in its order."""

    def row(item, number, p_yes, p_no, **facts):
        scored = {"p_yes": float(p_yes[number]), "p_no": float(p_no[number])}
        return {"title": item.title, "creator": item.creator, **facts, **scored}

    rows = [{"rank": number + 1} | row(item, number, p_yes, p_no) for number, item in enumerate(items)]
    for number in range(len(rows)) if without is not None else ():
        rows[number]["without"] = [
            row(left_out, number, scores.p_yes, scores.p_no, liked=place < len(preference.likes))
            for place, (left_out, scores) in enumerate(zip(preference.history, without, strict=True))
        ]
    return rows


def table(rows):
    """The list as plain text; with creators only if there are any."""
    lines = [["rank", "title", "creator", "P(Yes)", "P(No)"]]
    for row in rows:
        numbers = f"{row['p_yes']:.4f}", f"{row['p_no']:.4f}"
        lines.append([str(row["rank"]), _shown(row["title"]), _shown(row["creator"]), *numbers])
    title, creator = (max(len(line[column]) for line in lines) for column in (1, 2))
    creator = creator + 2 if any(row["creator"] for row in rows) else 0
    return "\n".join(
        f"{line[0]:>4}  {line[1]:<{title}}  {line[2][:creator]:<{creator}}{line[3]:>6}  {line[4]:>6}" for line in lines
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
    place = f"at rank {ordered.index(target) + 1} of {len(ordered)}" if target in ordered else "not a candidate"
    return f"the row's own target, {printable(str(target))}, is {place}"


def write(path, rows):
    """Write the list, whole, as JSON or CSV. In CSV, --explain adds a column for each item of the history."""
    if Path(path).suffix == ".json":
        write_json(path, rows)
        return
    left_out = [str(Item(entry["title"], entry["creator"])) for entry in rows[0].get("without", [])]
    with whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*WRITTEN, *(f"p_yes without {name}" for name in left_out)])
        for row in rows:
            writer.writerow([row[name] for name in WRITTEN] + [entry["p_yes"] for entry in row.get("without", [])])


def _shown(text):
    text = printable(text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
