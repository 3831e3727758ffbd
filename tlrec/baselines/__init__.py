"""Classical recommenders on the same records, shots and test rows as the language model.

counting   popularity and item-kNN: like-rates and cosines, numpy and scipy only
neural     SASRec, GRU4Rec and Caser in plain PyTorch
order      in which order these read a history
__main__   python -m tlrec.baselines ...

They know items by identity (title and creator), not by their words. The sequential ones are the encoders of the papers,
which also read dislikes and learn a binary loss on the target. Item ids are those of the training shots; every other item
is "unknown".

No library fits: RecBole 1.2.1 needs ray<=2.6.3, which does not support Python above 3.11, and `np.float`, which numpy
removed in 1.24; and its sequential models read what was consumed, without dislikes.
"""
