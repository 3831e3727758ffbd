"""The settings that a score depends on besides record and weights. They travel with the adapter, in its run.json."""

from pathlib import Path

from tlrec.files import read_json
from tlrec.runs.record import FRAME_FILE, RUN, describe_adapter, read_run
from tlrec.runs.same import adapter_parts, base_parts

SCORING = {"frame": "alpaca", "cutoff_len": 512, "dtype": "auto", "quantization": "none", "attention": "auto"}
HOW = ("dtype", "quantization", "attention")  # of these, how a model is loaded


def scoring_of(*folders):
    """The settings that scores depend on, from the first of these folders whose run.json has them; {} if none has.

    folders: of adapters, or of models with an adapter merged into them; None and "" are skipped. Returns a dict with
    keys of SCORING, whose values are the scripts' defaults; the frame may be the path of a file.
    """
    for folder in folders:
        if folder and (Path(folder) / RUN).exists():
            found = read_run(folder).get("scoring") or {}
            if (frame := Path(folder) / FRAME_FILE).exists():
                # the text that it was tuned with, whatever has become of its name
                found = found | {"frame": str(frame)}
            if found := {name: found[name] for name in SCORING if found.get(name) not in (None, "auto")}:
                return found
    return {}


def scoring_said(scoring, kept):
    """One line: the settings that the scores depend on, `scoring`, and those that the adapter was tuned with, `kept`,
    if they differ."""
    scoring, kept = _frame_named(scoring), _frame_named(kept)
    words = ", ".join(f"{name} {scoring[name]}" for name in SCORING if name != "frame")
    other = ", ".join(f"{name} {kept[name]}" for name in kept if kept[name] != scoring[name])
    return f"scored with {words}" + (f"; tuned with {other}" if other else "")


def _frame_named(scoring):
    """These settings with the name of the frame in place of the path of its file."""
    frame = scoring.get("frame")
    return scoring | {"frame": read_json(frame)["name"]} if frame and Path(frame).name == FRAME_FILE else scoring


def frame_of(*folders):
    """The prompt frame of `scoring_of(*folders)`, its name or the path of its file; None if there is none."""
    return scoring_of(*folders).get("frame")


def identity_of_scores(test, adapter, base, scoring, prompt):
    """What determines the scores of an EvaluationSet, see tlrec.runs.same.

    adapter: its folder, None for the base model alone. base: identity of the base model. scoring: the settings of
    SCORING, as used. prompt: `tlrec.model.prompts.prompt_parts` of the frame.
    """
    data = {"test data": test.sha256, "train data": test.train and test.train.sha256}
    settings = {f"--{name}": scoring[name] for name in ("cutoff_len", "dtype", "quantization")}
    settings |= {"--merge": scoring.get("merge", True), "--orders": scoring.get("orders", 1)}
    return data | adapter_parts(describe_adapter(adapter), "adapter") | base_parts(base) | settings | prompt
