"""The formats of `metrics.json`, `predictions.jsonl`, `ranking.json` and `ranks.jsonl`: the results of an evaluation.

They are in the adapter's folder or in evaluate.py's --output_dir. `tlrec.evaluation.results` computes, writes and reads
the first two, `tlrec.evaluation.ranks` the other two; what is read is checked against these. Every metric of
tlrec/evaluation/metrics.py and tlrec/evaluation/hits.py is a key. Other keys are allowed and kept.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from tlrec.evaluation.hits import NAMES
from tlrec.evaluation.metrics import CALIBRATION, METRICS
from tlrec.evaluation.results import best_floor_key
from tlrec.runs.schema import Adapter, Count, DataFile, Number, RunFacts, Share

Bounds = Annotated[list[Number], Field(min_length=2, max_length=2)]  # [low, high]


class ByUnit(TypedDict):
    """The interval when rows, or whole users, are left out; None where there is none to give."""

    rows: NotRequired[Bounds | None]  # not of a metric within users
    users: NotRequired[Bounds | None]  # only where users are known


def measured(of, names, **more):
    """A TypedDict of numbers by these names, of a score or of the difference of two, which is paired, and their
    intervals, which have `more` keys. None where a number is not defined, as AUC if only one label occurs."""
    intervals = TypedDict(f"{of}Intervals", dict.fromkeys(names, ByUnit) | more)
    return TypedDict(of, dict.fromkeys(names, Number | None) | {"intervals": intervals})


Measured = measured("Measured", METRICS)


class Floor(Measured):
    difference: Measured  # of the model to this floor


class BestFloor(Measured):
    floor: str  # its name


class Users(TypedDict):
    n: Count | None  # None: users are not known
    source: str | None  # given, or inferred from overlapping windows


class TestFile(DataFile):
    published: str | None  # "Movie test" if the file is the published one, byte for byte


class TestedData(TypedDict):
    test: TestFile
    train: NotRequired[DataFile]  # if floors used it
    valid: NotRequired[DataFile]  # if this run itself selected on it


class EvaluationRun(RunFacts):
    data: TestedData
    adapter: NotRequired[Adapter | None]  # None for a base model alone, and for a baseline


_Measured = measured("_Measured", METRICS, auc_logodds=ByUnit, level=Share)  # level: 0.95
_Differences = TypedDict("_Differences", {best_floor_key(metric): BestFloor | None for metric in METRICS})
_Calibration = TypedDict("_Calibration", dict.fromkeys(CALIBRATION, Number))


class Metrics(_Measured, _Differences, _Calibration):
    """`metrics.json`."""

    format: Literal[1]
    auc_logodds: Share | None
    uauc_users: Count | None  # how many users have both labels; None where users are not known
    answer_mass: Number  # mean probability of the two answers together
    n: Count
    n_positive: Count
    users: Users
    floors: dict[str, Floor]
    run: EvaluationRun


class Prediction(TypedDict):
    """A line of `predictions.jsonl`, in the order of the test file."""

    row: Count  # from 1
    label: int
    score: Number  # as published; computed anew when read
    p_yes: float
    p_no: float
    user: int | str | None
    floors: dict[str, Number]  # {name: score}; {} where not known


# HR@K and NDCG@K, None where K is not below the number of candidates; the mean reciprocal rank; the mean rank, from 1
RankMeasured = measured("RankMeasured", NAMES)


class RankFloor(RankMeasured):
    difference: RankMeasured  # of the model to this floor


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


class Ranking(measured("_Ranking", NAMES, level=Share)):
    """`ranking.json`, which is written once all rows are ranked."""

    format: Literal[1]
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
    floors: dict[str, RankFloor]
    notes: list[str]  # what the numbers do not say
    run: RankingRun


class RankedBy(TypedDict):
    """The first line of `ranks.jsonl`."""

    identity: dict[str, Any]  # all that a rank depends on, see tlrec.runs.same


class Rank(TypedDict):
    """A further line of `ranks.jsonl`, a liked row of the test file."""

    row: Annotated[int, Field(ge=1)]  # in the test file, from 1
    user: int
    target: str
    candidates: Annotated[int, Field(ge=2)]
    rank: Number  # from 1; the middle of equal scores
    better: Count  # candidates with a higher score
    tied: Count  # other candidates with exactly the same score
    truncated: Count  # candidates whose prompt was cut
    floors: dict[str, Annotated[list[Count], Field(min_length=2, max_length=2)]]  # {name: [better, tied]}
