#!/usr/bin/env bash
# Set up what the tests need on a fresh machine (Python 3.11 to 3.13) and run them.
#   bash shell/test.sh [pytest arguments]
#   bash shell/test.sh -m "not slow"            # a minute and a half on two cores
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source shell/setup.sh
install_requirements tests/requirements.txt
exec env OMP_NUM_THREADS=1 "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
