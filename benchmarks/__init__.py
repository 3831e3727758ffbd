"""Runnable programs, one per claim about speed; see README.md."""
