"""The formats of `metrics.json` and `predictions.jsonl`: what an evaluation found.

Both lie in the adapter's folder or in evaluate.py's --output_dir. `tlrec.evaluation.results` computes and writes them;
its `read_metrics` and `read_evaluation` read them and hold them against `Metrics` and `Prediction`. Keys marked
NotRequired are missing in old files. Other keys may be there: they are kept.
"""

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from tlrec.run_format import Adapter, Count, DataFile, Number, RunFacts, Share

Bounds = Annotated[list[Number], Field(min_length=2, max_length=2)]  # [low, high]


class ByUnit(TypedDict):
    """An interval for each unit that was resampled; None where it is not defined."""

    rows: Bounds | None
    users: NotRequired[Bounds | None]  # only where users are known


class WithinUsers(TypedDict):
    """The interval of a uAUC: whole users are resampled, never their rows."""

    users: NotRequired[Bounds | None]  # only where users are known


class Intervals(TypedDict):
    level: Share  # 0.95
    resamples: Count
    seed: int
    auc: ByUnit
    auc_logodds: ByUnit
    uauc: NotRequired[WithinUsers]


class Users(TypedDict):
    n: Count | None  # None: users are not known
    source: str | None  # where they are from


class Difference(TypedDict):
    """AUC and uAUC of the model minus those of a floor, with paired intervals."""

    auc: Number | None
    interval: ByUnit
    uauc: NotRequired[Number | None]
    uauc_interval: NotRequired[WithinUsers]


class Floor(TypedDict):
    auc: Share | None
    interval: ByUnit
    uauc: NotRequired[Share | None]
    uauc_weighted: NotRequired[Share | None]
    uauc_interval: NotRequired[WithinUsers]
    difference: Difference


class BestFloor(Difference):
    floor: str  # its name


class Bin(TypedDict):
    """`tlrec.evaluation.metrics.reliability_bins`."""

    low: Share
    high: Share
    n: Count
    mean_probability: Share | None  # None where n is 0
    share_positive: Share | None


class Slice(TypedDict):
    slice: str
    n: Count
    n_positive: Count
    auc: Share | None


class TestedData(TypedDict):
    test: DataFile
    train: NotRequired[DataFile]  # where floors used it
    valid: NotRequired[DataFile]  # where this very run selected on it


class EvaluationRun(RunFacts):
    data: TestedData
    adapter: NotRequired[Adapter | None]  # None for a base model alone, and for a baseline


class Metrics(TypedDict):
    """`metrics.json`. AUC is None where one label only occurs, an interval where there is one user or row only."""

    auc: Share | None  # as published
    auc_logodds: Share | None
    uauc: NotRequired[Share | None]  # AUC within users: mean over the users with both labels; None without any
    uauc_weighted: NotRequired[Share | None]  # the same, each user weighted by its rows
    uauc_users: NotRequired[Count | None]  # how many users have both labels; None where users are not known
    accuracy: Share
    log_loss: Number
    brier: Share
    ece: Share
    answer_mass: Number  # mean probability of the two answers together
    n: Count
    n_positive: Count
    intervals: Intervals
    users: Users
    floors: dict[str, Floor]
    difference_to_best_floor: BestFloor | None  # to the floor of the best AUC
    uauc_difference_to_best_floor: NotRequired[BestFloor | None]  # to the floor of the best uAUC
    reliability: Annotated[list[Bin], Field(min_length=1)]
    by_history_size: list[Slice] | None
    by_share_of_likes: list[Slice] | None
    run: EvaluationRun


class Prediction(TypedDict):
    """A line of `predictions.jsonl`, in the order of the test file."""

    row: NotRequired[Count]  # from 1
    label: int
    score: NotRequired[Number]  # as published; computed anew when read
    p_yes: float
    p_no: float
    history_size: NotRequired[Count | None]
    user: int | str | None
    floors: dict[str, Number]  # {name: score}; {} where not known
