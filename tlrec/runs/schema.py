"""The format of `run.json`: how the output beside it was made.

There is one per output folder, written with `tlrec.runs.write_run`. The tuners write it last, so that a folder which
has one is complete. `tlrec.runs.read_run` reads it and checks it against `Run`. Unknown values are null; facts that not
every script has are missing where it has none. Other keys are allowed and kept.

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


class Results(TypedDict, total=False):
    """Numbers that the script printed."""

    history: list[Validation] | None  # of a tuner, in order of steps
    best_step: Count | None  # of a tuner: the step whose weights were kept
    truncated: dict[str, Count] | None  # {"train", "valid" or "test": rows with a cut prompt}


class Adapter(TypedDict):
    """What `tlrec.runs.describe_adapter` returns. "run" has its own start adapter, so the whole chain of stages."""

    path: str  # as given
    sha256: str  # of the weights
    config_sha256: str  # of adapter_config.json, without the path of the base model
    run: "Run | None"  # its run.json; None: these scripts did not make it


class Base(TypedDict):
    """Identity of a base model, `tlrec.model.identity.base_identity`: digests of its folder's content."""

    config: str
    tokenizer: str
    weights: str


class Scoring(TypedDict, total=False):
    """The settings that a score depends on besides record and weights, as used: "auto" is replaced by what was chosen.
    A tuner's are in its `run.json`, and every evaluation takes them from there; those of an evaluation are in its
    `metrics.json`."""

    frame: str | None
    cutoff_len: Count | None
    dtype: str | None
    quantization: str | None
    attention: str | None
    merge: bool | None  # whether LoRA may be added into the base's weights


class Facts(TypedDict, total=False):
    """What a result is, as far as its script has such facts."""

    identity: dict[str, Any]  # what determines the result, see tlrec.runs.same
    hardware: str | None  # in words
    stage: str | None  # curriculum stage: "cot", "source", "few-shot" or another name; or "baseline"
    method: str | None  # name of a baseline
    source: str | None  # name of the source domain, for the stage "source"
    target: str | None  # name of the target domain
    shots: Annotated[int, Field(ge=-1, lt=2**53)] | None  # -1: all rows
    seed: Annotated[int, Field(ge=-(2**53), lt=2**53)] | None
    frame: str | None  # the prompt frame
    base_model: str | None
    base: Base | None
    scoring: Scoring | None


class RunFacts(Facts):
    """What `run.json` and the "run" of a `metrics.json` have in common."""

    script: str  # "ins_tuning.py"
    arguments: dict[str, Any]  # all flags with their values, as given
    started: str  # UTC, ISO 8601
    ended: str
    seconds: Number  # wall clock
    git: Git | None  # None outside a git checkout
    versions: dict[str, str | None]  # of Python, torch, transformers, peft ...
    platform: dict[str, Any]  # "system", "cpus"
    results: Results


class Run(RunFacts):
    """`run.json`."""

    format: int
    data: dict[str, DataFile]  # "train", "valid", "test"
    start_adapter: NotRequired[Adapter | None]  # the adapter that tuning began with; None for a fresh one
