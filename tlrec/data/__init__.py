"""Preference records: files, titles, users, and the raw ratings they are made of."""
