"""The page: files that are read once, served under a policy that lets it load nothing else and run nothing inline."""

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def page_routes() -> list[Route]:
    """/ and what it loads."""
    files = {path.name: path for path in resources.files(__package__).iterdir() if path.name[-3:] != ".py"}
    contents = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    return [_route("/", "index.html", contents["index.html"])] + [
        _route(f"/page/{name}", name, content) for name, content in contents.items() if name != "index.html"
    ]


def _route(path: str, name: str, content: bytes) -> Route:
    kind = TYPES[name.rpartition(".")[2]]

    async def answer(_: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=kind)

    return Route(path, answer, methods=["GET"])
