"""How a tuning stops and goes on: a checkpoint after a signal, and the best checkpoint of a run that is resumed."""

import signal
from pathlib import Path

import numpy as np
from transformers import EarlyStoppingCallback, TrainerCallback

from tlrec.model.processes import add_up


class KeepsTheBest(TrainerCallback):
    """Finds the best checkpoint of a run that is resumed in a workspace that has been moved; the Trainer would ignore it
    and end with the last weights. If the last weights are to be kept, validates after the last step, too, which need not
    be a multiple of --eval_steps."""

    def on_train_begin(self, args, state, control, **_):
        if state.best_global_step is not None:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

    def on_step_end(self, args, state, control, **_):
        if state.global_step == state.max_steps and args.metric_for_best_model == "eval_last":
            control.should_evaluate = control.should_save = True


class SaveWhenStopped(TrainerCallback):
    """Ends training, with a checkpoint, after the step in which a signal came. Also ends a resumed run after one step
    if early stopping had ended it before the process was killed: the Trainer would train to the next validation."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.had_ended = self.underway = False

    def on_train_end(self, args, state, control, **_):
        self.underway = False

    def on_train_begin(self, args, state, control, **_):
        self.underway = True
        stopping = [one for one in self.trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
        self.had_ended = any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in stopping)

    def on_step_end(self, args, state, control, **_):
        if self.had_ended:  # the weights of this step are forgotten: the best ones are loaded
            control.should_evaluate = control.should_save = control.should_log = False
            control.should_training_stop = True
        if add_up(np.array([float(len(self.trainer.received))]))[0]:  # whichever process received it
            if not self.trainer.received:
                self.trainer.received.append(signal.SIGTERM)
            control.should_save = control.should_training_stop = True
