"""MLflow as a view of what ran. No stage reads it, and it can be rebuilt from the records at any time."""

from nas.tracking.rebuilding import rebuild as rebuild
from nas.tracking.tracker import Tracker as Tracker
