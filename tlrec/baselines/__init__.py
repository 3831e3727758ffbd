"""Classical recommenders on the same records, shots and test rows as the language model.

counting   popularity and item-kNN: like-rates and cosines, numpy and scipy only
neural     SASRec, GRU4Rec and Caser in plain PyTorch
__main__   python -m tlrec.baselines ...

They know items by identity (title and creator), not by their words. They read the likes *and* dislikes of a history; a
record keeps each of the two lists in time order but not how they interleave, so a sequence is the likes, then the
dislikes. Item ids are those of the training shots; every other item is "unknown".

No library fits: RecBole 1.2.1 needs ray<=2.6.3, which does not support Python above 3.11, and `np.float`, which numpy
removed in 1.24; and its sequential models read what was consumed, without dislikes.
"""
