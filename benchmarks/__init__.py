"""Programs that measure speed, one for each claim; see README.md."""

import tlrec  # noqa: F401 - first: it quiets the libraries
