"""The result of scoring with a language model, a served one, or a classical baseline. Imports no torch."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass
class Scores:
    """The result of one pass over n records.

    p_yes, p_no: (n,) float64, probabilities of the two first answer tokens over the whole vocabulary.
    truncated: prompts that were cut. seconds: wall clock. loss: mean cross-entropy (nats) over the labelled tokens, by
    default prompt, answer and EOS, as published; or None. tokens: token positions that went through the model, or None.
    """

    p_yes: np.ndarray
    p_no: np.ndarray
    truncated: int
    seconds: float
    loss: float | None = None
    tokens: int | None = None

    @property
    def log_p_yes(self):
        return np.log(self.p_yes)

    @property
    def log_p_no(self):
        return np.log(self.p_no)

    def mean_of(self, orders):
        """Scores of n / orders records, each scored in `orders` orders of its lists, all records in one order after all
        in another: the means of the probabilities. truncated: prompts of one order, on average, rounded up."""
        p_yes, p_no = (p.reshape(orders, -1).mean(axis=0) for p in (self.p_yes, self.p_no))
        return replace(self, p_yes=p_yes, p_no=p_no, truncated=-(-self.truncated // orders))
