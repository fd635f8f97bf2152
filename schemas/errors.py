"""The one error tree; its first level is the policy.

    PipelineError
      SampleError        this record or medium is unusable: reject it by code, keep it, count it, go on
      TransientError     the outside failed: try again; after the last try it becomes fatal
        StorageUnavailableError, WorkerLostError
      FatalError         nothing after this can be trusted: stop, exit status 1
        ConfigError          exit status 2: what was typed or written in YAML is wrong
        CorruptError         stored bytes do not match their digest or their format
        MismatchError        two things that must agree differ: spec, recipe, manifest, checkpoint
        ConflictError        another writer committed other bytes for the same unit
        NotFoundError        something a command needs is not there
        NoSpaceError         a disk is full
        WorkError            a unit of work failed for a reason that is ours
        DivergedError        training produced a number that is not finite

Messages say what, where and the way out. Only the engine catches `SampleError`s that a unit let through,
only retries catch `TransientError`, only the command line catches `PipelineError`.
"""

from enum import StrEnum


class RejectCode(StrEnum):
    """Why a record or medium was rejected. Codes are stable: they stand in quarantine files and reports."""

    BAD_JSON = "bad_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    BAD_TYPE = "bad_type"
    BAD_ROLE = "bad_role"
    EMPTY_CONVERSATION = "empty_conversation"
    EMPTY_QUESTION = "empty_question"
    EMPTY_ANSWER = "empty_answer"
    PLACEHOLDER_WITHOUT_MEDIUM = "placeholder_without_medium"
    PLACEHOLDER_MISMATCH = "placeholder_mismatch"
    TOO_MANY_MEDIA = "too_many_media"
    UNSAFE_PATH = "unsafe_path"
    MISSING_FILE = "missing_file"
    AMBIGUOUS_FILE = "ambiguous_file"
    EMPTY_FILE = "empty_file"
    UNREADABLE_FILE = "unreadable_file"
    MEDIUM_CHANGED = "medium_changed"
    UNKNOWN_FORMAT = "unknown_format"
    WRONG_KIND = "wrong_kind"
    TRUNCATED_IMAGE = "truncated_image"
    DAMAGED_IMAGE = "damaged_image"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    EXTREME_ASPECT = "extreme_aspect"
    NO_VIDEO_STREAM = "no_video_stream"
    TRUNCATED_VIDEO = "truncated_video"
    DAMAGED_VIDEO = "damaged_video"
    VIDEO_TOO_LARGE = "video_too_large"
    DECODER_TIMEOUT = "decoder_timeout"
    DECODER_CRASH = "decoder_crash"
    DECODER_OUT_OF_MEMORY = "decoder_out_of_memory"
    DUPLICATE_RECORD = "duplicate_record"
    UNWANTED_MEDIUM = "unwanted_medium"
    NOT_FINITE = "not_finite"
    NOT_A_CAPTION = "not_a_caption"
    TOO_MANY_TOKENS = "too_many_tokens"
    NOTHING_LEARNED = "nothing_learned"
    WORKER_CRASH = "worker_crash"


class PipelineError(Exception):
    """Everything this project raises on purpose."""

    exit_status = 1


class SampleError(PipelineError):
    """One record or medium is unusable. `code` names the reason; the message says what was seen."""

    def __init__(self, code: RejectCode, message: str) -> None:
        super().__init__(f"{code.value}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["SampleError"], tuple[RejectCode, str]]:
        return type(self), (self.code, self.message)


class TransientError(PipelineError):
    """The outside failed and may recover."""


class StorageUnavailableError(TransientError):
    """A request to storage failed or timed out."""


class WorkerLostError(TransientError):
    """A worker process or machine died while it held a unit."""


class FatalError(PipelineError):
    """Nothing after this can be trusted."""


class ConfigError(FatalError):
    """What was typed, or written in a recipe or configuration, is wrong."""

    exit_status = 2


class CorruptError(FatalError):
    """Stored bytes do not match their digest or their format."""


class MismatchError(FatalError):
    """Two things that must agree differ; the message names the difference."""


class ConflictError(FatalError):
    """Another writer committed other bytes for a unit that must be deterministic."""


class NotFoundError(FatalError):
    """Something a command needs is not there."""


class NoSpaceError(FatalError):
    """A disk is full, or a quota is used up."""


class WorkError(FatalError):
    """A unit of work failed for a reason that is ours, not the data's."""


class DivergedError(FatalError):
    """Training produced a number that is not finite."""
