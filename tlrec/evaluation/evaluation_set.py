"""Labelled records to evaluate on, a validation or a test split: read once, with all that follows from them."""

from functools import cached_property

from tlrec.data.preferences import parse_input
from tlrec.data.records import LABELS, check_two_classes, draw_shots, labels_of, read_records
from tlrec.data.users import infer_users
from tlrec.errors import InputError
from tlrec.evaluation.floors import floor_scores
from tlrec.files import sha256


class EvaluationSet:
    """The records of a file with both labels; labels, preferences, users and floors are computed when first needed.

    train: records of the target's train split (a RecordSet), for the floors that know the items. draw: how many rows
    to keep, drawn with a fixed seed; -1 keeps all. rows_in_file: number of rows before the draw. Raises InputError,
    naming file and row, for a row that is not a labelled record, and for a file, or a draw, with one label only.
    """

    def __init__(self, path, train=None, draw=-1):
        self.path, self.train = path, train
        self.records, self.sha256 = read_records(path), sha256(path)
        self.rows_in_file = len(self.records)
        check_two_classes(self.records, path)
        if draw != -1:
            if not 1 <= draw <= self.rows_in_file:
                raise InputError(f"--max_val_samples {draw}: {path} has 1 to {self.rows_in_file} rows, or -1 for all")
            self.records = draw_shots(self.records, draw, seed=0)
            check_two_classes(self.records, f"--max_val_samples {draw}: of {path}")

    def __len__(self):
        return len(self.records)

    @cached_property
    def labels(self):
        """(n,) int array of 0 and 1."""
        return labels_of(self.records)

    @cached_property
    def preferences(self):
        """The rows' Preferences; None, and then no users and no floors, if any row is not in the published form."""
        try:
            return [preference for preference, _ in answered(self.records, self.path)]
        except InputError:
            return None

    def check_preferences(self):
        """Raise InputError, naming the row, unless all rows are in the published form."""
        if self.preferences is None:
            list(answered(self.records, self.path))

    def answered_train(self):
        """`answered` of the train records, which may be more than fit in memory; None without any."""
        return self.train and answered(self.train, self.train.path)

    @cached_property
    def users(self):
        """(n,) user ids inferred from overlapping windows, or None."""
        return None if self.preferences is None else infer_users(self.preferences, self.labels)

    @cached_property
    def floors(self):
        """{name: (n,) score} of the rules that need no language model; {} where there are no preferences."""
        if self.preferences is None:
            return {}
        return floor_scores(self.preferences, self.answered_train())


def answered(records, path):
    """Pairs (Preference, 0 or 1) of labelled records, one by one; InputError, naming file and row, for a record in another
    form."""
    for number, record in enumerate(records, start=1):
        try:
            yield parse_input(record["input"]), LABELS[record["output"]]
        except ValueError as error:
            raise InputError(f"{path}: row {number}: 'input' does not parse: {error}") from None
