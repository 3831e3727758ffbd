"""The progress line shown while calls are made, and its wording."""

import sys
from collections import Counter

from tqdm import tqdm

from tlrec.cot.answers import is_hit
from tlrec.cot.samples import STAGES


class Progress:
    """One line while calls are made: samples, answers, failures by kind, tokens, cost, Hit@10, time left."""

    def __init__(self, samples, journal, budget):
        self.journal, self.budget = journal, budget
        self.open = {sample.pid: sample for sample in samples}
        self.complete = self.hits = 0
        self._count(list(self.open))
        self.bar = tqdm(
            total=len(samples),
            initial=len(samples) - len(self.open),
            unit=" samples",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            bar_format="{n_fmt}/{total_fmt} samples [{elapsed}<{remaining}]{postfix}",
        )

    def show(self, pids, batch=None):
        """Update the line from the journal for some samples; `batch` says how far a batch is."""
        before = len(self.open)
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
        self.bar.update(before - len(self.open))

    def _count(self, pids):
        for pid in pids:
            texts, flaw = self.journal.texts(pid), self.journal.flaw(pid)
            if pid in self.open and (len(texts) == len(STAGES) or flaw):
                sample = self.open.pop(pid)
                if not flaw:
                    self.complete += 1
                    self.hits += is_hit(texts[-1], sample.history, sample.candidates, sample.target)


def spent_tokens(journal):
    tokens = journal.tokens
    return (
        f"{tokens['prompt'] + tokens['batch_prompt']:,} in, {tokens['completion'] + tokens['batch_completion']:,} out"
    )


def told(counts):
    """Counts by kind in brackets, or nothing."""
    return f" ({', '.join(f'{count} {kind}' for kind, count in counts.most_common())})" if counts else ""
