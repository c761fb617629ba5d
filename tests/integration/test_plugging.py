"""What a guest's agent asks for on the console is answered by the shell that runs QEMU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from osbuilder.guest import hotplug

# Stands in for QEMU: its guest asks on the console, and it ends once it was told to plug three times.
ASKS = """\
console=$1
say() {
  printf "$1" >> "$console"
}
read -r hello
echo "$hello"
say 'noise @osbuilder-plug pci-go'
say 'ne @osbuilder-end\\n@osbuilder-plug cpu @osbuilder-end\\n@osbuilder-plug pci @osbuilder'
read -r first
echo "$first"
read -r second
echo "$second"
say '\\n@osbuilder-plug cpu @osbuilder-end\\n@osbuilder-plug nothing @osbuilder-end\\n'
say '@osbuilder-plug pci @osbuilder-end\\n'
read -r third
echo "$third"
exit 7
"""


def test_each_request_is_answered_once_and_a_torn_one_when_it_is_whole(tmp_path: Path) -> None:
    qmp, console = tmp_path / "qmp", tmp_path / "console"
    answers = {"cpu": "a cpu", "pci": "a disk", "pci-gone": "no disk"}
    argv = hotplug.answering(("sh", "-c", ASKS, "sh", str(console)), answers, qmp=str(qmp), console=str(console))
    assert subprocess.run(argv, timeout=60, check=False).returncode == 7
    hello, *rest = qmp.read_text().splitlines()
    assert json.loads(hello) == {"execute": "qmp_capabilities"}
    assert sorted(rest[:2]) == ["a cpu", "no disk"]
    assert rest[2:] == ["a disk"]
