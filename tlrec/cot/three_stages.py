"""three_stages.json: the complete samples with the published fields."""

import json

from tlrec.cot.answers import is_hit
from tlrec.cot.samples import STAGES
from tlrec.files import whole_file


def write_three_stages(path, samples, journal, next_prompt):
    """Write the samples whose three answers are usable, in the order of the record file, with the published fields.

    Returns counts: samples, hits, substring_hits, and the set of models that answered.
    """
    totals = {"samples": 0, "hits": 0, "substring_hits": 0, "models": set()}
    with whole_file(path) as file:
        file.write("[")
        for sample in samples:
            texts = journal.texts(sample.pid)
            if len(texts) < len(STAGES) or journal.flaw(sample.pid):
                continue
            hit = is_hit(texts[2], sample.history, sample.candidates, sample.target)
            substring_hit = sample.target in texts[2]
            models = sorted({answer.model for answer in journal.answers[sample.pid]})
            totals["samples"] += 1
            totals["hits"] += hit
            totals["substring_hits"] += substring_hit
            totals["models"].update(models)
            row = {
                "PID": sample.pid,
                **{f"Input_{stage + 1}": next_prompt(sample.pid, texts[:stage]) for stage in range(len(STAGES))},
                "Predictions_1": texts[0],
                "Predictions_2": texts[1],
                "Predictions": texts[2],
                "GT": sample.target,
                "Hit": int(hit),
                "Count": totals["hits"],
                "Current_total": totals["samples"],
                "Hit@10": totals["hits"] / totals["samples"],
                "Hit_substring": int(substring_hit),
                "Kind": sample.kind,
                "History": sample.history,
                "Candidates": sample.candidates,
                "Models": models,
            }
            file.write(("\n" if totals["samples"] == 1 else ",\n") + json.dumps(row, indent=2))
        file.write("\n]\n")
    return totals
