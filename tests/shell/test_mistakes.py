"""A mistake in a launcher's arguments or variables, or a file that is missing, is one line - what, where, which command
makes it - before any work."""

import pytest

ZERO, FEW = ("zero_shot.sh", "cpu", "movie", "netflix"), ("few_shot.sh", "cpu", "0", "movie")
ABLATION, REAL = ("ablation.sh", "cpu", "movie", "netflix"), ("real_results.sh", "cpu")
NO_ADAPTER = "no instruction adapter at {root}/instruction_model/movie/mine/adapter_config.json; "
MADE_BY = "EXP_NAME='mine' STAGES='cot source' bash shell/zero_shot.sh cpu movie netflix makes it (or name another: INS"


@pytest.mark.parametrize(
    "words, missing, message",
    [
        (ZERO, "base_model/llama-7b", "no base model at {}/; base_model/README.md tells how to place one"),
        (ZERO, "cot_data/stage123.json", "no chain-of-thought data at {}; bash shell/get_published_data.sh fetches"),
        (ABLATION, "cot_data/stage1.json", "no staged CoT data at {}; python cot_data/preprocess_data.py --curriculum"),
        (ZERO, "instruction_data/netflix/train.json", "no source data at {}; instruction_data/README.md tells how"),
        (FEW, "rec_data/movie/train.json", "no train data at {}; rec_data/README.md tells how to make it"),
    ],
)
def test_a_missing_file(refused, root, words, missing, message):
    (root / missing).rename(root / "away")
    refused(message.format(root / missing), *words)


@pytest.mark.parametrize(
    "words, environment, message",
    [
        (ZERO[:3], {}, "usage: bash shell/zero_shot.sh GPU TARGET SOURCE"),
        ((*ZERO, "--stage=1"), {}, "--stage: this launcher sets it; give STAGES instead\n"),
        (("zero_shot.sh", "0,", "movie", "netflix"), {}, "GPU '0,': give cpu, the"),
        (ZERO, {"PYTHON": "/no/python"}, "PYTHON=/no/python: no such program; bash shell/setup.sh makes one"),
        (ZERO, {"GENERAL_ADAPTER": "/no/it"}, "no general adapter at /no/it/adapter_config.json; GENERAL_ADAPTER"),
        (ZERO, {"STAGES": " "}, "STAGES is empty: give at least one of cot and source"),
        (ZERO, {"STAGES": "no/such.json"}, "no records at no/such.json; STAGES takes stages and files"),
        (ZERO, {"VALID": "both"}, "VALID 'both': give target or source"),
        (FEW[:3], {}, "usage: bash shell/few_shot.sh GPU SEED TARGET"),
        ((*FEW, "--num_epochs", "1", "--seed", "1"), {}, "--seed: this launcher sets it; give SEED or SEEDS instead\n"),
        (FEW, {"RECIPE": "../setup"}, "RECIPE '../setup': give one of original published small"),
        (FEW, {"SHOTS": " "}, "SHOTS ' ': give at least one number"),
        (FEW, {"SHOTS": "16,64"}, "SHOTS '16,64': give whole numbers of -1 or more, such as '16 64'"),
        (FEW, {"INSTRUCTION_ADAPTER": "/no/it"}, "no instruction adapter at /no/it/adapter_config.json; INSTRUCTION"),
        (FEW, {"EXP_NAME": "mine", "SOURCE": "netflix"}, NO_ADAPTER + MADE_BY),
        (ABLATION, {"CURRICULA": "base, sauce"}, "STAGES 'sauce': stages are cot and source, stage1 and stage12 of "),
        (ABLATION, {"EXP_NAME": "mine"}, "EXP_NAME 'mine': it names one experiment, but an ablation runs many; unset"),
        (REAL, {"SOURCES": "none goodbooks"}, "no source data at"),
        (REAL, {"TARGETS": "movie games"}, "no train data at"),
        (("quickstart.sh", "--model", "gpt"), {}, "--model gpt: give pocket-llama or smollm2"),
        (("quickstart.sh", "--modle", "smollm2"), {}, "--modle: quickstart.sh takes --model and --help"),
        (("score_with_vllm.sh", "cpu", "{root}/alpaca", "{root}/rec_data/movie/test.json"), {}, "VLLM '': name an env"),
    ],
    ids=str,
)
def test_a_mistake(refused, root, words, environment, message):
    if words[0] in ("real_results.sh", "score_with_vllm.sh"):
        environment = {"BASE_MODEL": f"{root}/base_model/llama-7b", **environment}
        (root / "alpaca").mkdir()
        (root / "alpaca" / "adapter_config.json").touch()
    refused(message, *(word.format(root=root) for word in words), **environment)
