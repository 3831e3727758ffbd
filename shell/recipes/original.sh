# What the paper's public code does (RECIPE=original): the base in 8 bits and float16 for tuning, unquantised in float16 with the
# adapter not merged for scoring, and the frame with the stray text. Needs a GPU. The hyper-parameters are those of
# RECIPE=published. docs/differences.md lists what no flag brings back.
numbers_and_frame=(--quantization 8bit --dtype float16 --prompt_frame tallrec)
cot_flags=("${numbers_and_frame[@]}")
source_flags=("${numbers_and_frame[@]}")
few_shot_flags=("${numbers_and_frame[@]}")
scoring_flags=(--quantization none --dtype float16 --prompt_frame tallrec --no-merge)
