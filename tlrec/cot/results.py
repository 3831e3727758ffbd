"""What has come of the samples: a line while calls are made, three_stages.json with the published fields, and counts."""

import json
import sys
from collections import Counter

from tqdm import tqdm

from tlrec.cot.answers import is_hit
from tlrec.cot.samples import STAGES
from tlrec.files import whole_file


class Progress:
    """One line while calls are made: samples, answers, failures by kind, tokens, cost, Hit@10, time left."""

    def __init__(self, samples, journal, budget):
        self.samples, self.journal, self.budget = {sample.pid: sample for sample in samples}, journal, budget
        self.over = set()  # pids of samples that are complete, or cannot be used
        self.complete = self.hits = 0
        self._count(self.samples)
        self.bar = tqdm(
            total=len(samples),
            initial=len(self.over),
            unit=" samples",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            bar_format="{n_fmt}/{total_fmt} samples [{elapsed}<{remaining}]{postfix}",
        )

    def show(self, pids, batch=None):
        """Update the line from the journal for some samples; `batch` says how far a batch is."""
        before = len(self.over)
        self._count(pids)
        spent, failures = self.budget.spent(), Counter(self.journal.failed.values())
        facts = [
            f"{self.journal.n_answers} answers",
            spent_tokens(self.journal),
            f"{spent:.2f} USD" if spent is not None else "",
            f"Hit@10 {self.hits / self.complete:.3f}" if self.complete else "",
            f"failures{told(failures)}" if failures else "",
            batch,
        ]
        self.bar.set_postfix_str(", ".join(filter(None, facts)), refresh=False)
        self.bar.update(len(self.over) - before)

    def _count(self, pids):
        for pid in [pid for pid in pids if pid not in self.over]:
            if texts := complete_texts(self.samples[pid], self.journal):
                self.complete += 1
                self.hits += _hit(self.samples[pid], texts)
            if texts or self.journal.flaw(pid):
                self.over.add(pid)


def complete_texts(sample, journal):
    """The three answers of a sample, None if there are fewer or if they cannot be used."""
    texts = journal.texts(sample.pid)
    return texts if len(texts) == len(STAGES) and not journal.flaw(sample.pid) else None


def write_three_stages(path, samples, journal, next_prompt):
    """Write the complete samples in the order of the record file.

    Returns counts: samples, hits, substring_hits, and the set of models that answered.
    """
    totals = {"samples": 0, "hits": 0, "substring_hits": 0, "models": set()}
    with whole_file(path) as file:
        file.write("[")
        for sample in samples:
            if not (texts := complete_texts(sample, journal)):
                continue
            hit, substring_hit = _hit(sample, texts), sample.target in texts[2]
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


def spent_tokens(journal):
    return f"{journal.tokens['prompt']:,} in, {journal.tokens['completion']:,} out"


def told(counts):
    """Counts by kind in brackets, or nothing."""
    return f" ({', '.join(f'{count} {kind}' for kind, count in counts.most_common())})" if counts else ""


def _hit(sample, texts):
    return is_hit(texts[-1], sample.history, sample.candidates, sample.target)
