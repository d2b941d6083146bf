"""Every error that the gateway answers with: fixed words, never an exception's own text."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An error body in OpenAI's form, with its HTTP status."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.kind = kind
        self.param = param
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}

    @property
    def body(self) -> dict[str, Any]:
        """As it goes out."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def invalid_request(message: str, param: str | None = None) -> ApiError:
    """400: a body that is not what the endpoint takes."""
    return ApiError(400, "invalid_request", message, param=param)


def body_too_large(limit: int) -> ApiError:
    """413."""
    return ApiError(413, "body_too_large", f"the request body is larger than {limit} bytes")


def bad_image(param: str | None = None) -> ApiError:
    """400: not a picture, truncated, or damaged."""
    message = "an image is not a readable PNG, JPEG or WEBP file"
    return ApiError(400, "invalid_image", message, param=param)


def image_too_large(message: str, param: str | None = None) -> ApiError:
    """413: too many bytes or too many pixels."""
    return ApiError(413, "image_too_large", message, param=param)


def prompt_too_long(tokens: int, limit: int) -> ApiError:
    """400: text and images do not fit the context."""
    message = f"the conversation takes {tokens} tokens, the context holds {limit}"
    return ApiError(400, "context_length_exceeded", message, param="messages")


def unknown_model() -> ApiError:
    """404."""
    message = "this model is not served here; GET /v1/models lists what is"
    return ApiError(404, "model_not_found", message, param="model")


def queue_full(retry_after_s: int) -> ApiError:
    """429."""
    message = "too many requests are waiting; try again later"
    return ApiError(
        429, "queue_full", message, kind="rate_limit_error", retry_after_s=retry_after_s
    )


def not_ready(retry_after_s: int = 2) -> ApiError:
    """503: the model is being loaded."""
    message = "the model is not loaded yet"
    return ApiError(503, "not_ready", message, kind="server_error", retry_after_s=retry_after_s)


def engine_died() -> ApiError:
    """503: the worker ended under a request; another is being started."""
    message = "the engine stopped while answering and is being restarted; send the request again"
    return ApiError(503, "engine_restarting", message, kind="server_error", retry_after_s=2)


def engine_failed() -> ApiError:
    """500: the engine could not answer."""
    message = "the engine could not answer this request"
    return ApiError(500, "engine_error", message, kind="server_error")


def timed_out() -> ApiError:
    """504."""
    message = "the request took longer than this service allows"
    return ApiError(504, "timeout", message, kind="server_error")


def internal_error() -> ApiError:
    """500: a bug; its trace is in the log."""
    return ApiError(500, "internal_error", "internal error", kind="server_error")


_BY_STATUS = {
    404: ("not_found", "there is no such path"),
    405: ("method_not_allowed", "this path does not take that method"),
}


def http_error(status: int) -> ApiError:
    """What the framework itself refuses."""
    code, message = _BY_STATUS.get(status, ("invalid_request", "the request is not valid"))
    return ApiError(status, code, message)
