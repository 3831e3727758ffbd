"""shell/quickstart.sh waits for its teacher only as long as there is one."""

import os
import subprocess

from tests.conftest import REPOSITORY


def test_a_teacher_that_dies_ends_the_quickstart(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        '[ "$2" != tlrec.demo.teacher ] || { echo "no room" >&2; exit 3; }\n'
        '[ "$2" = tlrec.demo.workspace ] || { echo "went on: $*" >&2; exit 4; }\n'
    )
    python.chmod(0o755)
    environment = {
        **os.environ,
        "PYTHON": str(python),
        "ROOT_PATH": str(tmp_path / "workspace"),
        "STAGES": "cot source",
    }
    command = ["bash", REPOSITORY / "shell" / "quickstart.sh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr == "no room\nerror: the offline teacher stopped before it was ready\n"
