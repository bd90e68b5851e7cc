"""``python -m << cookiecutter.package_name >> [run | request | doctor | describe | dead | top | health]``."""

import sys

try:
    from .mq_connector.commands import main
except KeyboardInterrupt:  # pragma: no cover - Ctrl-C while it loads is an end without a traceback
    sys.exit(130)


def make_service():  # type: ignore[no-untyped-def]  # its type would load what the health check needn't
    """Make the service; imported here because the health check does without it."""
    from .service import (
        << cookiecutter.__class_name >>Service,
    )

    return << cookiecutter.__class_name >>Service()


if __name__ == "__main__":
    sys.exit(main("<< cookiecutter.__user_key >>", make_service))
