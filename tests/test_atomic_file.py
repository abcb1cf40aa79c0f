import os
import subprocess
import sys

import pytest

from quantunet.atomic_file import partial_file, write_atomically


def test_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, b"a longer first content")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["a.json"]


def interrupted_write(path):
    with partial_file(path) as partial:
        assert (partial.suffix, partial.parent) == (path.suffix, path.parent)
        partial.write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_error_within_keeps_the_old_bytes(tmp_path):
    path = tmp_path / "a.png"
    write_atomically(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_killed_writer_leaves_the_old_or_the_new_bytes(tmp_path):
    path = tmp_path / "a.bin"
    script = (
        "import sys\nfrom pathlib import Path\nfrom quantunet.atomic_file import write_atomically\n"
        "path = Path(sys.argv[1])\nbyte = 0\n"
        "while True:\n    byte = (byte + 1) % 256\n    write_atomically(path, bytes([byte]) * 500_000)\n"
        "    print(byte, flush=True)\n"
    )
    for kill_after in (1, 2, 5, 9):
        writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(kill_after):
            writer.stdout.readline()
        writer.kill()
        writer.wait()
        writer.stdout.close()
        data = path.read_bytes()
        assert len(data) == 500_000
        assert len(set(data)) == 1


def test_an_absent_folder_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "a", b"")
