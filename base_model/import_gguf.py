"""Turn a GGUF file (llama.cpp's format) into a Hugging Face model folder for all scripts.

    python base_model/import_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf --output_dir base_model/smollm2-135m

Reads  one GGUF file of any causal language model that transformers reads from GGUF (Llama, Mistral, Qwen 2, 3 and 3.5,
       Gemma 2 and 3, Phi-3, GPT-2 and more), quantised or not. Needs a little more than four bytes of memory for
       each weight.
Writes --output_dir, complete or not at all: config.json, model.safetensors, the tokenizer with its special tokens and
       chat template, generation_config.json, README.md (origin, licence, loss by quantisation) and run.json.
Checks every token id against the file's vocabulary, that every number of the file is in the model, and that the folder,
       read back, gives the logits of the loaded file.

Does nothing if --output_dir already holds the same import.
"""

import argparse
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec, wherever this is called from

from tlrec import runs
from tlrec.errors import InputError, one_line_errors
from tlrec.files import sha256, whole_file, whole_folder
from tlrec.model.checks import check_base_model
from tlrec.model.gguf_files import read_gguf

SCRIPT = "import_gguf.py"
STILL_TO_DO = 1  # exit status of --check_only
TOLERANCE = 1e-4  # largest difference of logits before writing and after reading back, relative to the largest
BYTES = {"float32": 4, "bfloat16": 2}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("file", help="the GGUF file")
    add("--output_dir", required=True, help="folder for the model")
    add(
        "--dtype",
        choices=list(BYTES),
        default="float32",
        help="type of the weights on disk; float32 holds every quantised weight exactly, bfloat16 takes half the space "
        "and rounds to 8 bits (default: %(default)s)",
    )
    add("--sha256", help="digest that the file must have")
    add("--origin", help="origin of the file, for the README (default: what the file says)")
    add("--license", help="licence of the weights, for the README (default: what the file says)")
    add(
        "--check_only",
        action="store_true",
        help="only check whether --output_dir holds the import of the file with this --sha256 (exit status 0), has yet "
        f"to be made ({STILL_TO_DO}) or cannot be made (2); FILE need not exist",
    )
    add("--overwrite", action="store_true", help="replace another import that --output_dir holds")
    args = parser.parse_args()
    if args.check_only and not args.sha256:
        parser.error("--check_only needs --sha256")
    return args


def is_there(folder, digest, dtype, overwrite):
    """Whether `folder` holds the import of the file with this digest; InputError if it holds anything else."""
    folder = Path(folder)
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    if not (folder / "run.json").exists() or (run := runs.read_run(folder)).get("script") != SCRIPT:
        raise InputError(f"--output_dir {folder}: holds files that this script did not write; give another folder")
    if overwrite:
        return False
    found = run["gguf"]["sha256"], run["dtype"]
    if found != (digest, dtype):
        what = f"of {run['gguf']['file']}" if found[0] != digest else f"as {found[1]}"
        raise InputError(f"--output_dir {folder}: holds an import {what}; give --overwrite or another folder")
    check_base_model(folder)
    return True


def check_room(folder, numbers, dtype):
    """Raise InputError unless the disk has space for the model; makes the parent folder."""
    parent = Path(folder).absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be made: {error.strerror}") from None
    size = numbers * BYTES[dtype] + 50e6  # plus the tokenizer
    if size > free:
        raise InputError(
            f"--output_dir {folder}: the model takes {size / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free"
        )


def write_readme(path, args, gguf, digest, cost):
    """README.md of the folder. cost: {"text_tokens", "file", "stored", "rounded_again", "relative_error"}."""
    general = {
        key.removeprefix("general."): value for key, value in gguf.metadata.items() if key.startswith("general.")
    }
    name = general.get("name", gguf.path.stem)
    origin = args.origin or ", ".join(
        str(general[key])
        for key in ("organization", "author", "repo_url", "url", "source.url", "source.repo_url")
        if key in general
    )
    total = sum(numbers for _, numbers in gguf.tensors.values())
    lines = [
        f"# {name}",
        "",
        f"- Origin: {origin or 'the file does not say'}",
        f"- Licence of the weights: {args.license or general.get('license') or 'the file does not say'}",
        f"- Made from `{gguf.path.name}`, {gguf.path.stat().st_size:,} bytes, SHA-256 `{digest}`",
        f"- Architecture {gguf.architecture}, weights written as {args.dtype}",
        "",
        "## Loss by quantisation",
        "",
        f"The file uses {8 * gguf.path.stat().st_size / total:.2f} bits on a weight, vocabulary included:",
        "",
        "| type in the file | tensors | weights |",
        "|---|---:|---:|",
        *(f"| {kind} | {tensors} | {numbers:,} |" for kind, (tensors, numbers) in gguf.types().items()),
        "",
        "The original weights are unknown, so the loss is an estimate: the weights are rounded once more, as coarsely "
        f"as in the file (an error of {cost['relative_error']:.2%} of the weights, root mean square), and the "
        f"cross-entropy of {cost['text_tokens']} tokens of English is compared:",
        "",
        "| weights | nats per token |",
        "|---|---:|",
        f"| as in the file, float32 | {cost['file']:.4f} |",
        f"| as in this folder, {args.dtype} | {cost['stored']:.4f} |",
        f"| rounded once more | {cost['rounded_again']:.4f} |",
        "",
        f"By this estimate quantisation has cost {cost['rounded_again'] - cost['stored']:+.4f} nats per token, and "
        f"writing {args.dtype} {cost['stored'] - cost['file']:+.4f}. The tokenizer, its special tokens and the chat "
        "template are those of the file.",
        "",
    ]
    with whole_file(path) as file:
        file.write("\n".join(lines))


def find_digest(args):
    """SHA-256 of the file. Raises InputError if the file is missing, or is not the one that --sha256 names."""
    if not Path(args.file).is_file():
        raise InputError(f"{args.file}: no such file")
    digest = sha256(args.file)
    if args.sha256 and digest != args.sha256.lower():
        raise InputError(f"{args.file}: its SHA-256 is {digest}, not {args.sha256}; remove it and download it again")
    return digest


@contextmanager
def full_disk_is_a_mistake(output_dir):
    """Turn the errors of a full disk, of which safetensors has its own, into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if "No space left" in str(error) or "File too large" in str(error):
            raise InputError(f"--output_dir {output_dir}: the disk is full; nothing was written") from None
        raise


def read_back(args, folder, gguf, tokenizer, ids, expected):
    """(tokenizer, model, logits, largest difference of a logit) of the written folder. Raises InputError if its token
    ids are not those of the file, or its logits not `expected`."""
    import torch
    from transformers import AutoTokenizer

    from tlrec.model import base_models, gguf_models

    reread = AutoTokenizer.from_pretrained(folder)
    gguf_models.check_tokenizer(gguf, reread)
    if reread.encode(gguf_models.TEXT) != ids or reread.chat_template != tokenizer.chat_template:
        raise InputError(f"{args.file}: its tokenizer cannot be written so that AutoTokenizer reads the same")
    model = base_models.load_base_model(folder, torch.device("cpu"), torch.float32)
    logits = gguf_models.logits(model, ids)
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise InputError(
            f"{args.file}: logits of the written model differ from the file's by up to {difference:.2g}; "
            "nothing was written"
        )
    return reread, model, logits, difference


def main():
    args = parse_arguments()

    # 1. Does the import exist already?
    if args.check_only:
        sys.exit(0 if is_there(args.output_dir, args.sha256.lower(), args.dtype, args.overwrite) else STILL_TO_DO)
    digest = find_digest(args)
    if is_there(args.output_dir, digest, args.dtype, args.overwrite):
        print(f"{args.output_dir}: exists already, as {args.dtype}")
        return

    # 2. Read the metadata of the file, before torch is imported
    gguf = read_gguf(args.file)
    check_room(args.output_dir, sum(numbers for _, numbers in gguf.tensors.values()), args.dtype)

    # 3. Import the heavy libraries
    import torch

    from tlrec.model import gguf_models

    dtype = getattr(torch, args.dtype)

    # 4. Tokenizer and model of the file, checked against it
    tokenizer = gguf_models.build_tokenizer(gguf)
    ids = tokenizer.encode(gguf_models.TEXT)
    model = gguf_models.load_model(gguf)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    cost = {"text_tokens": len(ids) - 1, "file": gguf_models.loss(gguf_models.logits(model, ids), ids)}
    gguf_models.round_to(model, dtype)
    expected = gguf_models.logits(model, ids)
    model = gguf_models.fresh_model(model, dtype)

    with full_disk_is_a_mistake(args.output_dir), whole_folder(args.output_dir) as folder:
        # 5. Write all files
        model.generation_config = gguf_models.generation_config(gguf, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model  # one model at a time in memory

        # 6. Read the folder back: the same token ids, the same logits
        reread, model, logits, difference = read_back(args, folder, gguf, tokenizer, ids, expected)

        # 7. Loss by quantisation, and run.json, last
        cost["stored"] = gguf_models.loss(logits, ids)
        cost["relative_error"] = gguf_models.round_once_more(model)
        cost["rounded_again"] = gguf_models.loss(gguf_models.logits(model, ids), ids)
        write_readme(folder / "README.md", args, gguf, digest, cost)
        source = {"file": gguf.path.name, "sha256": digest, "architecture": gguf.architecture, "types": gguf.types()}
        results = {"largest_difference": difference, "parameters": parameters, **cost}
        runs.write_run(folder, SCRIPT, vars(args), data={}, results=results, gguf=source, dtype=args.dtype)
    print(
        f"{args.output_dir}: {gguf.architecture}, {parameters:,} parameters as {args.dtype}, {len(reread)} tokens; "
        f"BOS {reread.bos_token!r}, EOS {reread.eos_token!r}, chat template: {'yes' if reread.chat_template else 'no'}"
    )
    print(
        f"largest difference of a logit to the loaded file: {difference:.2g}; cross-entropy {cost['stored']:.4f} nats "
        f"per token, rounded once more {cost['rounded_again']:.4f}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
