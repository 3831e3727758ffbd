"""The progress line shown while calls are made, and its wording."""

import sys
from collections import Counter

from tqdm import tqdm

from tlrec.cot.answers import is_hit
from tlrec.cot.samples import STAGES


class Progress:
    """One line while calls are made: samples, answers, failures by kind, tokens, cost, Hit@10, time left."""

    def __init__(self, samples, journal, budget):
        self.samples, self.journal, self.budget = {sample.pid: sample for sample in samples}, journal, budget
        self.hits = {}  # pid of a sample that is over -> whether it is a hit, None if it cannot be used
        self._count(self.samples)
        self.bar = tqdm(
            total=len(samples),
            initial=len(self.hits),
            unit=" samples",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            bar_format="{n_fmt}/{total_fmt} samples [{elapsed}<{remaining}]{postfix}",
        )

    def show(self, pids, batch=None):
        """Update the line from the journal for some samples; `batch` says how far a batch is."""
        before = len(self.hits)
        self._count(pids)
        spent, failures = self.budget.spent(), Counter(self.journal.failed.values())
        hits = [hit for hit in self.hits.values() if hit is not None]
        facts = [
            f"{self.journal.n_answers} answers",
            spent_tokens(self.journal),
            f"{spent:.2f} USD" if spent is not None else "",
            f"Hit@10 {sum(hits) / len(hits):.3f}" if hits else "",
            f"failures{told(failures)}" if failures else "",
            batch,
        ]
        self.bar.set_postfix_str(", ".join(filter(None, facts)), refresh=False)
        self.bar.update(len(self.hits) - before)

    def _count(self, pids):
        for pid in [pid for pid in pids if pid not in self.hits]:
            texts, sample = self.journal.texts(pid), self.samples[pid]
            if self.journal.flaw(pid):
                self.hits[pid] = None
            elif len(texts) == len(STAGES):
                self.hits[pid] = is_hit(texts[-1], sample.history, sample.candidates, sample.target)


def spent_tokens(journal):
    tokens = journal.tokens
    return (
        f"{tokens['prompt'] + tokens['batch_prompt']:,} in, {tokens['completion'] + tokens['batch_completion']:,} out"
    )


def told(counts):
    """Counts by kind in brackets, or nothing."""
    return f" ({', '.join(f'{count} {kind}' for kind, count in counts.most_common())})" if counts else ""
