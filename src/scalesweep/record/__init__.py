"""The record of a sweep, and the ranking of its trials."""

from scalesweep.record.manifest import Manifest
from scalesweep.record.ranking import Row, best, rank
from scalesweep.record.schema import Confirmation, Mark, Past, Record, Report, Sink, State, Trial
from scalesweep.record.store import RecordWriter, read_manifest, read_record

__all__ = [
    "Confirmation",
    "Manifest",
    "Mark",
    "Past",
    "Record",
    "RecordWriter",
    "Report",
    "Row",
    "Sink",
    "State",
    "Trial",
    "best",
    "rank",
    "read_manifest",
    "read_record",
]
