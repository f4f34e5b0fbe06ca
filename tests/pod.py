"""`python -m tests.pod FLAGS...` is `embedstream pod FLAGS...` whose daemon has the hash encoder.

With POD_DAEMON_EXITS=N in the environment the daemon does nothing but tell its flags and end with N.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    from embedstream.cli import main as cli

    if sys.argv[1] == "consume":
        if "POD_DAEMON_EXITS" in os.environ:
            print(json.dumps({"event": "flags", "flags": sys.argv[2:]}), file=sys.stderr)
            sys.exit(int(os.environ["POD_DAEMON_EXITS"]))
        import consumer.model
        from tests.hash_encoder import HashEncoder

        wanted = json.loads(os.environ.get("HASH_ENCODER", "{}"))
        consumer.model.load_encoder = lambda *_: HashEncoder(**wanted)
    else:
        from embedstream.fleet import pod

        pod.CONSUME = (sys.executable, "-m", "tests.pod")
        sys.argv[1:1] = ["pod"]
    cli()


if __name__ == "__main__":
    main()
