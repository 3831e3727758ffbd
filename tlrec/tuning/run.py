"""One run of a tuner and its folder: whether it is complete, where it continues, what it writes. Imports no torch."""

from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from tlrec import runs
from tlrec.evaluation.results import check_evaluation_dir, record_evaluation
from tlrec.files import one_line_if_full
from tlrec.model.identity import base_identity
from tlrec.tuning.checkpoints import last_checkpoint, remove_checkpoints


class TuningRun:
    """A run's bookkeeping: the `run.json` and checkpoints that it finds, the `run.json` and `metrics.json` it writes.

    script: its name. args: its flags, with `output_dir`, `seed` and shots of this one run. train: the RecordSet that
    it learns from. valid: the EvaluationSet that it is selected on. Raises InputError if its folder holds another run's
    work (unless `args.overwrite`), if another process works there, or if it cannot be written to.

    tuned: whether the folder holds this run's adapter. checkpoint: the Trainer's checkpoint to continue from, or None.
    """

    def __init__(self, script, args, train, valid):
        self.script, self.args = script, args
        self.started = datetime.now(UTC)
        self.data = {"train": runs.describe_records(train), "valid": runs.describe_records(valid)}
        self.data["valid"]["rows_in_file"] = valid.rows_in_file
        self.start_adapter = runs.describe_adapter(args.resume_from_checkpoint)
        self.base = base_identity(args.base_model) or runs.base_said(args.output_dir, args.base_model)
        self.at = runs.RunFolder(args.output_dir, self.identity(), args.overwrite)
        self.folder = self.at.path
        self.tuned, self.checkpoint = self.at.is_complete(), None
        if not self.tuned:
            if args.resume and self.at.was_stopped():
                self.checkpoint = last_checkpoint(self.at.checkpoints)
            if not self.checkpoint:
                self.at.check_free()

    def identity(self):
        """What determines this run's adapter."""
        adapter = self.start_adapter
        files = {f"{name} data": file["sha256"] for name, file in self.data.items()}
        files |= {"start adapter": adapter and adapter["sha256"]}
        return runs.flags_of(vars(self.args)) | files | runs.base_parts(self.base)

    def is_complete(self, test=None):
        """Whether nothing is left to do: tuned and, with an EvaluationSet `test`, scored on it. Prints so if it is.

        Raises InputError if the folder holds the evaluation on other test data (unless `args.overwrite`).
        """
        scored = self.tuned and test and check_evaluation_dir(self.folder, test, self.args.overwrite)
        complete = self.tuned and (scored or not test)
        if complete:
            print(self.at.complete_already())
        return complete

    def begin(self, name):
        """Print that this run of a sweep begins, and note the time."""
        print(f"== {name}: {self.folder}")
        self.started = datetime.now(UTC)

    def train(self, trainer):
        """Tune with a TuningTrainer, from the checkpoint if there is one; else remove what another stopped run left."""
        self.base = base_identity(self.args.base_model)  # known by now, if it had to be downloaded
        self.at.identity = self.identity()
        if trainer.is_world_process_zero() and not self.checkpoint:
            self.at.begin()
        print(f"resuming: {self.checkpoint}" if self.checkpoint else "starting at step 0")
        with one_line_if_full(self.folder):
            trainer.train(resume_from_checkpoint=self.checkpoint)

    def save(self, trainer, setup, examples, **facts):
        """Save the adapter whole, then `run.json`, and then remove the checkpoints.

        setup: the TuningSetup of `trainer`; examples: the Examples it learnt from; facts: see tlrec.runs.schema.
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
                self.data,
                results={
                    "history": trainer.history(),
                    "best_step": trainer.best_step(),
                    "truncated": {"train": examples.truncated, "valid": trainer.scorer.truncated},
                    "dropped": len(examples.dropped),
                    **speed,
                },
                started=self.started,
                stage=self.args.stage,
                identity=self.at.identity,
                start_adapter=self.start_adapter,
                seed=self.args.seed,
                frame=setup.frame.name,
                base_model=self.args.base_model,
                base=self.base,
                scoring=setup.scoring,
                target=self.args.target,
                metric_for_best_model=self.args.metric_for_best_model,
                hardware=setup.hardware,
                **facts,
            )
            remove_checkpoints(self.at.checkpoints)
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
                base=self.base,
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
    with ExitStack() as stack:
        for run in todo:
            stack.enter_context(run.at.locked(first))
        yield
