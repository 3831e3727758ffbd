"""Score a record file with a served model: P(Yes) and P(No) from vLLM's log-probabilities, and evaluate.py's table.

    vllm serve base_model/movie-7b --dtype bfloat16 --generation-config vllm      # on the machine with the GPU
    OPENAI_BASE_URL=http://localhost:8000/v1 python base_model/score_served.py \
        --model_folder base_model/movie-7b --test_data_path rec_data/movie/test.json

Reads  labelled records; tokenizer and prompt_frame.json from the folder that export_model.py wrote, not the weights;
       from the environment OPENAI_BASE_URL and, if the server needs a key, OPENAI_API_KEY.
Prints a table and the line `===== auc: <value> =====`; --output_dir also gets metrics.json and predictions.jsonl.

tlrec/scoring/served.py describes the requests, and what a server must be able to answer.
"""

import argparse
import asyncio
import os
import time
from contextlib import nullcontext

import numpy as np

from tlrec.data.records import RecordSet
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.results import check_evaluation_dir, record_evaluation, results_table
from tlrec.runs import check_unlocked, locked
from tlrec.scoring.scores import Scores
from tlrec.scoring.served import ATTEMPTS, SECONDS, ask_server, load_encoder, read_prompt_frame


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model_folder", required=True, help="folder that export_model.py wrote; the weights are not needed")
    add("--test_data_path", required=True, help="labelled records to score")
    add(
        "--train_data_path",
        help="labelled records of the train split, for the baselines without training that use items",
    )
    add("--served_name", help="name of the model on the server (default: the only one it serves)")
    add("--output_dir", help="folder of the results (default: they are printed)")
    add("--target", help="name of the target domain in metrics.json")
    add("--overwrite", action="store_true", help="replace an evaluation on other test data")
    return parser.parse_args()


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before a library is imported or a request is sent
    prompt_frame = read_prompt_frame(args.model_folder, "--model_folder")
    test = EvaluationSet(args.test_data_path, RecordSet(args.train_data_path) if args.train_data_path else None)
    if args.output_dir:
        check_unlocked(args.output_dir)
        check_evaluation_dir(args.output_dir, test, args.overwrite)
    if not os.environ.get("OPENAI_BASE_URL"):
        raise InputError("OPENAI_BASE_URL is not set; for vLLM on this machine it is http://localhost:8000/v1")
    from tlrec.cot.client import Service, api_key

    service = Service(None, SECONDS, ATTEMPTS, key=api_key(default="none"))  # vLLM needs no key

    # 2. Records to token ids, as in tuning
    encoder = load_encoder(args.model_folder, prompt_frame)
    prompts = encoder.prompts(test.records)

    # 3. Ask the server
    started = time.perf_counter()
    served_name, log_p = asyncio.run(ask_server(service, args.served_name, prompts.input_ids, encoder.answer_ids))
    scores = Scores(*np.exp(log_p.T), prompts.truncated, time.perf_counter() - started)
    print(
        f"{served_name} at {service.url.rstrip('/')}: {len(test)} rows in {scores.seconds:.1f} s "
        f"({len(test) / scores.seconds:.1f} rows/s), {scores.truncated} with a cut prompt; frame: {encoder.frame.name}"
    )

    # 4. Metrics, beside those of rules without training
    with locked(args.output_dir) if args.output_dir else nullcontext():
        metrics = record_evaluation(
            args.output_dir,
            "score_served.py",
            vars(args),
            test,
            scores,
            frame=encoder.frame.name,
            base_model=args.model_folder,
            scoring={"frame": encoder.frame.name, "cutoff_len": prompt_frame["cutoff_len"]},
            served_name=served_name,
            target=args.target,
        )
    print(results_table(metrics))
    print(f"===== auc: {metrics['auc']} =====")


if __name__ == "__main__":
    with one_line_errors():
        main()
