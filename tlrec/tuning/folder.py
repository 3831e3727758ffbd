"""The folder of one run of a tuner: what determines its adapter, where it goes on, what it writes. Imports no torch."""

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path

from tlrec import runs
from tlrec.errors import InputError
from tlrec.evaluation.results import check_evaluation_dir, record_evaluation
from tlrec.files import one_line_if_full, read_json, write_json
from tlrec.model.identity import base_identity
from tlrec.model.prompts import prompt_parts


def runs_of(args):
    """The flags of each run of a sweep over `args.sample` and `args.seed`, its folder in `output_dir`."""
    several = len(args.seed) * len(args.sample) > 1
    for seed in args.seed:
        for shots in args.sample:
            folder = Path(args.output_dir) / f"{seed}_{shots}" if several else args.output_dir
            yield argparse.Namespace(**{**vars(args), "seed": seed, "sample": shots, "output_dir": folder})


class TuningFolder(runs.RunFolder):
    """The RunFolder of one run.

    script: its name. args: its flags, with `output_dir`, `seed` and shots of this one run. train: the records that it
    learns from. valid: the EvaluationSet that it is selected on; test: one that it is scored on, or None. Raises
    InputError if the folder holds another run's work (unless `args.overwrite`), if another process works there, or if it
    cannot be written to.
    """

    def __init__(self, script, args, train, valid, test=None):
        self.script, self.args, self.test = script, args, test
        self.data = {"train": runs.describe_records(train), "valid": runs.describe_records(valid)}
        self.data["valid"]["rows_in_file"] = valid.rows_in_file
        self.start_adapter = runs.describe_adapter(args.resume_from_checkpoint)
        files = {f"{name} data": file["sha256"] for name, file in self.data.items()}
        frame = args.prompt_frame or runs.frame_of(args.resume_from_checkpoint, args.base_model) or "alpaca"
        inputs = files | runs.adapter_parts(self.start_adapter, "start adapter") | prompt_parts(frame)
        base = base_identity(args.base_model) or runs.base_said(args.output_dir, args.base_model)
        super().__init__(args.output_dir, runs.flags_of(vars(args)) | inputs | runs.base_parts(base), args.overwrite)
        if not self.is_tuned() and not self._stopped_at():
            self.check_free()

    def is_tuned(self):
        """Whether this run's adapter is here."""
        return super().is_complete()

    def is_complete(self):
        """Whether nothing is left to do: tuned and, with a test set, scored. Prints so, and with --check_only what is to
        do. Raises InputError if the folder holds the evaluation on other data (unless it may be overwritten)."""
        scored = self.test is None or check_evaluation_dir(self.path, self.test, self.overwrite)
        complete = self.is_tuned() and scored
        if complete:
            print(self.complete_already())
        elif self.args.check_only:
            print(f"checked: {self.path}")
        return complete

    def _stopped_at(self):
        """The checkpoint that this run goes on from, None if there is none, or without --resume."""
        return last_checkpoint(self.checkpoints) if self.args.resume and self.was_stopped() else None

    def tune(self, trainer):
        """Tune with a TuningTrainer, from the checkpoint if there is one; else remove what another stopped run left."""
        self.base = base_identity(self.args.base_model)  # known by now, if it had to be downloaded
        self.identity |= runs.base_parts(self.base)
        checkpoint = self._stopped_at()
        trainer.accelerator.wait_for_everyone()  # until all processes have looked
        if trainer.is_world_process_zero() and not checkpoint:
            self.begin()
        with one_line_if_full(self.path):
            trainer.train(resume_from_checkpoint=checkpoint)

    def save(self, trainer, model, rows):
        """Save the adapter whole, its prompt frame, then `run.json`, and then remove the checkpoints.

        model: the TuningModel of `trainer`; rows: what it learnt from.
        """
        from tlrec.model import adapters
        from tlrec.tuning.rows import cut

        with one_line_if_full(self.path):
            adapters.save_adapter(trainer.model, self.path)
        results = trainer.results()
        if trainer.is_world_process_zero():
            write_json(self.path / runs.FRAME_FILE, asdict(model.frame))
            runs.write_run(
                self.path,
                self.script,
                vars(self.args),
                self.data,
                results=results | {"truncated": {"train": cut(rows), "valid": trainer.scorer.truncated}},
                started=trainer.started,
                stage=self.args.stage,
                source=getattr(self.args, "source", None),
                shots=getattr(self.args, "sample", None),
                start_adapter=self.start_adapter,
                seed=self.args.seed,
                metric_for_best_model=self.args.metric_for_best_model,
                identity=self.identity,
                **self._facts(model),
            )
            remove_checkpoints(self.checkpoints)
        (best,) = (entry for entry in results["history"] if entry["step"] == results["best_step"])
        print(
            f"best step {best['step']} of {trainer.state.max_steps}: validation auc {best['eval_auc']:.4f}, "
            f"loss {best['eval_loss']:.4f}; {results['tokens_per_second']} tokens/s, "
            f"{results['padding_share']:.1%} padding"
        )
        print(f"adapter: {self.path}")

    def score(self, tuned, model):
        """Score the test set and write what evaluate.py would. tuned: the model with this run's adapter; model: the
        TuningModel. Prints the AUC."""
        scorer = model.scorer(self.test.records, model.frame.name, self.args.cutoff_len)
        scores = scorer.score(tuned, progress="test")
        if model.first:
            arguments, facts = vars(self.args), self._facts(model)
            prompt = prompt_parts(self.path / runs.FRAME_FILE)
            identity = runs.identity_of_scores(self.test, self.path, facts["base"], facts["scoring"], prompt)
            metrics = record_evaluation(
                self.path, self.script, arguments, self.test, scores, adapter=self.path, identity=identity, **facts
            )
            print(f"===== auc: {metrics['auc']} =====")

    def _facts(self, model):
        return {
            "frame": model.frame.name,
            "base_model": self.args.base_model,
            "base": base_identity(self.args.base_model),
            "scoring": model.scoring,
            "target": self.args.target,
            "hardware": model.hardware,
        }


# --------------------------------------------------- the Trainer's checkpoints of a run that has not ended


def last_checkpoint(folder):
    """The newest complete checkpoint in `folder`, as a string; None if there is none. Raises InputError if the
    checkpoint of the best validation before it is gone.

    The Trainer writes trainer_state.json last, so a checkpoint whose state can be read is complete.
    """
    for path in sorted(Path(folder).glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2])):
        try:
            state = read_json(path / "trainer_state.json")
        except InputError:
            continue
        best = path.with_name(f"checkpoint-{state.get('best_global_step')}")
        if state.get("best_global_step") is not None and not best.exists():
            raise InputError(
                f"{folder}: {best.name}, the checkpoint of the best validation, is gone, so the run that was stopped "
                "there cannot continue; remove that folder to start again"
            )
        return str(path)
    return None


def remove_checkpoints(folder):
    """Remove the checkpoints of a run that is complete. TensorBoard's logs, which are among them in `runs`, are first
    copied beside them."""
    folder = Path(folder)
    if (folder / "runs").exists():
        shutil.copytree(folder / "runs", folder.parent / "runs", dirs_exist_ok=True)
    shutil.rmtree(folder)
