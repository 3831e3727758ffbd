"""AUC and the other numbers, their intervals and their files."""
