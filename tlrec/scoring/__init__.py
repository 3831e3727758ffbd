"""From token ids to P(Yes): a loaded model, many records, many items for one user, a served model."""
