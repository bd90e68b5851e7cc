"""Make the credentials that stay out of git, then say what to type next.

The generated repository's own script makes them: no secret ever stands in this text, which
cookiecutter leaves behind in the temporary folder after rendering it.
"""

import json
import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path

ANSWERS = json.loads(r"""<< cookiecutter|tojson >>""")


def remove_leavings() -> None:
    """Tools that were run on the template itself leave caches in it, and those get copied too."""
    for pattern in ("__pycache__", ".*_cache"):
        for cache in list(Path().rglob(pattern)):
            shutil.rmtree(cache)


remove_leavings()
sys.argv = ["rabbitmq/provision.py"]
sys.path.insert(
    0, "rabbitmq"
)  # where its own modules are; Python adds it for who types the command
runpy.run_path(sys.argv[0], run_name="__main__")
project, here = Path.cwd(), Path(os.environ.get("PWD", os.curdir)).resolve()
request = json.dumps({"text": "hi"})
print(
    f"\nNext, with Docker:\n"
    f"  cd {shlex.quote(str(project.relative_to(here) if project.is_relative_to(here) else project))}\n"
    f"  docker compose up --build --detach --wait\n"
    f"  docker compose exec service python -m {ANSWERS['package_name']} request '{request}'"
)
