"""Runnable programs, one per claim about speed; see README.md."""

import tlrec  # noqa: F401 - first: it quiets the libraries
