# For models of 0.1 to 1 billion parameters (RECIPE=small). They learn the task only in many small steps: after 1,024 Netflix
# rows, SmolLM2-135M has AUC 0.395 on Movie's validation rows with steps of 128 rows, and 0.677 with steps of 16.
# LoRA on all linear layers, loss on the answers alone, larger steps; no LoRA dropout, which takes a third more time on a CPU.
# --share_prefix changes nothing but rounding, and a step takes a quarter less time. The source stage keeps its last weights,
# at the end of the learning rate's decay: between two validations in the middle the AUC moves by chance, and an adapter that
# was selected on nothing has seen no label of the target. No other flags were better on source rows: docs/recipe.md.
# Few shots are selected by AUC, and the adapter that they start from may win: a few rows lower the loss by teaching how often
# readers say Yes, while the ranking gets worse.
adapter=(--lora_target_modules all-linear --lora_dropout 0)
small_steps=(--batch_size 16 --micro_batch_size 16 --share_prefix --prompt_loss_weight 0)
cot_flags=("${adapter[@]}" "${small_steps[@]}" --learning_rate 1e-3 --num_epochs 1 --warmup_steps 8)
cot_flags+=(--eval_steps 16 --metric_for_best_model last)
source_flags=("${cot_flags[@]}")
few_shot_flags=("${adapter[@]}" "${small_steps[@]}" --learning_rate 5e-4 --num_epochs 4 --warmup_steps 8)
few_shot_flags+=(--validate_start --metric_for_best_model auc)
