"""Everything that follows a run as it goes: its status file, and trackers where they are configured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from betastar.config import Config
from betastar.errors import BetastarError
from betastar.live.status import StatusFile
from betastar.progress import Reporter, Several


@contextmanager
def followed(config: Config, folder: Path, reporter: Reporter, command: str = "") -> Iterator[Reporter]:
    """A reporter that also tells the followers of the run in `folder`, which this process has locked; how the block
    ends is how the run ended. `command` continues it. Raises BetastarError where a tracker's package is missing."""
    status = StatusFile(folder, config.name, command)
    followers: list[Reporter] = [reporter, status]
    tracking = None
    try:
        if config.tracking.to:
            from betastar.live.trackers import check_installed
            from betastar.live.tracking import Tracking

            check_installed(config.tracking.to)
            tracking = Tracking(config, folder, reporter.say)
            followers.append(tracking)
        yield Several(followers)
    except Exception as error:
        kind = "" if isinstance(error, BetastarError) else f"{type(error).__name__}: "
        status.end("failed", f"{kind}{error}".split("\n")[0])
        raise
    except BaseException:
        status.end("stopped")
        raise
    else:
        status.end("finished")
    finally:
        if tracking:
            tracking.close()
