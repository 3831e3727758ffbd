"""What the scripts of TLRec share. The recipe is in the scripts; here are the mechanisms."""
