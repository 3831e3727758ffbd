"""Merge an adapter into its base model: a standalone Hugging Face model folder, to serve, share or evaluate.

    python base_model/export_model.py --base_model base_model/llama-7b/ --output_dir base_model/movie-7b \
        --lora_weights instruction_model/movie/alpaca_stage123_instrument

Reads  a base model that is not quantised, a LoRA adapter for it, and records to compare scores on (default: made-up).
Writes --output_dir, complete or not at all: weights (safetensors), a tokenizer that AutoTokenizer reads as the scripts
       do, generation_config.json, prompt_frame.json (what a client needs to build prompts) and run.json.
Prints the largest difference between the scores of base and adapter and those of the folder, read back from the disk.

base_model/score_served.py asks the folder's model once vLLM serves it.
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tlrec import runs
from tlrec.data.preferences import build_record
from tlrec.data.records import read_records
from tlrec.demo.world import DOMAINS, make_catalogue, make_examples
from tlrec.errors import InputError, one_line_errors
from tlrec.files import one_line_if_full, read_json, whole_folder, write_json
from tlrec.model.folders import adapter_folder, check_adapter, check_base_model, tuned_on_another
from tlrec.model.identity import base_identity
from tlrec.model.prompts import ANSWERS, FRAME_NAMES, load_frame

MADE_UP_RECORDS = 32
# Largest allowed difference of log-probabilities. Merged float32 weights differ by the order of additions; two-byte
# weights keep 8 bits (bfloat16) or 11 bits (float16) of each sum, so a part of a small adapter is lost.
TOLERANCE = {"float32": 1e-4, "float16": 0.1, "bfloat16": 0.5}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--base_model", default="base_model/llama-7b/", help="folder or hub name of a causal LM (default: %(default)s)")
    add("--lora_weights", required=True, help="adapter folder")
    add("--output_dir", required=True, help="folder for the merged model")
    add("--check_data_path", help=f"records to compare scores on (default: {MADE_UP_RECORDS} made-up ones)")
    add("--prompt_frame", choices=FRAME_NAMES, help="(default: the adapter's, else alpaca)")
    add("--cutoff_len", type=int, help="tokens of a record (default: the adapter's, else 512)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="type of the merged weights (default: the adapter's, else auto; as evaluate.py scores on this device)",
    )
    add("--overwrite", action="store_true", help="replace the exported model that --output_dir holds")
    return parser.parse_args()


def check_not_quantized(base_model, adapter):
    """Raise InputError if the base, or the base that the adapter was tuned on, has quantised weights."""
    config = Path(base_model) / "config.json"
    if config.exists() and "quantization_config" in read_json(config):
        raise InputError(
            f"--base_model {base_model}: is quantised, and what an adapter adds to such weights is rounded "
            "away; give the model it was quantised from"
        )
    run = runs.describe_adapter(adapter)["run"]
    quantization = run["arguments"].get("quantization", "none") if run else "none"
    if quantization != "none":
        raise InputError(
            f"--lora_weights {adapter}: was tuned on a base in {quantization}; merged into whole weights it would give "
            "other scores, into quantised ones it would be rounded away; serve it unmerged (vllm serve --enable-lora)"
        )


def check_output_dir(path, overwrite):
    """Raise InputError if the folder cannot be made; only an earlier export may be replaced."""
    folder = Path(path)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / "run.json").exists() or runs.read_run(folder)["script"] != "export_model.py":
            raise InputError(f"--output_dir {path}: holds files that this script did not write; give another folder")
        if not overwrite:
            raise InputError(f"--output_dir {path}: holds an exported model; give --overwrite or another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder.parent).close()
    except OSError as error:
        raise InputError(f"--output_dir {path}: cannot be written to: {error.strerror}") from None


def made_up_records():
    """Records of the demo's fictional users and films, the same each time."""
    domain = DOMAINS["movie"]
    catalogue = make_catalogue(np.random.default_rng([0, 0]), domain, items_per_theme=12)
    examples = make_examples(np.random.default_rng([0, 1]), domain, catalogue, MADE_UP_RECORDS)
    return [build_record(example.preference, example.liked) for example in examples]


def check(args):
    """Raise InputError for everything that can be found without torch; returns (records to compare scores on, scoring
    settings that the adapter keeps from its tuning, those that flags give)."""
    flags = {"frame": args.prompt_frame, "cutoff_len": args.cutoff_len, "dtype": args.dtype}
    given = {name: value for name, value in flags.items() if value is not None}
    args.lora_weights = adapter_folder(args.lora_weights, "--lora_weights")
    check_adapter(args.lora_weights, "--lora_weights")
    kept = runs.scoring_of(args.lora_weights, args.base_model)
    check_base_model(args.base_model, (runs.SCORING | kept | given)["cutoff_len"])
    check_not_quantized(args.base_model, args.lora_weights)
    check_output_dir(args.output_dir, args.overwrite)
    path = args.check_data_path
    records = read_records(path, labelled=False) if path else made_up_records()
    if other := tuned_on_another(args.lora_weights, args.base_model, base_identity(args.base_model)):
        raise InputError(f"--lora_weights {other}; give its own base model")
    return records, kept, given


def write_merged(folder, model, encoder):
    """Merge the adapter of `model`, and write weights, tokenizer and prompt_frame.json into `folder`."""
    from transformers import GenerationConfig

    tokenizer = encoder.tokenizer
    merged = model.merge_and_unload()
    # Greedy decoding: some models come with sampling settings, which servers would apply.
    merged.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=encoder.eos or None,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    merged.save_pretrained(folder)
    if encoder.bos and tokenizer("a")["input_ids"][:1] != encoder.bos:
        tokenizer.add_bos_token = True  # so that prompts sent as text get BOS too
    tokenizer.save_pretrained(folder)
    write_json(
        folder / "prompt_frame.json",
        {
            **asdict(encoder.frame),
            "cutoff_len": encoder.cutoff_len,
            "bos_ids": encoder.bos,
            "answers": ANSWERS,
            "answer_ids": encoder.answer_ids,
        },
    )


def read_tokenizer_back(base_model, folder, records, scorer, encoder):
    """(a Scorer with the tokenizer in `folder`, whether prompts sent as text give the same token ids). Raises InputError
    if the tokenizer gives other token ids than the one it was made from."""
    from transformers import AutoTokenizer

    from tlrec.scoring.records import Scorer

    reread = AutoTokenizer.from_pretrained(folder)
    again = Scorer(reread, records, encoder.frame, encoder.cutoff_len)
    special = [(each.bos_token_id, each.eos_token_id) for each in (encoder.tokenizer, reread)]
    if (again.rows, again.answer_ids) != (scorer.rows, scorer.answer_ids) or special[0] != special[1]:
        raise InputError(
            f"--base_model {base_model}: its tokenizer cannot be written so that AutoTokenizer reads it "
            "back with the same token ids; export from a folder with a tokenizer.json"
        )
    return again, reread([encoder.frame.prompt(record) for record in records])["input_ids"] == scorer.rows


def largest_difference(merged, tuned, dtype):
    """Of the log-probabilities in two Scores. Raises InputError if it is more than TOLERANCE allows."""
    pairs = ((merged.log_p_yes, tuned.log_p_yes), (merged.log_p_no, tuned.log_p_no))
    difference = max(float(abs(one - other).max()) for one, other in pairs)
    if not difference <= TOLERANCE[dtype]:
        raise InputError(
            f"--dtype {dtype}: the merged model's log-probabilities differ by up to {difference:.2g} (allowed: "
            f"{TOLERANCE[dtype]:g}); nothing was written" + ("" if dtype == "float32" else "; give --dtype float32")
        )
    return difference


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    records, kept, given = check(args)

    # 2. Import the heavy libraries; settings of the adapter's tuning, unless flags say otherwise
    from tlrec.model.merging import check_mergeable
    from tlrec.model.tokenization import RecordTokenizer
    from tlrec.scoring.loaded import LoadedModel, scoring_here

    scoring = scoring_here(kept, given, args.device, args.base_model, trust_remote_code=False)
    dtype, attention = scoring["dtype"], scoring["attention"]
    loaded = LoadedModel(args.base_model, args.device, dtype, "none", attention, trust_remote_code=False)
    loaded.check_adapter(args.lora_weights)

    # 3. Records to token ids
    frame = load_frame(scoring["frame"], loaded.tokenizer)
    encoder = RecordTokenizer(loaded.tokenizer, frame, scoring["cutoff_len"])
    scorer = loaded.scorer(records, scoring["frame"], encoder.cutoff_len)

    # 4. Scores of base and adapter, not merged, as in tuning
    if getattr(loaded.base.config, "quantization_config", None):  # of a hub name, which `check` cannot read
        raise InputError(f"--base_model {args.base_model}: is quantised; give the model it was quantised from")
    model = loaded.attach(args.lora_weights)
    check_mergeable(model, args.lora_weights)
    tuned = scorer.score(model, merge=False, progress="base and adapter")

    with one_line_if_full(args.output_dir), whole_folder(args.output_dir) as folder:
        # 5. Merge, and write all files
        write_merged(folder, model, encoder)
        hardware = loaded.hardware
        del model, loaded  # one model at a time in memory

        # 6. Read the folder back: the same token ids, the same scores
        again, as_text = read_tokenizer_back(args.base_model, folder, records, scorer, encoder)
        merged = LoadedModel(folder, args.device, dtype, "none", attention, trust_remote_code=False).base
        size = sum(parameter.nbytes for parameter in merged.parameters())
        difference = largest_difference(again.score(merged, progress="merged model"), tuned, dtype)

        # 7. run.json, last
        runs.write_run(
            folder,
            script="export_model.py",
            arguments=vars(args),
            data={"check": args.check_data_path} if args.check_data_path else {},
            results={"largest_difference": difference, "tolerance": TOLERANCE[dtype], "rows": len(records)},
            adapter=runs.describe_adapter(args.lora_weights),
            base_model=args.base_model,
            frame=frame.name,
            dtype=dtype,
            scoring={"frame": frame.name, "cutoff_len": encoder.cutoff_len, "dtype": dtype},
            text_prompts=as_text,
            hardware=hardware,
        )
    print(
        f"{args.output_dir}: {dtype}, {size / 1e6:,.1f} MB; frame: {frame.name}; prompts as text: "
        + ("the same token ids" if as_text else "other token ids, send ids")
    )
    print(
        f"largest difference of a log-probability on {len(records)} {'' if args.check_data_path else 'made-up '}rows: "
        f"{difference:.2g} (allowed: {TOLERANCE[dtype]:g})"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
