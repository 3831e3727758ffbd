"""P(Yes) for every row of a test set -> AUC, its interval, and the floors it has to be compared with.

    python evaluate.py --base_model base_model/llama-7b/ --test_data_path rec_data/movie/test.json \
        --lora_weights instruction_model/movie/alpaca_stage123_instrument

Reads  labelled preference records, a base model, and no, one or several adapters (the base is loaded once).
Writes metrics.json and predictions.jsonl into each adapter's folder, or into --output_dir.
Prints a table and the line `===== auc: <value> =====` for each adapter.
"""

import argparse

from tlrec import runs
from tlrec.data.records import check_two_classes, read_records
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.results import check_evaluation_dir, record_evaluation
from tlrec.model.checks import check_adapter, check_base_model
from tlrec.model.prompts import FRAME_NAMES, load_frame


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--base_model", default="base_model/llama-7b/", help="folder or hub name of a causal LM (default: %(default)s)")
    add("--lora_weights", nargs="+", default=[], help="adapter folders (default: none, the base model alone)")
    add("--test_data_path", required=True, help="labelled records to score")
    add("--train_data_path", help="labelled records of the train split, for the floors that know the items")
    add(
        "--output_dir", help="folder of the results (default: the adapter's; for the base model alone they are printed)"
    )
    add("--prompt_frame", choices=FRAME_NAMES, help="(default: the adapter's, else alpaca)")
    add("--cutoff_len", type=int, default=512, help="tokens of a record (default: %(default)s)")
    add("--token_budget", type=int, help="tokens in one forward pass (default: by device)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="(default: %(default)s)")
    add("--quantization", choices=["none", "8bit", "4bit"], default="none", help="of the base (default: %(default)s)")
    add("--trust_remote_code", action="store_true", help="run code that comes with the base model")
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
    records = read_records(args.test_data_path)
    check_two_classes(records, args.test_data_path)
    train_records = read_records(args.train_data_path) if args.train_data_path else None
    if args.output_dir and len(args.lora_weights) > 1:
        raise InputError("--output_dir takes one adapter; without it each adapter's results go into its own folder")
    jobs = []  # (adapter, folder of its results, frame it was tuned with)
    for adapter in args.lora_weights or [None]:
        folder = args.output_dir or adapter
        if folder:
            check_evaluation_dir(folder, args.test_data_path, args.overwrite)
        frame = args.prompt_frame or runs.frame_of(adapter, args.base_model) or "alpaca"
        jobs.append((adapter, folder, frame))
    if args.check_only:
        print(f"checked: {len(jobs)} evaluations of {len(records)} rows")
        return

    # 2. Import the heavy libraries
    from accelerate import PartialState

    from tlrec.evaluation.results import results_table
    from tlrec.model import (
        adapters,  # before the others: it quiets their warnings
        base_models,  # before the others: it quiets their warnings
    )
    from tlrec.model.processes import only_the_first_speaks
    from tlrec.model.scoring import Scorer

    device = base_models.resolve_device(args.device)
    dtype = base_models.resolve_dtype(args.dtype, device)
    only_the_first_speaks()

    # 3. Records to token ids, once for each frame
    tokenizer = base_models.load_tokenizer(args.base_model, args.trust_remote_code)
    frames = dict.fromkeys(frame for *_, frame in jobs)
    scorers = {frame: Scorer(tokenizer, records, load_frame(frame, tokenizer), args.cutoff_len) for frame in frames}

    # 4. Base model, once for all adapters, which are checked tensor by tensor before it is loaded
    for adapter in args.lora_weights:
        adapters.check_adapter_on(args.base_model, adapter, args.trust_remote_code)
    model = base_models.load_base_model(
        args.base_model, device, dtype, args.quantization, trust_remote_code=args.trust_remote_code
    )

    for adapter, folder, frame in jobs:
        # 5. One forward pass over all rows
        if adapter:
            model = adapters.attach_adapter(model, adapter)
        scores = scorers[frame].score(model, args.token_budget, progress="scoring")
        print(
            f"{adapter or 'base model alone'}: {len(records)} rows in {scores.seconds:.1f} s "
            f"({len(records) / scores.seconds:.1f} rows/s), {scores.truncated} with a cut prompt; frame: {frame}"
        )

        # 6. Numbers, beside their floors
        if PartialState().is_main_process:
            metrics = record_evaluation(
                folder,
                "evaluate.py",
                vars(args),
                args.test_data_path,
                records,
                scores,
                args.train_data_path,
                train_records,
                adapter,
                frame=frame,
                base_model=args.base_model,
                target=args.target,
                hardware=base_models.hardware(device),
            )
            print(results_table(metrics))
            print(f"===== auc: {metrics['auc']} =====")
        if adapter:
            model = model.unload()


if __name__ == "__main__":
    with one_line_errors():
        main()
