"""What a process took, by the kernel's own figures."""

import torch

from alignment.memory import peak
from alignment.memory.peak import Peak

MAPPINGS = """\
7f1c00000000-7f1c00021000 r-xp 00000000 fe:00 1 /usr/lib/libtorch_cpu.so
Size:                900 kB
Rss:                 700 kB
Anonymous:           100 kB
7f1c10000000-7f1c10021000 r--p 00000000 fe:00 2 /usr/lib/libgomp.so.1
Rss:                  24 kB
7f1c20000000-7f1c20021000 r--p 00000000 fe:00 3 /models/model.safetensors
Rss:                5000 kB
7f1c30000000-7f1c30021000 rw-p 00000000 00:00 0
Rss:                8000 kB
"""


def test_pages_of_libraries_do_not_count_but_those_of_models_do(tmp_path, monkeypatch):
    status, mappings = tmp_path / "status", tmp_path / "smaps"
    for name, path in (("_STATUS", status), ("_MAPPINGS", mappings), ("_CLEAR", tmp_path / "clear_refs")):
        monkeypatch.setattr(peak, name, path)
    monkeypatch.setattr(peak, "_cuda", lambda: False)
    status.write_text("VmHWM:   90000 kB\nVmRSS:   10240 kB\n")
    mappings.write_text("")
    watched = Peak()
    status.write_text("VmHWM:   40960 kB\nVmRSS:   20000 kB\n")
    mappings.write_text(MAPPINGS)
    assert watched.mib() == round((40960 - 10240 - 724) / 1024, 1)
    status.unlink()
    assert watched.mib() is None


def test_a_tensor_counts_whole():
    if not peak._STATUS.exists():
        return
    watched = Peak()
    held = torch.ones(16, 2**20)
    assert held.sum() > 0
    del held
    found = watched.mib()
    assert found is not None and 63 <= found < 80
