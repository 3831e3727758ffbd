"""What the workers that tune share: how a run of transformers' Trainer is timed, and what is read from its log."""

import time

from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Times the steps, from the beginning of training to its end, for which every trainer has set itself up alike.

    answer: {"seconds", "cpu_seconds", "losses", "grad_norms"}, the last two with one number for each step.
    """

    def on_train_begin(self, args, state, control, **_):
        self.begin, self.cpu_begin = time.perf_counter(), time.process_time()

    def on_train_end(self, args, state, control, **_):
        steps = [step for step in state.log_history if "loss" in step]
        self.answer = {
            "seconds": time.perf_counter() - self.begin,
            "cpu_seconds": time.process_time() - self.cpu_begin,
            "losses": [step["loss"] for step in steps],
            "grad_norms": [step["grad_norm"] for step in steps],
        }
