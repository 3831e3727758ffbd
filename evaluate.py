"""P(Yes) for every row of a test set -> AUC, its interval, and the floors it has to be compared with.

    python evaluate.py --base_model base_model/llama-7b/ --test_data_path rec_data/movie/test.json \
        --lora_weights instruction_model/movie/alpaca_stage123_instrument

Reads  labelled preference records, a base model, and no, one or several adapters (the base is loaded once).
Writes metrics.json and predictions.jsonl into each adapter's folder, or into --output_dir.
Prints a table and the line `===== auc: <value> =====` for each adapter.
"""

import argparse

from tlrec import runs
from tlrec.data.records import RecordFile
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.results import check_evaluation_dir, record_evaluation, results_table
from tlrec.model.checks import check_adapter, check_base_model
from tlrec.model.prompts import FRAME_NAMES, load_frame


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument_group("model and data").add_argument
    add("--base_model", default="base_model/llama-7b/", help="folder or hub name of a causal LM (default: %(default)s)")
    add("--lora_weights", nargs="+", default=[], help="adapter folders (default: none, the base model alone)")
    add("--test_data_path", required=True, help="labelled records to score")
    add("--train_data_path", help="labelled records of the train split, for the floors that know the items")
    add(
        "--output_dir", help="folder of the results (default: the adapter's; for the base model alone they are printed)"
    )
    add = parser.add_argument_group("what shapes a score").add_argument
    add("--prompt_frame", choices=FRAME_NAMES, help="(default: the adapter's, else alpaca)")
    add("--cutoff_len", type=int, default=512, help="tokens of a record (default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="(default: %(default)s)")
    add("--quantization", choices=["none", "8bit", "4bit"], default="none", help="of the base (default: %(default)s)")
    add = parser.add_argument_group("machine").add_argument
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--token_budget", type=int, help="tokens in one forward pass (default: by device)")
    add("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    add = parser.add_argument_group("bookkeeping").add_argument
    add("--target", help="name of the target domain in metrics.json")
    add("--check_only", action="store_true", help="check flags, data and adapters, and stop before anything is loaded")
    add("--overwrite", action="store_true", help="replace an evaluation on other test data")
    return parser.parse_args()


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    check_base_model(args.base_model, args.cutoff_len)
    for adapter in args.lora_weights:
        check_adapter(adapter, "--lora_weights")
    train = RecordFile(args.train_data_path) if args.train_data_path else None
    test = EvaluationSet(args.test_data_path, train)
    if args.output_dir and len(args.lora_weights) > 1:
        raise InputError("--output_dir takes one adapter; without it each adapter's results go into its own folder")
    jobs = []  # (adapter, folder of its results, frame it was tuned with)
    for adapter in args.lora_weights or [None]:
        folder = args.output_dir or adapter
        if folder:
            check_evaluation_dir(folder, test, args.overwrite)
        frame = args.prompt_frame or runs.frame_of(adapter, args.base_model) or "alpaca"
        jobs.append((adapter, folder, frame))
    if args.check_only:
        print(f"checked: {len(jobs)} evaluations of {len(test)} rows")
        return

    # 2. Import the heavy libraries; find the machine's means
    from tlrec.model.scoring import Scorer
    from tlrec.model.setup import ModelSetup

    setup = ModelSetup(args.base_model, args.device, args.dtype, args.quantization, None, args.trust_remote_code)

    # 3. Records to token ids, once for each frame
    scorers = {}
    for frame in dict.fromkeys(frame for *_, frame in jobs):
        scorers[frame] = Scorer(setup.tokenizer, test.records, load_frame(frame, setup.tokenizer), args.cutoff_len)

    # 4. Base model, once for all adapters, which are checked tensor by tensor before it is loaded
    for adapter in args.lora_weights:
        setup.check_adapter(adapter)

    for adapter, folder, frame in jobs:
        # 5. One forward pass over all rows
        scores = scorers[frame].score(setup.attach(adapter), args.token_budget, progress="scoring")
        print(
            f"{adapter or 'base model alone'}: {len(test)} rows in {scores.seconds:.1f} s "
            f"({len(test) / scores.seconds:.1f} rows/s), {scores.truncated} with a cut prompt; frame: {frame}"
        )

        # 6. Numbers, beside their floors
        if setup.first:
            facts = {"frame": frame, "base_model": args.base_model, "target": args.target, "hardware": setup.hardware}
            metrics = record_evaluation(folder, "evaluate.py", vars(args), test, scores, adapter, **facts)
            print(results_table(metrics))
            print(f"===== auc: {metrics['auc']} =====")


if __name__ == "__main__":
    with one_line_errors():
        main()
