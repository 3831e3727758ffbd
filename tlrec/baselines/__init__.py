"""Classical recommenders on the same records, shots and test rows as the language model.

counting   popularity and item-kNN: like-rates and cosines, numpy and scipy only
neural     SASRec, GRU4Rec and Caser in plain PyTorch
__main__   python -m tlrec.baselines ...

They know items by identity (title and creator), not by their words. A history enters with its likes *and* dislikes; a
record keeps each of the two in time order but not their mutual order, so sequences are the likes, then the dislikes.
Item ids are those of the training shots; any other item is the one "unknown".

No library serves here: RecBole 1.2.1 needs ray<=2.6.3, which ends at Python 3.11, and numpy's `np.float`, gone since
1.24; and its sequential models read what was consumed, without dislikes.
"""
