"""`python -m tlrec.probe`: what a model knows beforehand of a catalogue and of rating histories."""
