"""Loads tokenizer and base model: chooses device, number type and quantisation, checks that no weight is missing."""

import json
import os
import platform
import re
from pathlib import Path

import torch
from accelerate import PartialState
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaTokenizer
from transformers.utils import is_flash_attn_2_available

from tlrec.errors import InputError, first_line
from tlrec.model.parts import check_parts

LARGE = 50_000_000  # parameters; a smaller model gains little from bfloat16


def resolve_device(name):
    """The torch device of this process for `--device auto|cpu|cuda`. auto is a GPU where there is one.

    Raises InputError for cuda if torch cannot use a GPU, and says why; for auto too where a GPU is there, because a
    model that needs one would take days on the CPU. If accelerate has started several processes, this one joins the
    others here, and each has its own GPU.
    """
    if name != "cpu" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        # read when torch first allocates GPU memory: rows of all lengths would leave gaps that no other row fits into
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if name == "cuda" or (name == "auto" and (torch.cuda.is_available() or gpu_devices())):
        if reason := _why_no_gpu():
            raise InputError(f"--device {name}: {reason}; or give --device cpu")
        name = "cuda"
    return PartialState(cpu=name != "cuda").device


def gpu_devices(folder="/dev"):
    """The device files of NVIDIA's GPUs in this machine."""
    return sorted(Path(folder).glob("nvidia[0-9]*"))


def _why_no_gpu():
    """Why torch cannot use a GPU here, and how to mend it; None if it can."""
    if torch.cuda.is_available():
        made_for = [int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list() if name[3:].isdigit()]
        major, minor = torch.cuda.get_device_capability()
        if made_for and 10 * major + minor < min(made_for):
            return (
                f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, older than what this build of "
                f"torch ({torch.__version__}) is made for; install another build (docs/scaling.md tells which)"
            )
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this build of torch ({torch.__version__}) has no CUDA; install another build (docs/scaling.md tells which)"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        if "driver" in str(error):  # too old for this build, or not there
            return f"{first_line(error)} Or install a build of torch for an older CUDA (docs/scaling.md tells which)"
    return "there is no such GPU here; check CUDA_VISIBLE_DEVICES against nvidia-smi -L"


def resolve_dtype(name, device, base_model=None, trust_remote_code=False):
    """The torch dtype for `--dtype auto|float32|bfloat16|float16`.

    auto is bfloat16 on GPUs that have it, and float16, as published, on others. On CPUs it is bfloat16, which is two to
    three times as fast as float32, if the CPU has instructions for it and `base_model` has LARGE parameters or more;
    else float32.
    """
    if name == "float16" and device.type == "cpu":
        raise InputError("--dtype float16 needs a GPU; give float32 or bfloat16")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        if base_model is None or not multiplies_bfloat16():
            return torch.float32
        parameters = skeleton_of(base_model, trust_remote_code).parameters()
        return torch.bfloat16 if sum(parameter.numel() for parameter in parameters) >= LARGE else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def multiplies_bfloat16():
    """Whether this CPU has instructions that multiply bfloat16 (AVX512-BF16, AMX) and oneDNN may use them.

    oneDNN's own answer is not enough: it is also yes where it computes in float32, which is slower than plain float32.
    """
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def resolve_attention(name, device, dtype):
    """transformers' name of the attention for `--attention auto|...`: auto is FlashAttention where it is installed and
    can run (a GPU of capability 8.0, two-byte numbers), else None, transformers' choice: sdpa, or eager for a few such
    as Gemma 2."""
    runs = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
    runs = runs and torch.cuda.get_device_capability() >= (8, 0)
    if name == "flash_attention_2" and not runs:
        raise InputError(
            "--attention flash_attention_2 needs the package flash-attn, a GPU of compute capability 8.0, and bfloat16 "
            "or float16; give --attention sdpa"
        )
    if name == "auto":
        return "flash_attention_2" if runs else None
    return name


def load_tokenizer(base_model, trust_remote_code=False):
    """The model's tokenizer, with LLaMA's special tokens restored where an old conversion has left them empty.

    Of the special tokens only the ids of BOS and EOS are used; tlrec.model.tokenization places them.
    """
    folder = Path(base_model)
    if (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") in ("llama", "mistral", "mixtral"):
            # AutoTokenizer drops the leading space of a bare tokenizer.model, and empty special tokens make it recurse
            # endlessly (transformers 5), so class and tokens are given here.
            return LlamaTokenizer.from_pretrained(folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    try:
        return AutoTokenizer.from_pretrained(base_model, trust_remote_code=trust_remote_code)
    except Exception as error:  # every kind of tokenizer raises its own class
        raise cannot_be_loaded(base_model, error, "its tokenizer ") from None


def load_base_model(base_model, device, dtype, quantization="none", attention=None, trust_remote_code=False):
    """The causal language model on `device`, in evaluation mode, every parameter frozen.

    quantization: "none", "8bit", or "4bit" (NF4 with double quantisation), the latter two through bitsandbytes.
    """
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    options = {"none": None, "8bit": {"load_in_8bit": True}, "4bit": {"load_in_4bit": True, **nf4}}[quantization]
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            base_model,
            dtype=dtype,
            quantization_config=options and BitsAndBytesConfig(**options),
            attn_implementation=attention,
            device_map={"": device},
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # every file format and quantiser raises its own class
        raise cannot_be_loaded(base_model, error) from None
    if missing := sorted(loading["missing_keys"]):  # transformers would leave them random
        raise InputError(
            f"--base_model {base_model}: its weights lack {len(missing)} tensors, such as {missing[0]}; "
            "the folder is incomplete, or its config.json belongs to another model"
        )
    if is_quantized(model):
        _never_pack_4bit(model)
        # norms and head in float32, in tuning and in scoring, so that an adapter has one AUC
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    check_parts(model, base_model)
    return model.eval().requires_grad_(False)


def _never_pack_4bit(model):
    """Keep 4-bit weights as they were quantised, whatever the CPU.

    On a CPU with AVX512-BF16 bitsandbytes (0.49 to 0.50.2 at least) packs them in the first forward pass in evaluation
    mode, for a kernel that computes in bfloat16 and has no gradient: LoRA below it would learn nothing, and scores
    would be off by several tenths. It also drops the double quantisation and fails on widths that are not a multiple of
    64 or 32.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def prepare_for_tuning(base, gradient_checkpointing):
    """The frozen base, ready for LoRA: a quantised one needs PEFT's preparation for checkpointing."""
    if is_quantized(base) and gradient_checkpointing:
        return prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs={"use_reentrant": False})
    return base


def hardware(device):
    """One line: the names of the GPUs in use, or the CPU's with its cores, torch's threads and the instructions they use."""
    if device.type == "cpu":
        path = Path("/proc/cpuinfo")
        names = re.findall(r"^model name\s*:\s*(.*)", path.read_text() if path.exists() else "", re.MULTILINE)
        kind = torch.backends.cpu.get_cpu_capability()
        name = names[0] if names else platform.processor()
        return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {kind}"
    return ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))


def skeleton_of(base_model, trust_remote_code):
    """The model on the meta device: all modules and shapes, no weights."""
    try:
        config = AutoConfig.from_pretrained(base_model, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # every architecture raises its own class
        raise cannot_be_loaded(base_model, error) from None


def is_quantized(model):
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(causal, "is_quantized", False)


def cannot_be_loaded(base_model, error, what=""):
    """The InputError for a base model, or a part of it, that transformers cannot load."""
    if "trust_remote_code" in str(error):
        return InputError(f"--base_model {base_model}: comes with its own code; give --trust_remote_code to run it")
    return InputError(f"--base_model {base_model}: {what}cannot be loaded: {first_line(error)}")
