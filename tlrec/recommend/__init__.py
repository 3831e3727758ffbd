"""`python -m tlrec.recommend`: the items of a catalogue that a user is most likely to like."""
