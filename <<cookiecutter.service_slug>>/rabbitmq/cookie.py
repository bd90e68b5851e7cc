"""The cookie by which the brokers of compose.cluster.yaml know each other.

Whoever has it may do everything at them, so it is drawn here as the passwords are, and kept like the definitions:
for its owner and, by its group, for the brokers' containers. Each copies it to where Erlang wants it, with rights for
the broker alone. Without that file, nothing is drawn.
"""

from __future__ import annotations

import re
import secrets

from documents import ROOT, Broken, Document
from owners import Ids

#: Where it is, and for what.
COOKIE, OVERLAY = "rabbitmq/erlang.cookie", "compose.cluster.yaml"


def complete(owner: Ids, only_check: bool) -> bool:
    """Draw the cookie where it is missing.

    One that is there stays, whatever it is: brokers that run would refuse those that start with another.

    :param owner: to whom it is given; `owners.KEEP` for whoever runs this
    :param only_check: change nothing, only say what would change
    :returns: whether nothing was missing
    :raises Broken: what is there is no cookie
    """
    if not (ROOT / OVERLAY).exists():
        return True
    file = Document(COOKIE, 0o640)
    if file.text is None:
        if not only_check:
            file.write(secrets.token_hex(32), owner)
        print(f"{COOKIE}: {'missing' if only_check else 'made'}")
        return not only_check
    if not re.fullmatch(r"[!-~]{1,255}\s*", file.text):
        raise Broken(
            f"{COOKIE} isn't one line of 1 to 255 printable characters: {file.way_out}, while no broker runs"
        )
    print(f"{COOKIE}: kept")
    return True
