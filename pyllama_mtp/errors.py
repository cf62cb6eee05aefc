"""Every exception that pyllama_mtp raises on purpose: one class per failure mode.

A message says what was seen, what was expected and what to do about it.
"""

MAX_SHOWN = 300  # characters of what a file holds, in a message


def one_line(text: str) -> str:
    """Texts out of a file may hold anything: line ends and a terminal's control sequences are shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """What a file holds, for a message: in one line, and the beginning of what is long."""
    text = one_line(str(value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def seen(value: object) -> str:
    """A caller's value, for a message: its type where it has no text, such as an integer of more than 4,300 digits."""
    try:
        return shown(repr(value))
    except Exception:  # whatever a class of the caller's raises
        return f"of type {type(value).__name__}"


class PyllamaMtpError(Exception):
    """Base class of all errors of this package."""


class ModelLoadError(PyllamaMtpError):
    """A model file is missing, damaged, unsupported, or does not fit into memory."""


class IncompatibleHeadError(PyllamaMtpError):
    """The MTP head does not belong to the target: dimensions, vocabulary or architecture differ."""


class ContextOverflowError(PyllamaMtpError):
    """The prompt does not fit into the context; raised before anything is generated."""


class InvalidRequestError(PyllamaMtpError, ValueError):
    """An argument of a call is out of its legal range or of the wrong type."""


class ChatTemplateError(PyllamaMtpError):
    """The model has no chat template, or its template rejects the messages."""


class ModelClosedError(PyllamaMtpError):
    """The model was used after `close()`, or in a process that was forked after it was loaded."""


class GrammarError(PyllamaMtpError):
    """What constrains a completion failed while it was generated: a grammar grew beyond the limits of its matcher, or
    a `logits_mask` raised, whose exception is then the cause.
    """


class StreamError(PyllamaMtpError, RuntimeError):
    """A stream was read a second time, by a signal handler amid a step of its own thread, or asked for rounds that it
    did not record.
    """


class StateFileError(PyllamaMtpError):
    """A saved state cannot be written, or is none, damaged, or of another model or other cache types."""


class QueueFullError(PyllamaMtpError):
    """A completion was started while as many as `max_queue` allows wait for their turn already."""


class OutOfMemoryError(PyllamaMtpError, MemoryError):
    """Memory could not be allocated, or a thread not started. What is loaded stays usable."""


class ConversionError(PyllamaMtpError):
    """A checkpoint cannot be converted. The message is one line, whatever is in the names of its files."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class DownloadError(PyllamaMtpError):
    """A file of the hub cannot be had: no network, no such file, no access, no room, or not what was announced. The
    message is one line, whatever the hub answered.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


class BenchmarkError(PyllamaMtpError):
    """A benchmark cannot run: a package is missing, a file cannot be written, or the peer failed."""


class ServerError(PyllamaMtpError):
    """The server cannot start: its port is in use, or an option of it makes no sense."""


class NativeLibraryError(PyllamaMtpError, ImportError):
    """The native library is missing, was built for another CPU, or has another ABI version."""


class InternalError(PyllamaMtpError):
    """The engine failed in a way that is not the caller's fault; the message holds the native error."""
