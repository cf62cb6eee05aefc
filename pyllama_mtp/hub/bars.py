"""How far a download is: what huggingface_hub tells its bars, for a terminal or for a caller's function."""

import sys
from typing import Any

from tqdm import tqdm

from pyllama_mtp.errors import DownloadError
from pyllama_mtp.hub.faults import CallersError
from pyllama_mtp.progress import Progress


def bar_class(name: str, size: int, limit: int | None, progress: bool | Progress) -> type[Any]:
    """The class of bars for the download of one file. size: its bytes. limit: after so many a download that does not
    end is given up.
    """
    tell = None if isinstance(progress, bool) else progress
    hidden = progress is not True or not sys.stderr.isatty()

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.bytes_done = options.get("initial") or 0
            options.pop("name", None)  # of huggingface_hub's own class
            super().__init__(*args, **options | {"desc": name, "disable": hidden})

        def update(self, n: float | None = 1) -> bool | None:
            self.bytes_done += int(n or 0)
            if limit is not None and self.bytes_done > limit:
                raise DownloadError(f"{name} has more bytes than the {limit:,} that the hub announced: not taken")
            if tell is not None:
                try:
                    tell(self.bytes_done, size, f"download of {name}")
                except Exception as error:
                    raise CallersError(error) from error
            shown: bool | None = super().update(n)
            return shown

    return Bar
