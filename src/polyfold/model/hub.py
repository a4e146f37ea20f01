"""Whether the model hub can be reached: asked once and quickly, before transformers retries for half a minute."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 3.0


def hub_options(source: str) -> dict[str, Any]:
    """Keyword arguments for `from_pretrained`: only cached files where the hub does not answer.

    A local folder needs nothing. Behind a proxy the question cannot be asked by hand, so transformers decides.
    """
    if Path(source).is_dir() or any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return {}
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), TIMEOUT_SECONDS).close()
    except OSError:
        return {"local_files_only": True}
    return {}


@contextmanager
def quietly() -> Iterator[None]:
    """transformers without its own bars and its table of weights that are not read; errors are still shown.

    Every published encoder has such weights (a pooler, a language model's head). What is missing is checked by us.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
