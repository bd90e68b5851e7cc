"""The jobs, in the order of the report."""

from __future__ import annotations

from ..job import Job
from .asynchronous import Asynchronous
from .bodies import Bodies
from .decoder import Decoder
from .drain import Drain
from .events import Events
from .growth import Growth
from .handlers import Handlers
from .metrics import Metrics
from .pace import Pace
from .profile import WhereTheTimeGoes
from .pythons import Pythons
from .recovery import Recovery
from .round_trip import RoundTrip
from .start import Start
from .template import Template
from .workers import Processes, Workers

JOBS: tuple[Job, ...] = (
    Drain(),
    WhereTheTimeGoes(),
    Pythons(),
    RoundTrip(),
    Bodies(),
    Handlers(),
    Recovery(),
    Start(),
    Decoder(),
    Template(),
    Growth(),
    Workers(),
    Processes(),
    Events(),
    Pace(),
    Asynchronous(),
    Metrics(),
)
