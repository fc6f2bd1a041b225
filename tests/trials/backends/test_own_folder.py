"""Workers that share a GPU compile in folders of their own."""

import subprocess
import sys
from pathlib import Path

from trials.backends.own_folder import own_folder

CODE = """
import sys
from pathlib import Path
from trials.backends.own_folder import own_folder
print(own_folder(Path(sys.argv[1])).name, flush=True)
sys.stdin.read()
"""


def test_two_workers_have_two_folders_and_a_later_one_finds_the_first(tmp_path: Path) -> None:
    stem = tmp_path / "compiled-GPU,0"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(stem)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    names = {worker.stdout.readline().strip() for worker in workers if worker.stdout}
    for worker in workers:
        worker.communicate()
    assert names == {"compiled-GPU,0-0", "compiled-GPU,0-1"}
    assert own_folder(stem).name == "compiled-GPU,0-0"
