"""MLflow as a view of what ran: never read by a stage, never the truth, made again from the records at any time."""

from nas.tracking.rebuilding import rebuild as rebuild
from nas.tracking.tracker import Tracker as Tracker
