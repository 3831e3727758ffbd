"""RecBole's atomic files: `*.inter` and `*.item`, tab-separated, with typed headers such as `user_id:token`."""

from tlrec.data.sources import table
from tlrec.data.sources.tables import columns_of, read_delimited


def read(ratings, items, options, counts):
    """The columns are found by their names, as in a table of one's own."""
    frames = []
    for path, wanted in ((ratings, table.RATINGS), (items, table.ITEMS)):
        found = columns_of(path)[0]
        typed = {name.partition(":")[0]: name for name in found}
        columns = table.choose_columns(list(typed), wanted, {}, path)
        columns = {name: typed[column] for name, column in columns.items()}
        frames.append(read_delimited(path, columns, "\t", quotes=False))
    return frames
