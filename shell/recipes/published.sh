# The published recipe (RECIPE=published, the default): LLaMA-7B. The tuners' own defaults, so there is nothing to add.
instruction_flags=()
few_shot_flags=()
