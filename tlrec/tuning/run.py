"""One run of a tuner and its folder: whether it is complete, where it continues, what it writes. Imports no torch."""

import shutil
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tlrec import runs, same_run
from tlrec.errors import InputError
from tlrec.evaluation.results import check_evaluation_dir, record_evaluation
from tlrec.files import one_line_if_full
from tlrec.locks import check_unlocked, locked
from tlrec.model.identity import base_identity


class TuningRun:
    """A run's bookkeeping: the `run.json` and checkpoints that it finds, the `run.json` and `metrics.json` it writes.

    script: its name. args: its flags, with `output_dir`, `seed` and shots of this one run. train: the RecordFile that
    it learns from. valid: the EvaluationSet that it is selected on. Raises InputError if its folder holds another run's
    work (unless `args.overwrite`), if another process works there, or if it cannot be written to.

    tuned: whether the folder holds this run's adapter. checkpoint: the Trainer's checkpoint to continue from, or None.
    """

    def __init__(self, script, args, train, valid):
        self.script, self.args = script, args
        self.folder = Path(args.output_dir)
        self.started = datetime.now(UTC)
        data = {"train": runs.describe_records(train), "valid": runs.describe_records(valid)}
        data["valid"]["rows_in_file"] = valid.rows_in_file
        self.base = base_identity(args.base_model)
        self.described = same_run.describe(vars(args), data, args.resume_from_checkpoint, self.base)
        check_unlocked(self.folder)
        self.tuned, self.checkpoint = self._found()
        if not self.tuned and not self.checkpoint:
            finished = same_run.finished_run(self.folder)
            other = same_run.differences(finished, self.described) if finished else ()
            same_run.check_output_dir(self.folder, args.overwrite, other)

    def _found(self):
        """(tuned, checkpoint) as the folder is now."""
        tuned = same_run.is_complete(self.folder, self.described)
        resume = self.args.resume and not tuned
        return tuned, same_run.checkpoint_of(self.folder, self.described) if resume else None

    @property
    def checkpoints(self):
        """The folder of the Trainer's checkpoints."""
        return self.folder / same_run.CHECKPOINTS

    def is_complete(self, test=None):
        """Whether nothing is left to do: tuned and, with an EvaluationSet `test`, scored on it. Prints so if it is.

        Raises InputError if the folder holds the evaluation on other test data (unless `args.overwrite`).
        """
        scored = self.tuned and test and check_evaluation_dir(self.folder, test, self.args.overwrite)
        complete = self.tuned and (scored or not test)
        if self.tuned and runs.read_run(self.folder).get("base") is None:
            print(
                f"{self.folder}: its run.json does not say on which base model it was tuned; "
                f"assuming {self.args.base_model}"
            )
        if complete:
            print(f"complete already: {self.folder}")
        return complete

    def begin(self, name):
        """Print that this run of a sweep begins, and note the time."""
        print(f"== {name}: {self.folder}")
        self.started = datetime.now(UTC)

    def train(self, trainer):
        """Tune with a TuningTrainer, from the checkpoint if there is one; else remove what another stopped run left."""
        if trainer.is_world_process_zero() and not self.checkpoint:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            same_run.write_start(self.folder, self.described)
        print(f"resuming: {self.checkpoint}" if self.checkpoint else "starting at step 0")
        with one_line_if_full(self.folder):
            trainer.train(resume_from_checkpoint=self.checkpoint)

    def save(self, trainer, setup, examples, **facts):
        """Save the adapter whole, then `run.json`, and then remove the checkpoints.

        setup: the TuningSetup of `trainer`; examples: the Examples it learnt from; facts: see tlrec.run_format.
        """
        from tlrec.model import adapters

        with one_line_if_full(self.folder):
            adapters.save_adapter(trainer.model, self.folder)
        speed = trainer.speed()
        if trainer.is_world_process_zero():
            runs.write_run(
                self.folder,
                self.script,
                vars(self.args),
                self.described["data"],
                results={
                    "history": trainer.history(),
                    "best_step": trainer.best_step(),
                    "truncated": {"train": examples.truncated, "valid": trainer.scorer.truncated},
                    "dropped": len(examples.dropped),
                    **speed,
                },
                started=self.started,
                stage=self.args.stage,
                start_adapter=self.described["start_adapter"],
                seed=self.args.seed,
                frame=setup.frame.name,
                base_model=self.args.base_model,
                base=self.base or base_identity(self.args.base_model),  # None before the download
                scoring=setup.scoring,
                target=self.args.target,
                metric_for_best_model=self.args.metric_for_best_model,
                hardware=setup.hardware,
                **facts,
            )
            same_run.remove_checkpoints(self.folder)
        best = max(trainer.history(), key=lambda entry: entry["step"] == trainer.best_step())
        print(
            f"best step {best['step']} of {trainer.state.max_steps}: validation auc {best['eval_auc']:.4f}, "
            f"loss {best['eval_loss']:.4f}; {speed['tokens_per_second']} tokens/s, {speed['padding_share']:.1%} padding"
        )
        print(f"adapter: {self.folder}")

    def record(self, scores, test, setup):
        """Write what evaluate.py would for this adapter: `scores` of the EvaluationSet `test`. Prints its AUC."""
        if setup.first:
            metrics = record_evaluation(
                self.folder,
                self.script,
                vars(self.args),
                test,
                scores,
                adapter=self.folder,
                frame=setup.frame.name,
                base_model=self.args.base_model,
                base=self.base or base_identity(self.args.base_model),
                scoring=setup.scoring,
                target=self.args.target,
                hardware=setup.hardware,
            )
            print(f"===== auc: {metrics['auc']} =====")


@contextmanager
def underway(todo, first):
    """Inside the block the folders of these TuningRuns belong to this process. first: whether it is the first of the
    processes that make the runs together; the others lock nothing. Raises InputError if another process works in one of
    the folders, or has worked there since the TuningRun was made."""
    with locked([run.folder for run in todo], first):
        for run in todo:
            if first and run._found() != (run.tuned, run.checkpoint):
                raise InputError(f"{run.folder}: another process has just worked there; run the same command again")
        yield
