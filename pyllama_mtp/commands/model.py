"""What commands ask for a model: its files, how it is loaded, how it drafts, and how texts are sampled.

The options are those of LoadOptions and SamplingOptions, under their own names; vLLM's names stand beside them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pyllama_mtp.commands.arguments import LOADING, SAMPLING, add_options, read_loading
from pyllama_mtp.errors import InvalidRequestError, seen
from pyllama_mtp.hub import ModelFiles, find_files
from pyllama_mtp.sampling import Sampling

_NOTES = {
    "n_ctx": "default: 4096, or as trained if that is less",
    "cache_type_k_swa": "default: the same",
    "cache_type_v_swa": "default: the same",
    "n_threads": "default: one for each core that this process may use",
}
_ALIASES = {"n_ctx": ["--max-model-len"]}
METHODS = ("mtp", "ngram", "none", "auto")
CACHE_TYPES = ("cache_type_k", "cache_type_v", "cache_type_k_swa", "cache_type_v_swa")
LOADED = ("n_ctx", *CACHE_TYPES)
COMPUTED = ("n_gpu_layers", "n_threads", "n_batch")


def add_files(parser: argparse.ArgumentParser, has_target: bool = True) -> None:
    """MODEL, or -hf in its place, and what drafts. has_target: False where a command takes MODEL by itself."""
    group = parser.add_argument_group("model")
    if has_target:
        group.add_argument("target", nargs="?", metavar="MODEL", help="GGUF file")
    group.add_argument(
        "-hf",
        "--hf-repo",
        dest="hf",
        metavar="OWNER/REPO[:QUANT]",
        help="instead of MODEL: a repository of huggingface.co, downloaded once; QUANT such as Q4_0",
    )
    group.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the repository (default: main)")
    group.add_argument(
        "--mtp-head",
        metavar="HEAD",
        help="what drafts: a GGUF file that convert-assistant made, a repository OWNER/REPO of an assistant, or "
        '"auto": the one that belongs to MODEL',
    )
    group.add_argument(
        "--speculative-config",
        metavar="JSON",
        help='vLLM\'s: an object of "method" (mtp, ngram, none), "model" (HEAD) and "num_speculative_tokens"',
    )


def add_loading(parser: argparse.ArgumentParser, names: Sequence[str] = LOADED + COMPUTED) -> None:
    """Memory and threads; names: of LoadOptions."""
    group = parser.add_argument_group("memory and threads")
    add_options(group, {name: LOADING[name] for name in names}, _NOTES, _ALIASES)


def add_generation_config(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--generation-config",
        choices=["auto", "vllm"],
        default="auto",
        help="sampling that is not asked for: the model's own, or vLLM's neutral one (default: %(default)s)",
    )


def add_sampling(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """How a text is drawn. defaults: other ones than those of SamplingOptions."""
    group = parser.add_argument_group("sampling and drafting")
    notes = {field.name: "default: the model's own" for field in fields(Sampling) if field.name not in defaults}
    notes |= {} if "num_speculative_tokens" in defaults else {"num_speculative_tokens": "default: auto"}
    notes |= {} if "max_tokens" in defaults else {"max_tokens": "default: until the context is full"}
    add_options(group, SAMPLING | defaults, notes)
    add_generation_config(group)


def find_model(args: argparse.Namespace) -> ModelFiles:
    """The files that add_files() asked for; downloads what is not here. Raises InvalidRequestError, DownloadError."""
    check_named(args)
    head = asked_head(args)
    return find_files(args.target, hf=args.hf, mtp_head=head, revision=args.revision, progress=True)


def check_named(args: argparse.Namespace) -> None:
    """Raises InvalidRequestError unless one model is named."""
    if args.target is None and args.hf is None:
        raise InvalidRequestError("no model: name a GGUF file, or a repository as -hf OWNER/REPO:QUANT")
    if args.target is not None and args.hf is not None:
        raise InvalidRequestError(f"MODEL {seen(args.target)} and -hf say the same: give one of them")
    if args.revision is not None and args.hf is None:
        raise InvalidRequestError("--revision is for a repository: name that with -hf")


def asked_head(args: argparse.Namespace) -> str | None:
    """What shall draft, as a name or a path; None: nothing was said. Raises InvalidRequestError."""
    head: str | None = _speculation(args).get("model") if args.mtp_head is None else args.mtp_head
    return head


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of Model, but for files. Raises InvalidRequestError."""
    speculation = _speculation(args)
    options = read_loading(args)
    if "method" in speculation:
        options["drafter"] = speculation["method"]
    if "num_speculative_tokens" in speculation:
        options["num_speculative_tokens"] = speculation["num_speculative_tokens"]
    if getattr(args, "generation_config", "auto") == "vllm":
        options["sampling_defaults"] = "vllm"
    return options


def _speculation(args: argparse.Namespace) -> Mapping[str, Any]:
    """--speculative-config, checked as far as Model does not; what is null is not there."""
    if args.speculative_config is None:
        return {}
    try:
        given = json.loads(args.speculative_config)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"--speculative-config is no JSON: {error}") from None
    if not isinstance(given, dict) or not given.keys() <= {"method", "model", "num_speculative_tokens"}:
        raise InvalidRequestError(
            f"--speculative-config is {seen(given)}, expected an object of method, model and num_speculative_tokens"
        )
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("method", "auto") not in METHODS:
        raise InvalidRequestError(
            f'the method of --speculative-config is {seen(given["method"])}, expected "mtp", "ngram" or "none"'
        )
    if not isinstance(given.get("model", ""), str):
        raise InvalidRequestError(f"the model of --speculative-config is {seen(given['model'])}, expected a name")
    if "model" in given and args.mtp_head is not None:
        raise InvalidRequestError("--mtp-head and the model of --speculative-config say the same: give one of them")
    if "num_speculative_tokens" in given and getattr(args, "num_speculative_tokens", None) is not None:
        raise InvalidRequestError(
            "--num-speculative-tokens and that of --speculative-config say the same: give one of them"
        )
    return given
