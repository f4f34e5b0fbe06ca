from __future__ import annotations

import subprocess
import sys


def test_the_producer_needs_neither_torch_nor_the_consumer() -> None:
    code = (
        "import sys, producer.produce;"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'consumer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
