"""How many keys of a dict may be neither text nor bytes: of others, anybody can compute the hashes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..errors import PayloadError

#: Keys of a dict, or members of a set, that are neither text nor bytes. Python salts the hashes of
#: those two; of numbers, and of tuples of numbers, anybody can compute them, and lay keys along the
#: way that a table searches: each then passes by all others, in quadratic time and while no other
#: thread runs (a megabyte takes 25 s). With a thousand that is 5 ms.
MAX_ODD_KEYS = 1000

#: Different keys of one hash in a dict or set; by chance there are hardly ever two.
_MOST_COLLISIONS = 100


def refuse_attacks(keys: list[Any]) -> None:
    """Refuse keys that can have been chosen to make a table of them take quadratic time.

    Those of one hash are worst, as they are compared, too: multiples of 2**61 - 1 all have the hash
    0, and long tuples of one hash take long to compare. One key that is repeated is no harm.

    :raises PayloadError: too many that are neither text nor bytes, or too many of one hash
    """
    if len(keys) <= _MOST_COLLISIONS:
        return
    kinds = list(map(type, keys))
    odd = len(keys) - kinds.count(str) - kinds.count(bytes)
    if odd > MAX_ODD_KEYS:
        raise PayloadError(
            f"message has a dict or set of {odd} keys that are neither text nor bytes, where "
            f"{MAX_ODD_KEYS} are allowed: send a list"
        )
    if odd <= _MOST_COLLISIONS:
        return
    keys = [key for key in keys if type(key) is not str and type(key) is not bytes]
    hashed, count = Counter(map(hash, keys)).most_common(1)[0]
    if count > _MOST_COLLISIONS:
        different = {repr(key) for key in keys if hash(key) == hashed}
        if len(different) > _MOST_COLLISIONS:
            raise PayloadError(
                f"message has {len(different)} keys that only an attacker would choose (they have "
                "one hash in common)"
            )
