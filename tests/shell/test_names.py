"""Which adapter a launcher means.

1. LLaMA-7B by the published recipe has the published folder names, whatever else lies in the workspace.
2. Another base model, source, recipe, general adapter or choice of checkpoints has a folder of its own without EXP_NAME, in
   instruction_model/ and in output_model/; few_shot.sh finds zero_shot.sh's adapter by the same variables.
3. Without SOURCE few_shot.sh takes the only source that has an adapter; of several it asks for one.
4. EXP_NAME names every stage.
5. Hub names reach the scripts unchanged.
6. What a recipe's flags become; `published` and `original` are the published literals.
"""

import itertools
import shutil

import pytest

from tests.conftest import REPOSITORY
from tests.shell.conftest import make_adapter

MOVIE, FEW = ("zero_shot.sh", "cpu", "movie", "netflix"), ("few_shot.sh", "cpu", "0", "movie")


def folders(done):
    return [command.flags.output_dir for command in done.commands if command.script == "ins_tuning.py"]


@pytest.mark.parametrize(
    "target, source, environment, names",
    [
        ("movie", "netflix", {}, ["alpaca_stage123", "alpaca_stage123_instrument"]),
        ("movie", "netflix", {"STAGES": "source cot"}, ["alpaca_instrument", "alpaca_instrument_stage123"]),
        ("movie", "amazon-book", {}, ["alpaca_stage123", "alpaca_stage123_instrument_amazon-book"]),
        ("movie", "netflix", {"RECIPE": "small", "STAGES": "source"}, ["alpaca_instrument_small"]),
        ("movie", "netflix", {"BASE_MODEL": "org/llama-7b", "STAGES": "cot"}, ["alpaca_stage123_org--llama-7b"]),
        ("movie", "netflix", {"GENERAL_ADAPTER": "none", "STAGES": "cot"}, ["fresh_stage123"]),
        ("book", "netflix", {"VALID": "source", "STAGES": "cot"}, ["alpaca_stage123_netflix_valid-source"]),
        ("movie", "netflix", {"EXP_NAME": "my run"}, ["my run_stage123", "my run"]),
    ],
    ids=str,
)
def test_names(launch, root, target, source, environment, names):
    done = launch("zero_shot.sh", "cpu", target, source, **environment)
    assert folders(done) == [str(root / "instruction_model" / target / name) for name in names]


def test_everything_side_by_side(launch, root):
    """Two of each in one workspace: no folder twice, and few_shot.sh starts from the adapter that was just made."""
    other = root / "base_model" / "other model"
    other.mkdir()
    own_general = make_adapter(root / "tuned on chats")
    bases, recipes, sources = ({"BASE_MODEL": str(other)}, {}), ({"RECIPE": "small"}, {}), ("netflix", "amazon-book")
    generals = ({"GENERAL_ADAPTER": str(own_general)}, {})
    seen = set()
    for base, recipe, general, source in itertools.product(bases, recipes, generals, sources):
        environment = {"STAGES": "source", "SHOTS": "16 64"} | base | recipe | general
        (adapter,) = folders(launch("zero_shot.sh", "cpu", "movie", source, **environment))
        few = launch(*FEW, SOURCE=source, **environment).commands[0].flags
        (alone,) = launch(*FEW, INSTRUCTION_ADAPTER="none", **environment).commands
        assert (few.resume_from_checkpoint, alone.flags.resume_from_checkpoint) == (adapter, None)
        seen |= {adapter, few.output_dir, alone.flags.output_dir}
    # 16 adapters and results on them; shots alone depend neither on the source nor on the general adapter
    assert len(seen) == 16 + 16 + 4
    assert str(root / "instruction_model/movie/alpaca_instrument") in seen


def test_the_only_source_that_has_an_adapter(launch, refused, root):
    movie = root / "instruction_model" / "movie"
    make_adapter(movie / "alpaca_stage123_instrument_small")  # another recipe's
    for source, name in (("amazon-book", "_amazon-book"), ("netflix", "")):
        adapter = make_adapter(movie / f"alpaca_stage123_instrument{name}")
        (command,) = launch(*FEW, **{"SOURCE": source} if source == "netflix" else {}).commands
        assert command.flags.resume_from_checkpoint == str(adapter)
    refused("SOURCE is not given, and movie has adapters from netflix amazon-book; give one of them, such", *FEW)
    refused(
        "no instruction adapter at {root}/instruction_model/movie/alpaca_stage123_instrument_new/", *FEW, SOURCE="new"
    )


def test_an_exported_name_means_one_experiment_everywhere(launch, root):
    """The name is that of zero_shot.sh's adapter, of the one few_shot.sh starts from, and of its results."""
    mine, own = str(root / "instruction_model" / "movie" / "mine"), make_adapter(root / "own")
    *_, evaluation = launch(*MOVIE, EXP_NAME="mine", STAGES="source ", BASE_MODEL="org/other").commands
    assert evaluation.flags.lora_weights == [mine]
    for extra, start in (({}, mine), ({"INSTRUCTION_ADAPTER": str(own)}, str(own))):
        flags = launch(*FEW, EXP_NAME="mine", **extra).commands[0].flags
        assert flags.resume_from_checkpoint == start
        assert flags.output_dir == str(root / "output_model" / "movie" / "mine")


def test_hub_names_reach_the_scripts_unchanged(launch, root):
    hub = {"BASE_MODEL": "meta-llama/Llama-3.1-8B", "GENERAL_ADAPTER": "tloen/alpaca-lora-7b"}
    cot, source, evaluation = (command.flags for command in launch(*MOVIE, **hub).commands)
    assert {flags.base_model for flags in (cot, source, evaluation)} == {hub["BASE_MODEL"]}
    assert cot.resume_from_checkpoint == hub["GENERAL_ADAPTER"]
    name = "tloen--alpaca-lora-7b_stage123_instrument_meta-llama--Llama-3.1-8B"
    assert source.output_dir == str(root / "instruction_model" / "movie" / name)
    few = launch(*FEW, **hub).commands[0].flags
    assert (few.base_model, few.resume_from_checkpoint) == (hub["BASE_MODEL"], source.output_dir)
    few = launch(*FEW, SHOTS="4 8", INSTRUCTION_ADAPTER="some.one/lora_1").commands[0].flags
    assert few.resume_from_checkpoint == "some.one/lora_1"
    assert few.output_dir == str(root / "output_model" / "movie" / "some.one--lora_1")


# ------------------------------------------------------------------------------------------------------------- recipes


def test_the_small_recipe_and_the_last_word(launch):
    """A recipe's flags come before the user's."""
    tuner = launch(*MOVIE, "--num_epochs", "2", STAGES="source", RECIPE="small").commands[0].flags
    assert (tuner.batch_size, tuner.learning_rate, tuner.num_epochs) == (16, 1e-3, 2)
    assert (tuner.lora_target_modules, tuner.lora_dropout) == (["all-linear"], 0)
    assert tuner.prompt_loss_weight == 0 and tuner.share_prefix and tuner.metric_for_best_model == "last"
    few = launch(*FEW, STAGES="source", RECIPE="small").commands[0].flags
    assert (few.batch_size, few.learning_rate, few.num_epochs) == (16, 5e-4, 4)
    assert (few.lora_target_modules, few.lora_dropout) == (tuner.lora_target_modules, tuner.lora_dropout)


def test_the_recipe_of_docs_extend(launch, root):
    """The example of a recipe of one's own, in a copy of the launchers."""
    copy = root.parent / "copy"
    shutil.copytree(REPOSITORY / "shell", copy / "shell")
    for script in ("ins_tuning.py", "rec_tuning.py", "evaluate.py"):
        (copy / script).symlink_to(REPOSITORY / script)
    text = (REPOSITORY / "docs" / "extend.md").read_text().partition("## A recipe")[2]
    (copy / "shell" / "recipes" / "mine.sh").write_text(text.split("```")[1].removeprefix("bash\n"))
    zero = launch(copy / "shell" / MOVIE[0], *MOVIE[1:], RECIPE="mine").commands
    few = launch(copy / "shell" / FEW[0], *FEW[1:], RECIPE="mine").commands
    cot, source, scored, few, scored_too = (command.flags for command in (*zero, *few))
    assert [flags.lora_r for flags in (cot, source, few)] == [16, 16, 16]
    assert (cot.num_epochs, source.num_epochs, few.num_epochs, few.learning_rate) == (3, 1, 30, 5e-4)
    assert scored.dtype == scored_too.dtype == "float32" and few.test_data_path is None
    assert few.resume_from_checkpoint == source.output_dir and source.output_dir.endswith("_instrument_mine")


PUBLISHED = {  # ins_tuning.py and rec_tuning.py of the public repository; 512 tokens in its utils.py
    "batch_size": 128,
    "micro_batch_size": 32,
    "warmup_steps": 20,
    "cutoff_len": 512,
    **dict.fromkeys(
        ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
    ),  # test_end_to_end_stopped_and_called_again
    "prompt_loss_weight": 1.0,
    "patience": 10,
}
STAGE = {"num_epochs": 3, "learning_rate": 3e-4, "metric_for_best_model": "auc", "eval_steps": 10}
STAGE |= {"group_by_length": False}
FEW_SHOT = {"num_epochs": 30, "learning_rate": 1e-4, "metric_for_best_model": "loss", "group_by_length": True}
TODAY = {"quantization": "none", "dtype": "auto", "prompt_frame": None}
ORIGINAL = {"quantization": "8bit", "dtype": "float16", "prompt_frame": "tallrec"}


@pytest.mark.parametrize("recipe, kind", [("published", TODAY), ("original", ORIGINAL)])
def test_the_published_literals(launch, recipe, kind):
    *stages, evaluation = (command.flags for command in launch(*MOVIE, RECIPE=recipe).commands)
    few, *scoring = (command.flags for command in launch(*FEW, RECIPE=recipe).commands)
    for flags in stages:
        wanted = PUBLISHED | STAGE | kind
        assert {name: getattr(flags, name) for name in wanted} == wanted
    wanted = PUBLISHED | FEW_SHOT | kind | {"sample": [16, 64, 256]}
    assert {name: getattr(few, name) for name in wanted} == wanted
    if recipe == "published":  # as the adapter was tuned; few-shot runs by their own process
        assert (evaluation.quantization, evaluation.dtype, evaluation.prompt_frame) == (None, None, None)
        assert evaluation.merge
        assert scoring == [] and few.test_data_path
    else:
        folders = [f"{few.output_dir}/0_{shots}" for shots in (16, 64, 256)]
        assert few.test_data_path is None and scoring[0].lora_weights == folders
        for flags in (evaluation, *scoring):
            assert (flags.quantization, flags.dtype, flags.prompt_frame) == ("none", "float16", "tallrec")
            assert not flags.merge
