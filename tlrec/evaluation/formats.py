"""The formats of `metrics.json`, `predictions.jsonl`, `ranking.json` and `ranks.jsonl`: the results of an evaluation.

They are in the adapter's folder or in evaluate.py's --output_dir. `tlrec.evaluation.results` computes and writes the
first two; its `read_metrics` and `read_evaluation` check them against `Metrics` and `Prediction`. The other two are
read by `tlrec.evaluation.ranking_results.read_ranking`, which checks them against `Ranking` and `Rank`. Keys marked
NotRequired are missing in old files. Other keys are allowed and kept.
"""

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from tlrec.evaluation.ranking_metrics import CUTOFFS
from tlrec.runs.schema import Adapter, Count, DataFile, Number, RunFacts, Share

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
    source: str | None  # given, or inferred from overlapping windows


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
    train: NotRequired[DataFile]  # if floors used it
    valid: NotRequired[DataFile]  # if this run itself selected on it


class EvaluationRun(RunFacts):
    data: TestedData
    adapter: NotRequired[Adapter | None]  # None for a base model alone, and for a baseline


class Metrics(TypedDict):
    """`metrics.json`. AUC is None if only one label occurs, an interval if there is only one user or row."""

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


# HR@K and NDCG@K, None where K is not below the number of candidates; the mean reciprocal rank; the mean rank, from 1
_MEANS = {f"{name}@{k}": Share | None for name in ("hr", "ndcg") for k in CUTOFFS} | {"mrr": Share, "mean_rank": Number}
RankMeans = TypedDict("RankMeans", _MEANS)
RankBounds = TypedDict("RankBounds", dict.fromkeys(_MEANS, Bounds | None))  # over users


class RankIntervals(RankBounds):
    level: Share
    resamples: Count
    seed: int


class RankDifference(TypedDict):
    """Means of the model minus those of a floor, with paired intervals."""

    means: dict[str, Number | None]
    intervals: RankBounds


class RankFloor(RankMeans):
    intervals: RankBounds
    difference: RankDifference


class LeftOut(TypedDict):
    target_not_in_catalogue: Count
    nothing_left_to_rank: Count
    not_drawn: Count  # with --max_rank_rows


class RankedData(TypedDict):
    test: DataFile
    items: DataFile
    train: NotRequired[DataFile]


class RankingRun(RunFacts):
    data: RankedData
    adapter: NotRequired[Adapter | None]


class Ranking(RankMeans):
    """`ranking.json`, which is written once all rows are ranked."""

    protocol: str  # "full", or "sampled 100"
    rank_seed: Count | None  # of sampled candidates and drawn rows; None where nothing is drawn
    candidates: Number  # mean number per row, the target included
    fewest_candidates: Count
    most_candidates: Count
    candidates_sha256: str  # equal in two files: the same rows among the same candidates
    rows: Count
    users: Count
    rows_left_out: LeftOut
    tied: Share  # share of rows in which other candidates have exactly the score of the target
    truncated: Count  # rows with a cut prompt
    intervals: RankIntervals
    floors: dict[str, RankFloor]
    notes: list[str]  # what the numbers do not say
    run: RankingRun


class Rank(TypedDict):
    """A line of `ranks.jsonl`, a liked row of the test file."""

    row: Annotated[int, Field(ge=1)]  # in the test file, from 1
    user: int
    target: str
    candidates: Annotated[int, Field(ge=2)]
    rank: Number  # from 1; the middle of equal scores
    better: Count  # candidates with a higher score
    tied: Count  # other candidates with exactly the same score
    truncated: Count  # candidates whose prompt was cut
    floors: dict[str, Annotated[list[Count], Field(min_length=2, max_length=2)]]  # {name: [better, tied]}
    run: str  # digest of model, scoring and candidates
