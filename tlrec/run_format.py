"""The format of `run.json`: how the output beside it was made.

There is one per output folder, written with `tlrec.runs.write_run`. The tuners write it last, so that a folder which
has one is complete. `tlrec.runs.read_run` reads it and checks it against `Run`. Unknown values are null. Keys marked
NotRequired are missing in old files, or only some scripts write them. Other keys are allowed and kept.

Arguments are written as given. The environment is never written, so API keys stay out as long as no flag takes one.
"""

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class DataFile(TypedDict):
    path: str  # as given
    sha256: str
    rows: Annotated[Count, Field(ge=1)]


class Git(TypedDict):
    revision: str
    dirty: bool  # whether the checkout had changes


class Validation(TypedDict):
    step: Count  # optimizer steps
    eval_auc: Share | None
    eval_loss: Number | None  # None: not finite


class Results(TypedDict):
    """Numbers that the script printed."""

    history: NotRequired[list[Validation] | None]  # of a tuner, in order of steps
    best_step: NotRequired[Count | None]  # of a tuner: the step whose weights were kept
    truncated: NotRequired[dict[str, Count] | None]  # {"train", "valid" or "test": rows with a cut prompt}


class Adapter(TypedDict):
    """What `tlrec.runs.describe_adapter` returns. "run" has its own start adapter, so the whole chain of stages."""

    path: str  # as given
    sha256: str  # of the weights
    run: "Run | None"  # its run.json; None: these scripts did not make it


class Base(TypedDict):
    """Identity of a base model, `tlrec.model.identity.base_identity`: digests of its folder's content."""

    config: str
    tokenizer: str
    weights: str


class Scoring(TypedDict):
    """The settings that a score depends on besides record and weights, as used: "auto" is replaced by what was chosen.
    A tuner's are in its `run.json`, and every evaluation takes them from there; those of an evaluation are in its
    `metrics.json`."""

    frame: NotRequired[str | None]
    cutoff_len: NotRequired[Count | None]
    dtype: NotRequired[str | None]
    quantization: NotRequired[str | None]
    attention: NotRequired[str | None]


class RunFacts(TypedDict):
    """What `run.json` and the "run" of a `metrics.json` have in common."""

    script: str  # "ins_tuning.py"
    arguments: dict[str, Any]  # all flags with their values, as given
    started: NotRequired[str | None]  # UTC, ISO 8601
    ended: NotRequired[str | None]
    seconds: NotRequired[Number | None]  # wall clock
    git: NotRequired[Git | None]  # None outside a git checkout
    versions: NotRequired[dict[str, str | None]]  # of Python, torch, transformers, peft ...
    platform: NotRequired[dict[str, Any]]  # "system", "cpus"
    hardware: NotRequired[list[str] | str | None]  # in words; a list of GPUs or none in older runs
    results: NotRequired[Results]
    stage: NotRequired[str | None]  # curriculum stage: "cot", "source", "few-shot" or another name; or "baseline"
    method: NotRequired[str | None]  # name of a baseline
    source: NotRequired[str | None]  # name of the source domain, for the stage "source"
    target: NotRequired[str | None]  # name of the target domain
    shots: NotRequired[Annotated[int, Field(ge=-1, lt=2**53)] | None]  # -1: all rows
    seed: NotRequired[Annotated[int, Field(ge=-(2**53), lt=2**53)] | None]
    frame: NotRequired[str | None]  # the prompt frame
    base_model: NotRequired[str | None]
    base: NotRequired[Base | None]
    scoring: NotRequired[Scoring | None]


class Run(RunFacts):
    """`run.json`."""

    data: dict[str, DataFile]  # "train", "valid", "test"
    start_adapter: NotRequired[Adapter | None]  # the adapter that tuning began with; None for a fresh one
