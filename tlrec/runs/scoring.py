"""The settings that a score depends on besides record and weights. They travel with the adapter, in its run.json."""

from pathlib import Path

from tlrec.runs.record import RUN, read_run

SCORING = {"frame": "alpaca", "cutoff_len": 512, "dtype": "auto", "quantization": "none", "attention": "auto"}


def scoring_of(*folders):
    """The settings that scores depend on, from the first of these folders whose run.json has them; {} if none has.

    folders: of adapters, or of models with an adapter merged into them; None and "" are skipped. Returns a dict with
    keys of SCORING, whose values are the scripts' defaults.
    """
    for folder in folders:
        if folder and (Path(folder) / RUN).exists():
            found = read_run(folder).get("scoring") or {}
            if found := {name: found[name] for name in SCORING if found.get(name) not in (None, "auto")}:
                return found
    return {}


def scoring_said(scoring, kept):
    """One line: the settings that the scores depend on, `scoring`, and those that the adapter was tuned with, `kept`,
    if they differ."""
    words = ", ".join(f"{name} {scoring[name]}" for name in SCORING if name != "frame")
    other = ", ".join(f"{name} {kept[name]}" for name in kept if kept[name] != scoring[name])
    return f"scored with {words}" + (f"; tuned with {other}" if other else "")


def frame_of(*folders):
    """Name of the prompt frame in `scoring_of(*folders)`; None if it has none."""
    return scoring_of(*folders).get("frame")
