"""What a script needs to run a language model: device, number type, attention, processes, tokenizer, base model."""

import gc
from functools import cached_property

import torch
from accelerate import PartialState

from tlrec.errors import InputError
from tlrec.model import adapters, base_models, memory
from tlrec.model.processes import models_are_spread, only_the_first_prints
from tlrec.model.prompts import load_frame
from tlrec.runs import HOW, SCORING
from tlrec.scoring.candidates import score_candidates
from tlrec.scoring.records import Scorer


def scoring_here(kept, given, device, base_model, trust_remote_code):
    """The settings that scores depend on, on this machine: a dict as from `tlrec.runs.scoring_of`, with "auto" replaced
    by what it means here.

    kept: the adapter's settings. given: those of flags, which take precedence. device, base_model, trust_remote_code:
    values of the flags. A kept setting that this machine cannot use, such as float16 on the CPU, counts as "auto"; a
    given one raises InputError.
    """
    device = base_models.resolve_device(device)
    wanted = SCORING | kept | given

    def resolve(name, choose, *arguments):
        try:
            return choose(wanted[name], device, *arguments)
        except InputError:
            if name in given:
                raise
            return choose("auto", device, *arguments)

    dtype = resolve("dtype", base_models.resolve_dtype, base_model, trust_remote_code)
    attention = resolve("attention", base_models.resolve_attention, dtype)
    return wanted | {"dtype": str(dtype).removeprefix("torch."), "attention": attention or "auto"}


def load_as_tuned(args, adapter, kept, given):
    """(LoadedModel, its settings as from `scoring_here`) for an adapter, which is checked, or for the base alone.

    args: flags with base_model, device (None: auto) and trust_remote_code. kept, given: as for `scoring_here`.
    """
    device = args.device or "auto"
    scoring = scoring_here(kept, given, device, args.base_model, args.trust_remote_code)
    loaded = LoadedModel(args.base_model, device, *(scoring[name] for name in HOW), args.trust_remote_code)
    if adapter:
        loaded.check_adapter(adapter)
    return loaded, scoring


ROW = 512  # tokens, the default of --cutoff_len


class LoadedModel:
    """The machine and the base model that a script's flags name; the base is loaded once, when it is first used.

    device, dtype, quantization, attention: values of the flags of these names; "auto" is resolved here.
    merge: whether scoring may add LoRA into the base's weights.
    first: whether this is the process that writes files; what the others print to stdout is dropped.
    """

    def __init__(self, base_model, device, dtype, quantization, attention, trust_remote_code, merge=True):
        self.merge = merge
        self.base_model, self.quantization, self.trust_remote_code = base_model, quantization, trust_remote_code
        if models_are_spread() and quantization != "none":
            raise InputError(
                f"--quantization {quantization}: FSDP and ZeRO-3 cannot spread such weights; leave it out, or start "
                "without them: a quantised base fits on one GPU"
            )
        self.device = base_models.resolve_device(device)
        self.dtype = base_models.resolve_dtype(dtype, self.device, base_model, trust_remote_code)
        if dtype == "auto" and self.device.type == "cpu" and self.dtype == torch.bfloat16:
            print("dtype: bfloat16, for which this CPU has instructions (--dtype float32 is slower and rounds less)")
        self.attention = base_models.resolve_attention(attention, self.device, self.dtype)
        self.processes, self.first = PartialState().num_processes, PartialState().is_main_process
        # _carried: the PeftModel around the base; _loaded: the base's state before it carried the first one
        self._scorers, self._carried, self._loaded = {}, None, None
        only_the_first_prints()

    @cached_property
    def tokenizer(self):
        return base_models.load_tokenizer(self.base_model, self.trust_remote_code)

    @cached_property
    def hardware(self):
        """What the model runs on, in words."""
        return base_models.hardware(self.device)

    @property
    def machine_scoring(self):
        """The settings of this setup that a score depends on: number type, quantisation, attention, whether LoRA may be
        merged. Loads the base."""
        dtype, attention = str(self.dtype).removeprefix("torch."), self.base.config._attn_implementation
        return {"dtype": dtype, "quantization": self.quantization, "attention": attention, "merge": self.merge}

    @cached_property
    def base(self):
        """The base model, frozen."""
        return self.load_base()

    def load_base(self):
        """A base model, frozen; in main memory if FSDP or ZeRO-3 will spread it. Raises InputError before it is loaded
        if, on the CPU, it and one row of ROW tokens do not fit into memory."""
        if self.device.type == "cpu":
            skeleton = base_models.skeleton_of(self.base_model, self.trust_remote_code)
            memory.check_scoring_fits(skeleton, ROW, self.dtype, self.quantization, self.memory)
        return base_models.load_base_model(
            self.base_model,
            torch.device("cpu") if models_are_spread() else self.device,
            self.dtype,
            self.quantization,
            self.attention,
            trust_remote_code=self.trust_remote_code,
        )

    def check_adapter(self, path, tuned=False):
        """Raise InputError unless every tensor of the adapter at `path` fits on the base, which is not loaded; return
        the tensors. tuned: whether it is to be tuned."""
        return adapters.check_adapter_on(self.base_model, path, self.trust_remote_code, tuned)

    def scorer(self, records, frame, cutoff_len):
        """A Scorer of `records` in the prompt frame of that name; the same one for the same records."""
        key = id(records), frame, cutoff_len
        if key not in self._scorers:
            scorer = Scorer(self.tokenizer, records, load_frame(frame, self.tokenizer), cutoff_len)
            self._scorers[key] = scorer, records  # kept, so that no other list gets their id
        return self._scorers[key][0]

    def candidate_scores(self, adapter, requests, frame, cutoff_len, token_budget):
        """`tlrec.scoring.candidates.score_candidates` of the base with this adapter on it."""
        frame = load_frame(frame, self.tokenizer)
        return score_candidates(
            self.attach(adapter), self.tokenizer, requests, frame, cutoff_len, token_budget, self.merge
        )

    def attach(self, adapter):
        """The base with the adapter of this folder on it, for scoring, and no other; the base alone for None."""
        if models_are_spread():
            raise InputError(
                "with FSDP or ZeRO-3 only tuning is spread over the GPUs; score without them, by several processes with "
                "a model each (accelerate launch --multi_gpu), and --quantization 4bit if it does not fit on one GPU"
            )
        self.detach()
        return self.carry(lambda base: adapters.attach_adapter(base, adapter)) if adapter else self.base

    def carry(self, put_on):
        """`put_on(base)`, a PeftModel on the base as it was loaded, which `detach` takes off again."""
        self.detach()
        if self._loaded is None and not models_are_spread():
            self._loaded = adapters.state_of(self.base)
        self._carried = put_on(self.base)
        return self._carried

    def detach(self):
        """Take the adapter off the base, if it has one. If that does not leave the base as it was loaded, the next one
        that needs it loads it anew: some adapters bring biases or whole layers, or take from the weights what A and B
        begin with (PiSSA, OLoRA)."""
        if self._carried is not None:
            self.base = self._carried.unload()
            self._carried = None
            if self._loaded is None or adapters.state_of(self.base) != self._loaded:
                self.forget()

    def forget(self):
        """Free the base model's memory, so that another one can be loaded."""
        self.detach()
        self.__dict__.pop("base", None)
        self._loaded = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def memory(self):
        """Bytes of main memory, or of its GPU, that this process may use, measured once, at the first call."""
        if self.device.type == "cuda":
            return memory.gpu_memory_at_hand()
        return memory.memory_at_hand() // self.processes
